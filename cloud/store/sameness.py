"""Whether a release has been decided already, with the same content: a pipeline that runs twice releases once.

Compared is what was decided when a release was made, from its line of the audit: what an operator changed later (a
percentage that was raised, a pause) does not make it another release. Descriptions are for people and do not count.
"""

import json
from typing import Any, Final

from sqlmodel import Session, col, select

from cloud.guard.policy import Policy, plain
from cloud.models import AuditRow, FirmwareRow, ReleaseRow
from cloud.rollout_models import RolloutRow
from cloud.store.channels import channel_key, in_channel
from cloud.store.situations import as_noticed
from protocol.codec import to_plain

CREATED: Final = "release.created"
OF_EACH: Final = frozenset({"release_id", "label", "order", "description", "references"})
"""What is another with every release."""
BY_PLAN: Final = frozenset({"percentage", "terms"})
"""What a plan sets, and changes as it goes on."""


def same_release(
    session: Session, wanted: ReleaseRow, firmware: FirmwareRow, policy: Policy | None
) -> ReleaseRow | None:
    """Return the release that says what `wanted` would: the Live one of its channel, or a newest that is disabled.

    An older one does not count: to go back to it is a decision.
    """
    rows = session.exec(
        select(ReleaseRow).where(*in_channel(channel_key(wanted))).order_by(col(ReleaseRow.label).desc())
    ).all()
    live = next((row for row in rows if row.enabled), None)
    said = _said(to_plain(as_noticed(wanted, firmware)), policy)
    candidates = [live, *rows[:1]]
    return next((row for row in candidates if row is not None and _decided(session, row.id) == said), None)


def _decided(session: Session, release_id: str) -> Any:
    """Return what a release said when it was made, or None where that is not known."""
    created = select(AuditRow.after).where(AuditRow.subject == f"release/{release_id}", AuditRow.action == CREATED)
    after = session.exec(created.order_by(col(AuditRow.number))).first()
    if after is None:
        return None
    found = dict(json.loads(after))
    rollout = session.get(RolloutRow, release_id)
    noticed = {name: value for name, value in found.items() if name not in ("channel", "plan_hash")}
    return _said(noticed, None, rollout.policy if rollout else None)


def _said(noticed: dict[str, Any], policy: Policy | None, plan: Any = None) -> Any:
    plan = plain(policy) if policy is not None else plan
    left_out = OF_EACH | (BY_PLAN if plan is not None else frozenset())
    found = {name: value for name, value in noticed.items() if name not in left_out} | {"plan": plan}
    return json.loads(json.dumps(found))  # lists and tuples alike
