"""People with roles, tokens that belong to them, console sessions, where a decision came from, the fleet over time."""

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Byte by byte, as SQLite sorts: an order that a new version of a locale changes breaks indexes.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables; whoever had a token becomes an administrator of that name, as they were before."""
    _make_people()
    for name, column in _TOKEN_COLUMNS.items():
        op.add_column("token", column(name))
    op.add_column("audit", _text("origin", nullable=True))
    names = "SELECT name, NULL, created_at_ms, created_by, revoked_at_ms FROM token"
    op.execute(f"INSERT INTO person (name, password, created_at_ms, created_by, disabled_at_ms) {names}")
    granted = "SELECT name, '*', 'admin', created_at_ms, created_by FROM token"
    op.execute(f"INSERT INTO person_grant (person, product, role, granted_at_ms, granted_by) {granted}")
    op.execute("UPDATE token SET person = name")
    op.create_table(
        "fleet_sample",
        *(_text(name) for name in ("product", "component", "version")),
        _big("at_ms"),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("online", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("product", "component", "version", "at_ms"),
        sa.ForeignKeyConstraint(["product"], ["product.id"]),
    )
    op.create_index(None, "fleet_sample", ["at_ms"])


def downgrade() -> None:
    """Drop them; every token is an administrator's again, so those of others are revoked."""
    op.execute(
        "UPDATE token SET revoked_at_ms = created_at_ms WHERE revoked_at_ms IS NULL AND "
        "(role <> 'admin' OR product <> '*' OR person NOT IN "
        "(SELECT person FROM person_grant WHERE product = '*' AND role = 'admin'))"
    )
    op.drop_table("fleet_sample")
    op.drop_column("audit", "origin")
    for name in _TOKEN_COLUMNS:
        op.drop_column("token", name)
    for table in ("login_code", "console_session", "person_grant", "person"):
        op.drop_table(table)


def _make_people() -> None:
    op.create_table(
        "person",
        _text("name"),
        _text("password", nullable=True),
        _big("created_at_ms"),
        _text("created_by"),
        _big("disabled_at_ms", nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "person_grant",
        *(_text(name) for name in ("person", "product", "role")),
        _big("granted_at_ms"),
        _text("granted_by"),
        sa.PrimaryKeyConstraint("person", "product"),
        sa.ForeignKeyConstraint(["person"], ["person.name"]),
    )
    op.create_table(
        "console_session",
        *(_text(name) for name in ("sha256", "person", "csrf", "address")),
        *(_big(name) for name in ("created_at_ms", "seen_at_ms", "expires_at_ms")),
        sa.PrimaryKeyConstraint("sha256"),
        sa.ForeignKeyConstraint(["person"], ["person.name"]),
    )
    op.create_index(None, "console_session", ["person"])
    op.create_table(
        "login_code",
        *(_text(name) for name in ("sha256", "person")),
        _big("expires_at_ms"),
        sa.PrimaryKeyConstraint("sha256"),
        sa.ForeignKeyConstraint(["person"], ["person.name"]),
    )


def _text(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=nullable, server_default=default)


def _big(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


_TOKEN_COLUMNS: Mapping[str, Callable[[str], sa.Column[Any]]] = {
    "person": lambda name: _text(name, default=""),
    "role": lambda name: _text(name, default="admin"),
    "product": lambda name: _text(name, default="*"),
    "expires_at_ms": lambda name: _big(name, nullable=True),
    "used_at_ms": lambda name: _big(name, nullable=True),
}
