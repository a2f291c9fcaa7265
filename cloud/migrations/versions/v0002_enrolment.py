"""Enrolment: tokens, the devices' certificates, and devices that are revoked."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Byte by byte, as SQLite sorts: an order that a new version of a locale changes breaks indexes.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables, and the device's new column."""
    op.add_column("device", _big("revoked_at_ms", nullable=True))
    op.create_table(
        "enrolment_token",
        _text("name"),
        _text("sha256"),
        _text("product"),
        _text("hardware_model", nullable=True),
        _text("device_id", nullable=True),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.Column("max_uses", sa.Integer(), nullable=False),
        _big("expires_at_ms"),
        _big("created_at_ms"),
        _text("created_by"),
        _big("revoked_at_ms", nullable=True),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("sha256"),
        sa.ForeignKeyConstraint(["product"], ["product.id"]),
    )
    op.create_index(None, "enrolment_token", ["device_id"])
    op.create_table(
        "certificate",
        _text("serial"),
        _text("device_id"),
        _text("authority"),
        _text("key_sha256"),
        _text("pem"),
        _text("token", nullable=True),
        _big("not_before_ms"),
        _big("not_after_ms"),
        _big("issued_at_ms"),
        _big("superseded_at_ms", nullable=True),
        _big("revoked_at_ms", nullable=True),
        sa.PrimaryKeyConstraint("serial"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.ForeignKeyConstraint(["token"], ["enrolment_token.name"]),
    )
    for column in ("device_id", "key_sha256", "revoked_at_ms"):
        op.create_index(None, "certificate", [column])


def downgrade() -> None:
    """Drop them; what devices are known by is forgotten."""
    op.drop_table("certificate")
    op.drop_table("enrolment_token")
    op.drop_column("device", "revoked_at_ms")


def _text(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=nullable)


def _big(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)
