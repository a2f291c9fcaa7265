"""Rollouts by plan, redundancy sets, events, webhooks, and what releases and devices say more of themselves."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Byte by byte, as SQLite sorts: an order that a new version of a locale changes breaks indexes.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")

_EMPTY_OBJECT, _EMPTY_LIST = "{}", "[]"
_COLUMNS: dict[str, tuple[tuple[str, Any, Any], ...]] = {
    "product": (("base_only", sa.Boolean(), sa.false()), ("approvals", sa.Integer(), "0")),
    "device": (("timezone", _TEXT, ""), ("noted_attributes", sa.JSON(), _EMPTY_OBJECT)),
    "device_component": (("requires", sa.JSON(), _EMPTY_OBJECT), ("data_schema", sa.BigInteger(), "0")),
    "firmware": (("reads_schemas", sa.JSON(), _EMPTY_LIST),),
    "release": (("terms", sa.JSON(), _EMPTY_OBJECT),),
    "attempt": (("tried_order", sa.BigInteger(), "0"),),
}

_CLOUD_TIMES = ("begun_at_ms", "taken_at_ms", "settled_at_ms")


def upgrade() -> None:
    """Make the tables and the columns; what is there already has no plan, no query and no time zone."""
    for table, columns in _COLUMNS.items():
        for name, kind, default in columns:
            op.add_column(table, sa.Column(name, kind, nullable=False, server_default=default))
    op.add_column("device_group", _text("query", nullable=True))
    for name in _CLOUD_TIMES:
        op.add_column("attempt", _big(name, nullable=True))
    _make_health()
    _make_rollouts()
    _make_sets()
    _make_events()


def downgrade() -> None:
    """Drop them; plans and what they came to are forgotten, and their releases stay as they stand."""
    for table in (
        "delivery",
        "webhook",
        "event",
        "turn_request",
        "turn",
        "redundancy_member",
        "redundancy_set",
        "rollout",
    ):
        op.drop_table(table)
    op.drop_table("device_health")
    op.drop_column("device_group", "query")
    for name in _CLOUD_TIMES:
        op.drop_column("attempt", name)
    for table, columns in _COLUMNS.items():
        for name, _, _ in columns:
            op.drop_column(table, name)


def _make_health() -> None:
    op.create_table(
        "device_health",
        _text("device_id"),
        _text("component"),
        _text("digest"),
        _big("crashes"),
        _json("gauges"),
        _big("reported_at_ms"),
        sa.PrimaryKeyConstraint("device_id", "component"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
    )


def _make_rollouts() -> None:
    op.create_table(
        "rollout",
        _text("release_id"),
        _json("policy"),
        _text("status"),
        sa.Column("phase", sa.Integer(), nullable=False),
        _big("phase_began_at_ms"),
        _big("paused_at_ms", nullable=True),
        _text("why"),
        _json("approved_by"),
        _text("plan_hash"),
        _json("memory"),
        _big("revision"),
        _big("updated_at_ms"),
        sa.PrimaryKeyConstraint("release_id"),
        sa.ForeignKeyConstraint(["release_id"], ["release.id"]),
    )
    op.create_index(None, "rollout", ["status"])


def _make_sets() -> None:
    op.create_table(
        "redundancy_set", _text("name"), _big("created_at_ms"), _text("created_by"), sa.PrimaryKeyConstraint("name")
    )
    op.create_table(
        "redundancy_member",
        _text("set_name"),
        _text("device_id"),
        _text("joined_amid"),
        sa.PrimaryKeyConstraint("set_name", "device_id"),
        sa.ForeignKeyConstraint(["set_name"], ["redundancy_set.name"]),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
    )
    op.create_index(None, "redundancy_member", ["device_id"])
    op.create_table(
        "turn",
        _text("device_id"),
        _text("attempt_id"),
        _big("granted_at_ms"),
        sa.Column("taken_away", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("device_id"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
    )
    op.create_table(
        "turn_request",
        _text("device_id"),
        _text("attempt_id"),
        _big("number"),
        sa.PrimaryKeyConstraint("device_id"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"]),
    )


def _make_events() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "event",
        sa.Column("number", number, primary_key=True),
        _big("at_ms"),
        _text("kind"),
        _text("product"),
        _text("subject"),
        _text("source", nullable=True),
        _json("data"),
    )
    op.create_index(None, "event", ["subject", "number"])
    op.create_index(None, "event", ["source", "number"])
    op.create_table(
        "webhook",
        _text("name"),
        _text("url"),
        _text("product", nullable=True),
        _json("kinds"),
        *(sa.Column(name, sa.Boolean(), nullable=False) for name in ("allow_plain", "allow_private", "enabled")),
        _text("why_disabled"),
        _big("failing_since_ms", nullable=True),
        _big("created_at_ms"),
        _text("created_by"),
        sa.PrimaryKeyConstraint("name"),
        sa.ForeignKeyConstraint(["product"], ["product.id"]),
    )
    op.create_table(
        "delivery",
        _text("webhook"),
        _big("event"),
        sa.Column("tries", sa.Integer(), nullable=False),
        _big("due_at_ms", nullable=True),
        _big("delivered_at_ms", nullable=True),
        _text("answer"),
        sa.PrimaryKeyConstraint("webhook", "event"),
        sa.ForeignKeyConstraint(["webhook"], ["webhook.name"]),
        sa.ForeignKeyConstraint(["event"], ["event.number"]),
    )
    op.create_index(None, "delivery", ["due_at_ms"])


def _text(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=nullable)


def _big(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _json(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON(), nullable=False)
