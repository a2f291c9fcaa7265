"""The first schema: products, groups, firmware, devices, releases, pins, OTAs, journals, audit, tokens, outbox."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Byte by byte, as SQLite sorts: an order that a new version of a locale changes breaks indexes.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Make every table."""
    _catalog()
    _devices()
    _decisions()
    _journal()
    _records()


def downgrade() -> None:
    """Drop every table."""
    for table in reversed(TABLES):
        op.drop_table(table)


def _catalog() -> None:
    op.create_table(
        "product",
        _text("id"),
        _json("hardware_models"),
        _flag("ota_enabled"),
        _big("created_at_ms"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "floor",
        _text("product"),
        _text("component"),
        _big("minimum_seq"),
        sa.PrimaryKeyConstraint("product", "component"),
        sa.ForeignKeyConstraint(["product"], ["product.id"]),
    )
    op.create_table(
        "device_group",
        _text("product"),
        _text("name"),
        _small("rank"),
        _big("created_at_ms"),
        sa.PrimaryKeyConstraint("product", "name"),
        sa.ForeignKeyConstraint(["product"], ["product.id"]),
    )
    op.create_table(
        "firmware",
        _row_number(),
        _text("product"),
        _text("component"),
        _text("version"),
        _big("build"),
        _big("seq"),
        _text("digest"),
        _big("size_bytes"),
        _json("hardware_models"),
        _json("requires"),
        _text("notes"),
        _big("data_schema"),
        _json("blobs"),
        _json("signer_keyids"),
        _big("added_at_ms"),
        _big("published_at_ms", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["product"], ["product.id"]),
        sa.UniqueConstraint("product", "component", "version"),
    )


def _devices() -> None:
    op.create_table(
        "device",
        _text("id"),
        _text("product"),
        _text("hardware_model"),
        _text("agent_version"),
        _json("attributes"),
        _json("encodings"),
        _big("root_version"),
        _flag("online"),
        _big("session"),
        _big("state_seq"),
        _json("state", nullable=True),
        _flag("has_pending"),
        _big("last_seen_at_ms", nullable=True),
        _big("registered_at_ms"),
        _text("journal_id", nullable=True),
        _big("journal_next"),
        _big("ack_through"),
        _big("desired_seq"),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["product"], ["product.id"]),
    )
    op.create_index(None, "device", ["product", "id"])
    op.create_index(None, "device", ["product", "online"])
    op.create_table(
        "membership",
        _text("device_id"),
        _text("group_name"),
        _text("product"),
        sa.PrimaryKeyConstraint("device_id", "group_name"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.ForeignKeyConstraint(["product", "group_name"], ["device_group.product", "device_group.name"]),
    )
    op.create_index(None, "membership", ["product", "group_name"])
    op.create_table(
        "device_component",
        _text("device_id"),
        _text("component"),
        _text("version"),
        _big("build"),
        _text("digest"),
        sa.PrimaryKeyConstraint("device_id", "component"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
    )
    op.create_index(None, "device_component", ["component", "version"])


def _decisions() -> None:
    op.create_table(
        "channel",
        _text("product"),
        _text("group_name"),
        _text("component"),
        _big("notice_seq"),
        _big("notice_issued_at_ms"),
        sa.PrimaryKeyConstraint("product", "group_name", "component"),
        sa.ForeignKeyConstraint(["product"], ["product.id"]),
    )
    op.create_table(
        "release",
        _text("id"),
        _text("product"),
        _text("group_name"),
        _text("component"),
        _small("label"),
        _big("decision"),
        _big("firmware_id"),
        _small("percentage"),
        _flag("mandatory"),
        _flag("forced"),
        _text("urgency"),
        _text("target_range"),
        _text("description"),
        _flag("enabled"),
        _small("references_label", nullable=True),
        _text("promoted_from", nullable=True),
        _big("created_at_ms"),
        _text("created_by"),
        _big("disabled_at_ms", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["firmware_id"], ["firmware.id"]),
        sa.ForeignKeyConstraint(
            ["product", "group_name", "component"], ["channel.product", "channel.group_name", "channel.component"]
        ),
        sa.ForeignKeyConstraint(["promoted_from"], ["release.id"]),
        sa.UniqueConstraint("decision"),
        sa.UniqueConstraint("product", "group_name", "component", "label"),
    )
    op.create_table(
        "pin",
        _text("device_id"),
        _text("component"),
        _big("firmware_id"),
        _big("pinned_at_ms"),
        _text("pinned_by"),
        sa.PrimaryKeyConstraint("device_id", "component"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.ForeignKeyConstraint(["firmware_id"], ["firmware.id"]),
    )
    op.create_table(
        "ota",
        _text("id"),
        _text("device_id"),
        _text("component"),
        _big("firmware_id"),
        _big("decision"),
        _text("urgency"),
        _flag("forced"),
        _text("status"),
        _flag("in_force"),
        _text("reason", nullable=True),
        _text("detail"),
        _big("created_at_ms"),
        _text("created_by"),
        _big("closed_at_ms", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.ForeignKeyConstraint(["firmware_id"], ["firmware.id"]),
        sa.UniqueConstraint("decision"),
    )
    op.create_index(None, "ota", ["device_id", "in_force"])


def _journal() -> None:
    op.create_table(
        "attempt",
        _row_number(),
        _text("device_id"),
        _text("journal_id"),
        _text("attempt_id"),
        _text("source_id"),
        _text("via"),
        _text("component"),
        _text("version"),
        _text("digest"),
        _text("from_version", nullable=True),
        _text("from_digest", nullable=True),
        _text("phase"),
        _flag("downloaded"),
        _text("outcome", nullable=True),
        _text("reason", nullable=True),
        _text("detail"),
        _text("booted_digest", nullable=True),
        _big("fetched_bytes"),
        _flag("forced"),
        _big("started_at_ms"),
        _big("ended_at_ms", nullable=True),
        _big("ended_seq", nullable=True),
        _big("taken_back_at_ms", nullable=True),
        _text("contradicted_by", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
        sa.UniqueConstraint("device_id", "journal_id", "attempt_id"),
    )
    op.create_index(None, "attempt", ["device_id", "component", "outcome"])
    op.create_index(None, "attempt", ["source_id", "outcome"])
    op.create_table(
        "journal_entry",
        _text("device_id"),
        _text("journal_id"),
        _big("seq"),
        _big("at_ms"),
        _big("received_at_ms"),
        _big("attempt", nullable=True),
        _json("body"),
        sa.PrimaryKeyConstraint("device_id", "journal_id", "seq"),
        sa.ForeignKeyConstraint(["attempt"], ["attempt.id"]),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
    )
    op.create_index(None, "journal_entry", ["attempt"])


def _records() -> None:
    op.create_table(
        "audit",
        _row_number("number", autoincrement=False),
        _big("at_ms"),
        _text("actor"),
        _text("action"),
        _text("subject"),
        _text("before"),
        _text("after"),
        _text("prev_hash"),
        _text("hash"),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index(None, "audit", ["subject"])
    op.create_table(
        "token",
        _text("name"),
        _text("sha256"),
        _big("created_at_ms"),
        _text("created_by"),
        _big("revoked_at_ms", nullable=True),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_table(
        "outbox",
        _text("kind"),
        _text("key"),
        _big("revision"),
        sa.PrimaryKeyConstraint("kind", "key"),
    )
    op.create_index(None, "outbox", ["revision"])
    op.create_table(
        "counter",
        _text("name"),
        _big("value"),
        sa.PrimaryKeyConstraint("name"),
    )


TABLES = (
    "product",
    "floor",
    "device_group",
    "firmware",
    "device",
    "membership",
    "device_component",
    "channel",
    "release",
    "pin",
    "ota",
    "attempt",
    "journal_entry",
    "audit",
    "token",
    "outbox",
    "counter",
)


def _text(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=nullable)


def _small(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=nullable)


def _big(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _flag(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def _json(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON(), nullable=nullable)


def _row_number(name: str = "id", *, autoincrement: bool = True) -> sa.Column[Any]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, autoincrement=autoincrement, nullable=False)
