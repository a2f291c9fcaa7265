"""Rows of rollouts by plan: how each stands, what devices say of their health, and whose turn it is."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column
from sqlmodel import Field

from cloud.models import Row


class HealthRow(Row, table=True):
    """How a device's application last said it does, since it was started first from this digest."""

    __tablename__ = "device_health"
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    component: str = Field(primary_key=True)
    digest: str
    crashes: int = Field(default=0, sa_type=BigInteger)
    gauges: dict[str, int] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    reported_at_ms: int = Field(sa_type=BigInteger)


class RolloutRow(Row, table=True):
    """How a release goes to its group by a plan: the policy that was set, and where it stands (`cloud.guard`).

    A release without one is at once for whom its percentage covers. `revision` rises with each change: who decides on
    an older one decides again.
    """

    __tablename__ = "rollout"
    release_id: str = Field(primary_key=True, foreign_key="release.id")
    policy: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    status: str = Field(index=True)
    phase: int = 0
    phase_began_at_ms: int = Field(default=0, sa_type=BigInteger)
    paused_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    why: str = ""
    approved_by: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    plan_hash: str = ""
    memory: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    revision: int = Field(default=0, sa_type=BigInteger)
    updated_at_ms: int = Field(sa_type=BigInteger)


class RedundancySetRow(Row, table=True):
    """Devices of which never two are unconfirmed at once."""

    __tablename__ = "redundancy_set"
    name: str = Field(primary_key=True)
    created_at_ms: int = Field(sa_type=BigInteger)
    created_by: str


class RedundancyMemberRow(Row, table=True):
    """A device in a redundancy set; `joined_amid` is the attempt that was under way when it came in."""

    __tablename__ = "redundancy_member"
    set_name: str = Field(primary_key=True, foreign_key="redundancy_set.name")
    device_id: str = Field(primary_key=True, foreign_key="device.id", index=True)
    joined_amid: str = ""


class TurnRow(Row, table=True):
    """The attempt with which a device has its turn in all its redundancy sets, until it has ended.

    One that an operator took away is remembered, so that its attempt does not count as holding.
    """

    __tablename__ = "turn"
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    attempt_id: str
    granted_at_ms: int = Field(sa_type=BigInteger)
    taken_away: bool = False


class TurnRequestRow(Row, table=True):
    """The attempt with which a device waits for its turn; the lowest `number` has waited longest."""

    __tablename__ = "turn_request"
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    attempt_id: str
    number: int = Field(sa_type=BigInteger)
