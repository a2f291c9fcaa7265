"""What preflights stand on, and the promise that nothing was decided in between."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud.models import AuditRow, DeviceRow, EntryRow
from cloud.store.engine import Database
from cloud.store.errors import ConflictError
from cloud.store.flips import what_flips
from cloud.store.lookup import firmware_ref, firmware_row
from cloud.values import ReleaseDraft
from protocol.down import NoticeRelease
from protocol.identity import MAX_INTEGER
from protocol.values import FirmwareRef

MAX_SIGNS: Final = 50_000
"""How many of the newest signs of life are looked at."""
ABSENCE_MS: Final = 60_000
"""A gap that is an absence: devices that are there tell of what they do within less."""


@dataclass(frozen=True, slots=True)
class HeldTo:
    """The plan that a decision is held to: the id of its release, its hash, and the last decision before the look."""

    release_id: str
    plan_hash: str
    decided: int


class Preflights:
    """What a preflight asks of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def absences_ms(self, product: str) -> tuple[int, ...]:
        """Return how long devices of a product were not heard of, and then were, ascending."""
        query = (
            select(EntryRow.device_id, EntryRow.received_at_ms)
            .join(DeviceRow, col(DeviceRow.id) == col(EntryRow.device_id))
            .where(col(DeviceRow.product) == product)
            .order_by(col(EntryRow.received_at_ms).desc())
            .limit(MAX_SIGNS)
        )
        with self._database.reading() as session:
            signs = sorted(session.exec(query).all())
        gaps = (later - at for (device, at), (other, later) in pairwise(signs) if device == other)
        return tuple(sorted(gap for gap in gaps if gap > ABSENCE_MS))

    def now_ms(self) -> int:
        """Return the time by the clock that rows are stamped with."""
        return self._database.now_ms()

    def warnings(self, draft: ReleaseDraft, unpublished: FirmwareRef | None = None) -> tuple[str, ...]:
        """Return why this draft would be refused when it is made, though it can be planned."""
        channel = draft.channel
        with self._database.reading() as session:
            found = unpublished or firmware_ref(
                firmware_row(session, channel.product, channel.component, draft.version)
            )
            candidate = NoticeRelease(
                release_id=draft.release_id or "planned",
                label=MAX_INTEGER,  # newer than all that there are
                order=MAX_INTEGER,
                firmware=found,
                urgency=draft.urgency,
                target_range=draft.target_range,
                terms=draft.terms,
            )
            flips = what_flips(session, channel, candidate, self._database.now_ms())
        return (f"{flips}; this release would be refused",) if flips else ()

    def decided(self) -> int:
        """Return the number of the last decision of any kind."""
        with self._database.reading() as session:
            return _decided(session)


def _decided(session: Session) -> int:
    return session.exec(select(func.max(AuditRow.number))).one() or 0


def check_undisturbed(session: Session, decided: int) -> None:
    """Raise ConflictError if something was decided after the decision of this number."""
    if _decided(session) != decided:
        raise DisturbedError("something else was decided at this moment; nothing was changed, try again")


class DisturbedError(ConflictError):
    """Something was decided between looking and deciding."""
