"""Releases without a plan, steered by hand: paused, resumed, and tried again by the devices that failed.

The terms of the release say it, so its notice does: one transaction with the event, the audit and the outbox.
"""

from __future__ import annotations

from typing import Any, Final

from cloud.models import ReleaseRow
from cloud.rollout_models import RolloutRow
from cloud.store.audit import audit
from cloud.store.channels import changed, channel_key, release_views
from cloud.store.engine import Change, Database
from cloud.store.errors import ConflictError
from cloud.store.events import note
from cloud.store.lookup import release_row
from cloud.values import ReleaseView

_NOTHING: Final = "nothing was changed"


class Unplanned:
    """What an operator may say to a release without a plan; ConflictError for one that is disabled, or has a plan."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pause(self, release_id: str, *, by: str, why: str = "") -> ReleaseView:
        """Have nobody further take it; who is before the restart with it lets it be. ConflictError if it is paused."""
        with self._database.changing() as change:
            row = _steerable(change, release_id)
            if row.terms.get("paused", False):
                raise ConflictError(f"{_name(row)}: it is paused already; {_NOTHING}")
            return _steer(change, row, by, "paused", {"paused": True}, why=why or f"paused by {by}")

    def resume(self, release_id: str, *, by: str) -> ReleaseView:
        """Go on where it was. ConflictError if it is not paused."""
        with self._database.changing() as change:
            row = _steerable(change, release_id)
            if not row.terms.get("paused", False):
                raise ConflictError(f"{_name(row)}: it is not paused, and only what is can be resumed; {_NOTHING}")
            return _steer(change, row, by, "resumed", {"paused": False})

    def retry(self, release_id: str, *, by: str) -> ReleaseView:
        """Have the devices that failed so far try once more."""
        with self._database.changing() as change:
            row = _steerable(change, release_id)
            return _steer(change, row, by, "retried", {"retried_at": change.next_number("decision")})


def _steerable(change: Change, release_id: str) -> ReleaseRow:
    row = release_row(change.session, release_id)
    if change.session.get(RolloutRow, release_id) is not None:
        raise ConflictError(f"{_name(row)} goes by a plan, which says when it is paused; {_NOTHING}")
    if not row.enabled:
        raise ConflictError(f"{_name(row)} is disabled, so nobody takes it; enable it first; {_NOTHING}")
    return row


def _steer(
    change: Change, row: ReleaseRow, by: str, what: str, terms: dict[str, bool | int], **data: Any
) -> ReleaseView:
    before = {name: row.terms.get(name, type(value)()) for name, value in terms.items()}
    row.terms = row.terms | terms
    change.session.add(row)
    subject = f"release/{row.id}"
    note(change, f"rollout.{what}", subject, row.product, by=by, label=row.label, **data)
    audit(change, by, f"rollout.{what}", subject, before=before, after=terms | data)
    changed(change, channel_key(row))
    return release_views(change.session, [row], change.now_ms)[0]


def _name(row: ReleaseRow) -> str:
    return f"v{row.label} of {channel_key(row)}"
