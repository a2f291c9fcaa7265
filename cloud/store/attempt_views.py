"""Attempts and their steps as others see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlmodel import Session, col, select

from cloud.fleet import AttemptView, StepView
from cloud.models import AttemptRow, EntryRow, ReleaseRow
from cloud.store.channels import channel_key
from cloud.store.lookup import batches
from protocol.codec import structure
from protocol.phases import Outcome, Phase, Reason
from protocol.up import Entry
from protocol.values import Via


def attempt_views(session: Session, rows: Sequence[AttemptRow], *, with_steps: bool = False) -> tuple[AttemptView, ...]:
    """Return attempts as others see them, in the order of their rows."""
    releases: dict[str, ReleaseRow] = {}
    steps: dict[int, list[StepView]] = defaultdict(list)
    for some in batches(rows):
        sources = select(ReleaseRow).where(col(ReleaseRow.id).in_({row.source_id for row in some}))
        releases |= {release.id: release for release in session.exec(sources)}
        if with_steps:
            entries = select(EntryRow).where(col(EntryRow.attempt).in_([row.id for row in some]))
            for entry in session.exec(entries.order_by(col(EntryRow.journal_id), col(EntryRow.seq))):
                steps[entry.attempt or 0].append(_step(entry))
    return tuple(_view(row, releases.get(row.source_id), tuple(steps[row.id or 0])) for row in rows)


def _view(row: AttemptRow, release: ReleaseRow | None, steps: tuple[StepView, ...]) -> AttemptView:
    return AttemptView(
        device_id=row.device_id,
        attempt_id=row.attempt_id,
        journal_id=row.journal_id,
        source_id=row.source_id,
        via=Via(row.via),
        channel=channel_key(release) if release else None,
        label=release.label if release else None,
        component=row.component,
        version=row.version,
        digest=row.digest,
        from_version=row.from_version,
        from_digest=row.from_digest,
        phase=Phase(row.phase),
        outcome=Outcome(row.outcome) if row.outcome else None,
        succeeded=row.outcome == Outcome.SUCCEEDED and row.taken_back_at_ms is None,
        reason=Reason(row.reason) if row.reason else None,
        detail=row.detail,
        booted_digest=row.booted_digest,
        fetched_bytes=row.fetched_bytes,
        forced=row.forced,
        started_at_ms=row.started_at_ms,
        ended_at_ms=row.ended_at_ms,
        taken_back_at_ms=row.taken_back_at_ms,
        steps=steps,
    )


def _step(row: EntryRow) -> StepView:
    entry = structure(row.body, Entry)
    said = entry.attempt
    return StepView(
        seq=row.seq,
        at_ms=row.at_ms,
        received_at_ms=row.received_at_ms,
        phase=said.phase if said else Phase.IDLE,
        outcome=said.outcome if said else None,
        reason=said.reason if said else None,
        detail=said.detail if said else "",
        fetched_bytes=said.fetched_bytes if said else 0,
    )
