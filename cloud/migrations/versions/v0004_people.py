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
    _make_lists()


def downgrade() -> None:
    """Drop them; every token is an administrator's again, so those of others are revoked."""
    op.execute(
        "UPDATE token SET revoked_at_ms = created_at_ms WHERE revoked_at_ms IS NULL AND "
        "(role <> 'admin' OR product <> '*' OR person NOT IN "
        "(SELECT person FROM person_grant WHERE product = '*' AND role = 'admin'))"
    )
    op.drop_table("fleet_sample")
    _drop_lists()
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


def _make_lists() -> None:
    """Make what lists of devices are filtered by; what devices said last is read for it."""
    op.add_column("device", _big("held_until_ms", nullable=True))
    op.create_table(
        "device_attribute",
        *(_text(name) for name in ("device_id", "name", "value")),
        sa.PrimaryKeyConstraint("device_id", "name"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
    )
    op.drop_index("ix_device_component_component_version", "device_component")
    for (table, name), columns in _LISTS.items():
        op.create_index(name, table, list(columns))
    after = ""
    while rows := op.get_bind().execute(_SAID.where(_DEVICE.c.id > after)).all():
        attributes = [
            {"device_id": device_id, "name": name, "value": value}
            for device_id, of, _ in rows
            for name, value in (of or {}).items()
        ]
        held = {device_id: _held_until_ms((state or {}).get("availability", {})) for device_id, _, state in rows}
        if attributes:
            op.bulk_insert(_ATTRIBUTE, attributes)
        for device_id, until_ms in held.items():
            if until_ms is not None:
                op.execute(_DEVICE.update().where(_DEVICE.c.id == device_id).values(held_until_ms=until_ms))
        after = rows[-1].id


def _drop_lists() -> None:
    for table, name in _LISTS:
        op.drop_index(name, table)
    op.create_index("ix_device_component_component_version", "device_component", ["component", "version"])
    op.drop_table("device_attribute")
    op.drop_column("device", "held_until_ms")


def _held_until_ms(said: Mapping[str, Any]) -> int | None:
    """Return what `cloud.holding.held_until_ms` says of an availability as it is stored."""
    ends = [hold.get("expires_at_ms") or _MAX_INTEGER for hold in said.get("holds", ())]
    if not said.get("enabled", True):
        ends.append(said.get("disabled_until_ms") or _MAX_INTEGER)
    return max(ends, default=None)


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

_MAX_INTEGER = 2**53 - 1
_DEVICE = sa.table(
    "device",
    sa.column("id", sa.String()),
    sa.column("attributes", sa.JSON()),
    sa.column("state", sa.JSON()),
    sa.column("held_until_ms", sa.BigInteger()),
)
_ATTRIBUTE = sa.table("device_attribute", *(sa.column(name, sa.String()) for name in ("device_id", "name", "value")))
_SAID = sa.select(_DEVICE.c.id, _DEVICE.c.attributes, _DEVICE.c.state).order_by(_DEVICE.c.id).limit(1000)
_LISTS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("device", "ix_device_listed"): (
        *("id", "product", "online", "has_pending", "hardware_model", "held_until_ms", "revoked_at_ms"),
    ),
    ("device_attribute", "ix_device_attribute_name_value_device_id"): ("name", "value", "device_id"),
    ("device_component", "ix_device_component_component_version_device_id"): ("component", "version", "device_id"),
    ("device_component", "ix_device_component_version_device_id"): ("version", "device_id"),
    ("membership", "ix_membership_group_name_device_id"): ("group_name", "device_id"),
    ("attempt", "ix_attempt_outcome_reason_device_id_component"): ("outcome", "reason", "device_id", "component"),
}
