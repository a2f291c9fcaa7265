"""The fleet in numbers, for metrics: derived by query each time, and never of a single device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Select, func
from sqlalchemy import select as select_columns
from sqlmodel import Session, col

from cloud.event_models import DeliveryRow
from cloud.models import AttemptRow, ComponentRow, DeviceRow
from cloud.rollout_models import RolloutRow
from cloud.store.engine import Database
from cloud.store.quiet import went_quiet


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetNumbers:
    """How many there are: `running` devices by (product, component, version), `attempts` by (outcome, reason), ...

    `quiet` devices by product, deliveries by webhook.
    """

    rollouts: Mapping[str, int]
    running: Mapping[tuple[str, str, str], int]
    attempts: Mapping[tuple[str, str], int]
    quiet: Mapping[str, int]
    pending: Mapping[str, int]
    given_up: Mapping[str, int]


class Overview:
    """The fleet in numbers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def numbers(self, *, quiet_after_ms: int) -> FleetNumbers:
        """Count. An attempt that has not ended has the outcome `open`; a success taken back is `taken_back`."""
        outcome, reason = col(AttemptRow.outcome), col(AttemptRow.reason)
        back = col(AttemptRow.taken_back_at_ms).is_not(None)
        by_outcome = select_columns(outcome, reason, back, func.count()).group_by(outcome, reason, back)
        by_status = select_columns(col(RolloutRow.status), func.count()).group_by(col(RolloutRow.status))
        waits, webhook = col(DeliveryRow.due_at_ms), col(DeliveryRow.webhook)
        pending = select_columns(webhook, func.count()).where(waits.is_not(None)).group_by(webhook)
        given_up = (
            select_columns(webhook, func.count())
            .where(waits.is_(None), col(DeliveryRow.delivered_at_ms).is_(None))
            .group_by(webhook)
        )
        product, component, version = col(DeviceRow.product), col(ComponentRow.component), col(ComponentRow.version)
        by_version = (
            select_columns(product, component, version, func.count())
            .join(DeviceRow, col(DeviceRow.id) == col(ComponentRow.device_id))
            .group_by(product, component, version)
        )
        with self._database.reading() as session:
            attempts: dict[tuple[str, str], int] = {}
            for said, why, is_back, count in session.execute(by_outcome):
                key = ("taken_back" if is_back else said or "open", why or "")
                attempts[key] = attempts.get(key, 0) + count
            quiet = (
                select_columns(col(DeviceRow.product), func.count())
                .where(*went_quiet(self._database.now_ms() - quiet_after_ms))
                .group_by(col(DeviceRow.product))
            )
            return FleetNumbers(
                rollouts=_pairs(session, by_status),
                running={(product, part, version): n for product, part, version, n in session.execute(by_version)},
                attempts=attempts,
                quiet=_pairs(session, quiet),
                pending=_pairs(session, pending),
                given_up=_pairs(session, given_up),
            )


def _pairs(session: Session, query: Select[str, int]) -> dict[str, int]:
    return {str(name): int(count) for name, count in session.execute(query)}
