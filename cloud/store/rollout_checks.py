"""What plans stand against: patches, promotions and deletions that go around what guards a release."""

from __future__ import annotations

from sqlmodel import Session, col, select

from cloud.guard.evidence import OPEN, Status
from cloud.models import ReleaseRow
from cloud.rollout_models import RolloutRow
from cloud.store.channels import channel_key
from cloud.store.errors import ConflictError
from cloud.store.rollouts import policy_of, standing_of
from cloud.values import ReleasePatch


def check_plan(session: Session, release: ReleaseRow, patch: ReleasePatch) -> None:
    """Raise ConflictError for a patch that the release's plan stands against."""
    row = session.get(RolloutRow, release.id)
    if row is None:
        return
    name, standing = f"v{release.label} of {channel_key(release)}", standing_of(row)
    if patch.enabled and not release.enabled:
        what = {
            Status.AWAITING_APPROVAL: "waits for approval: have somebody else approve it",
            Status.STOPPED_BY_GATE: "was rolled back by a gate: resume it if it is to go on",
        }.get(standing.status, "was aborted with its plan: release it again")
        raise ConflictError(f"{name} {what}; nothing was changed")
    if patch.percentage is not None and (standing.is_open or standing.status is Status.OVERTAKEN):
        raise ConflictError(
            f"{name} goes by a plan, which sets its percentage; nothing was changed. `release rollout` tells where it "
            "stands, `release advance` opens the next phase at once, and `release abort` ends it"
        )


def check_promotable(session: Session, release: ReleaseRow) -> None:
    """Raise ConflictError for a release that is stopped: who releases it further has to let it go on first."""
    row = session.get(RolloutRow, release.id)
    name, why = f"v{release.label} of {channel_key(release)}", ""
    if row is None:
        why = "is paused" if release.terms.get("paused", False) else ""
    else:
        standing = standing_of(row)
        was_given_up = standing.status is Status.ABORTED and not standing.ran_its_course
        if standing.status in (Status.STOPPED_BY_GATE, Status.PAUSED) or was_given_up:
            why = f"is {standing.status.value.replace('_', ' ')} ({standing.why})"
    if why:
        raise ConflictError(
            f"{name} {why}, so it is not promoted; nothing was changed. Resume it if it is good, or release its "
            "firmware to that group by a plan of its own"
        )


def check_no_plan_needs(session: Session, product: str, group: str) -> None:
    """Raise ConflictError while a plan that may go on is for a group, or begins with it."""
    query = (
        select(RolloutRow, ReleaseRow)
        .join(ReleaseRow, col(ReleaseRow.id) == col(RolloutRow.release_id))
        .where(col(ReleaseRow.product) == product, col(RolloutRow.status).in_([it.value for it in OPEN]))
    )
    for row, release in session.exec(query):
        name = f"v{release.label} of {channel_key(release)}"
        if release.group_name == group:
            why = f"{name} is {row.status.replace('_', ' ')}"
        elif any(phase.group == group for phase in policy_of(row).phases):
            why = f"a phase of {name} is for its devices"
        else:
            continue
        raise ConflictError(f"group {group} cannot be deleted: {why}. Abort that first; nothing was changed")
