"""What devices are found by: what waits on them and why, what they refused, how their certificates stand."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Byte by byte, as SQLite sorts: an order that a new version of a locale changes breaks indexes.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_REFUSED, _TAKEN_BACK = "ix_device_refused", "ix_attempt_taken_back"
_PRESENT = "ix_certificate_present"


def upgrade() -> None:
    """Make the table, the column and the indexes; what devices said last is read for them."""
    op.create_table(
        "device_pending",
        _text("device_id"),
        sa.Column("place", sa.Integer(), nullable=False),
        *(_text(name) for name in ("component", "version", "why", "detail")),
        sa.Column("decided_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("device_id", "place"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
    )
    op.create_index(None, "device_pending", ["why", "device_id", "decided_at_ms"])
    op.add_column("device", sa.Column("has_refused", sa.Boolean(), nullable=False, server_default=sa.false()))
    _index(_REFUSED, "device", ["id"], "has_refused IS 1", "has_refused IS true")
    _index(_TAKEN_BACK, "attempt", ["device_id"], "taken_back_at_ms IS NOT NULL")
    _index(_PRESENT, "certificate", ["device_id", "not_after_ms", "revoked_at_ms"], "superseded_at_ms IS NULL")
    decided: Mapping[str, int] = {}
    after = ""
    while rows := op.get_bind().execute(_SAID.where(_DEVICE.c.id > after)).all():
        states = {device_id: state or {} for device_id, state in rows}
        decided = decided or _decided()
        pending = [
            {
                "device_id": device_id,
                "place": place,
                **{name: it.get(name) or "" for name in ("component", "version", "why", "detail")},
                "decided_at_ms": decided.get(it.get("source_id", "")),
            }
            for device_id, state in states.items()
            for place, it in enumerate(state.get("pending", ()))
        ]
        if pending:
            op.bulk_insert(_PENDING, pending)
        refused = [device_id for device_id, state in states.items() if state.get("refused")]
        if refused:
            op.execute(_DEVICE.update().where(_DEVICE.c.id.in_(refused)).values(has_refused=True))
        after = rows[-1].id


def downgrade() -> None:
    """Drop them: devices' states have what was read."""
    for name, table in ((_PRESENT, "certificate"), (_TAKEN_BACK, "attempt"), (_REFUSED, "device")):
        op.drop_index(name, table)
    op.drop_column("device", "has_refused")
    op.drop_table("device_pending")


def _index(name: str, table: str, columns: list[str], where: str, there: str = "") -> None:
    """Make an index of the rows of which a condition is true, as SQLite and as PostgreSQL write it."""
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(there or where))


def _decided() -> dict[str, int]:
    found: dict[str, int] = {}
    for name in ("release", "ota"):
        table = sa.table(name, sa.column("id", _TEXT), sa.column("created_at_ms", sa.BigInteger()))
        found |= {row.id: row.created_at_ms for row in op.get_bind().execute(sa.select(table))}
    return found


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False)


_DEVICE = sa.table(
    "device", sa.column("id", _TEXT), sa.column("state", sa.JSON()), sa.column("has_refused", sa.Boolean())
)
_PENDING = sa.table(
    "device_pending",
    *(sa.column(name, _TEXT) for name in ("device_id", "component", "version", "why", "detail")),
    sa.column("place", sa.Integer()),
    sa.column("decided_at_ms", sa.BigInteger()),
)
_SAID = sa.select(_DEVICE.c.id, _DEVICE.c.state).order_by(_DEVICE.c.id).limit(1000)
