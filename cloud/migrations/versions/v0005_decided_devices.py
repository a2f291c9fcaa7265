"""Which devices each decision for many was about, so that a device's timeline tells them."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Byte by byte, as SQLite sorts: an order that a new version of a locale changes breaks indexes.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_AT_ONCE = 100
"""Rows of the audit that are read at a time."""


def upgrade() -> None:
    """Make the table; what was decided before is told from the audit, which has named the devices until now."""
    op.create_table(
        "decided_device",
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("device_id", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("number", "device_id"),
    )
    op.create_index(None, "decided_device", ["device_id", "number"])
    number = 0
    while rows := op.get_bind().execute(_DECISIONS.where(_AUDIT.c.number > number)).all():
        decided = [
            {"number": row.number, "device_id": device_id}
            for row in rows
            for device_id in sorted(_named(json.loads(row.before)) | _named(json.loads(row.after)))
        ]
        if decided:
            op.bulk_insert(_DECIDED, decided)
        number = rows[-1].number


def downgrade() -> None:
    """Drop it: what was decided stays in the audit."""
    op.drop_table("decided_device")


def _named(said: Mapping[str, Any] | None) -> set[str]:
    devices = (said or {}).get("devices")
    return {it for it in devices if isinstance(it, str)} if isinstance(devices, list) else set()


_AUDIT = sa.table(
    "audit", sa.column("number", sa.BigInteger()), *(sa.column(name, _TEXT) for name in ("action", "before", "after"))
)
_DECIDED = sa.table("decided_device", sa.column("number", sa.BigInteger()), sa.column("device_id", _TEXT))
_DECISIONS = (
    sa.select(_AUDIT.c.number, _AUDIT.c.before, _AUDIT.c.after)
    .where(
        _AUDIT.c.action.in_(
            (
                *("group.added", "group.removed", "group.deleted"),
                *("devices.pinned", "devices.unpinned", "devices.ota_created", "devices.revoked"),
            )
        )
    )
    .order_by(_AUDIT.c.number)
    .limit(_AT_ONCE)
)
