"""Releases: labels per channel, patches, rollback, promotion, and the notice that tells a channel's devices.

A channel's labels count up from v1 and are never given twice; Live is the highest enabled one. A notice's number rises
in the transaction that changes what it says, and what it says is computed from the rows: the same number always means
the same bytes, whoever publishes it and however often.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud.fleet import FleetView
from cloud.guard.policy import Phase, Policy
from cloud.models import ChannelRow, CounterRow, FirmwareRow, ReleaseRow
from cloud.planner import Forecast, forecast
from cloud.store.audit import audit
from cloud.store.channels import (
    changed,
    channel_key,
    check_floor,
    find_release,
    in_channel,
    notice_of,
    release_views,
)
from cloud.store.earlier import check_succeeded, rollback_draft
from cloud.store.engine import Change, Database
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.events import note
from cloud.store.flips import check_stays
from cloud.store.lookup import firmware_by_id, firmware_row, group_row, product_row, release_row
from cloud.store.preflights import HeldTo, check_undisturbed
from cloud.store.rollout_checks import check_plan, check_promotable
from cloud.store.rollouts import abort_with, start_rollout
from cloud.store.sameness import same_release
from cloud.store.situations import as_noticed, channels_of, ids_of, situations
from cloud.values import ChannelKey, ReleaseDraft, ReleasePatch, ReleaseView
from protocol.codec import to_plain
from protocol.down import Notice
from protocol.values import Urgency


class Releases:
    """Releases and channels."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        draft: ReleaseDraft,
        *,
        by: str,
        policy: Policy | None = None,
        held: HeldTo | None = None,
    ) -> ReleaseView:
        """Release a published firmware on a channel under its next label, by a plan if it has a `policy`.

        With one, percentage and terms of the draft are its. NotFoundError without such a product, group or firmware;
        ConflictError if the firmware is not published, is below the signed floor, devices would go to and fro with it,
        or the channel has too many releases that still reach somebody; DisturbedError if something was decided
        since that of `held`.
        """
        with self._database.changing() as change:
            draft = _bound(change, draft, held)
            policy = _with_approvals(change.session, draft, policy)
            row = _create(change, draft, by, policy=policy, plan_hash=_hash_of(held))
            return release_views(change.session, [row], change.now_ms)[0]

    def same(self, draft: ReleaseDraft, policy: Policy | None = None) -> ReleaseView | None:
        """Return the release, Live or else the newest of its channel, that was decided just so; see `sameness`."""
        with self._database.reading() as session:
            firmware = _releasable(session, draft)
            row = _row(draft, firmware, label=1, decision=1)  # any will do
            found = same_release(session, row, firmware, _with_approvals(session, draft, policy))
            return release_views(session, [found], self._database.now_ms())[0] if found else None

    def forecast(self, draft: ReleaseDraft) -> Forecast:
        """Tell which devices would take this draft now, and why each other one would not; changes nothing.

        Make the draft with `release_id=new_release_id()` and create that same draft, and the forecast holds for it.
        """
        channel = draft.channel
        with self._database.reading() as session:
            firmware = _releasable(session, draft)
            row = _row(draft, firmware, label=_next_label(session, channel), decision=_last_decision(session) + 1)
            candidate = as_noticed(row, firmware)
            view = FleetView(
                product=channel.product,
                channels=channels_of(session, channel.product),
                devices=situations(session, channel.product, ids_of(channel.product, group=channel.group), many=True),
                now_ms=self._database.now_ms(),
            )
        return forecast(view, candidate, channel.group)

    def patch(self, release_id: str, patch: ReleasePatch, *, by: str, decided: int | None = None) -> ReleaseView:
        """Change a release for the devices that it has not reached yet.

        ConflictError for a percentage that falls, and for any patch of a disabled release but one that enables it;
        DisturbedError if the last decision of any kind is not the one numbered `decided`.
        """
        wanted = to_plain(patch)
        with self._database.changing() as change:
            if decided is not None:
                check_undisturbed(change.session, decided)
            row = release_row(change.session, release_id)
            _check_patch(change.session, row, patch)
            before = {name: getattr(row, name) for name, value in wanted.items() if getattr(row, name) != value}
            if before:
                if patch.enabled is False:
                    abort_with(change, row, by)
                for name in before:
                    setattr(row, name, wanted[name])
                if "enabled" in before:
                    row.disabled_at_ms = None if row.enabled else change.now_ms
                change.session.add(row)
                after = {name: wanted[name] for name in before}
                audit(change, by, "release.patched", f"release/{release_id}", before=before, after=after)
                kind = "release.disabled" if after.get("enabled") is False else "release.patched"
                note(
                    change, kind, f"release/{release_id}", row.product, **named(row), by=by, before=before, after=after
                )
                changed(change, channel_key(row))
            return release_views(change.session, [row], change.now_ms)[0]

    def rollback(
        self,
        channel: ChannelKey,
        label: int,
        *,
        by: str,
        urgency: Urgency = Urgency.GRADUAL,
        description: str = "",
        held: HeldTo | None = None,
    ) -> ReleaseView:
        """Make an earlier successful label Live again, as a new label that references it, at 100 %.

        It reaches whom that label reached, and whom later labels moved on from there. ConflictError if that label
        succeeded on no device, is Live already, or its firmware is below the floor; DisturbedError if something was
        decided since that of `held`.
        """
        with self._database.changing() as change:
            decided = rollback_draft(change.session, channel, label)
            draft = replace(decided, urgency=urgency, description=description or decided.description)
            row = _create(change, _bound(change, draft, held), by, references_label=label, plan_hash=_hash_of(held))
            return release_views(change.session, [row], change.now_ms)[0]

    def rollback_draft(self, channel: ChannelKey, label: int) -> ReleaseDraft:
        """Return what a roll-back to a label would release; ConflictError as for `rollback`."""
        with self._database.reading() as session:
            return rollback_draft(session, channel, label)

    def promote(
        self,
        release_id: str,
        to_group: str,
        *,
        by: str,
        percentage: int = 100,
        mandatory: bool | None = None,
        urgency: Urgency | None = None,
        description: str | None = None,
        held: HeldTo | None = None,
    ) -> ReleaseView:
        """Release what succeeded there to `to_group` (or to a new label of its own channel).

        The target range and, unless given, what is None here are those of the release promoted.
        ConflictError if it succeeded on no device, or was paused, stopped by its gates, or aborted on its way;
        DisturbedError if something was decided since that of `held`.
        """
        with self._database.changing() as change:
            source = release_row(change.session, release_id)
            check_succeeded(change.session, source, "promoted")
            check_promotable(change.session, source)
            channel = ChannelKey(source.product, to_group, source.component)
            draft = ReleaseDraft(
                channel=channel,
                version=firmware_by_id(change.session, source.firmware_id).version,
                percentage=percentage,
                mandatory=source.mandatory if mandatory is None else mandatory,
                urgency=urgency or Urgency(source.urgency),
                target_range=source.target_range,
                description=source.description if description is None else description,
            )
            references = source.label if channel == channel_key(source) else None
            policy = _with_approvals(change.session, draft, None)
            row = _create(
                *(change, _bound(change, draft, held), by),
                references_label=references,
                promoted_from=source.id,
                policy=policy,
                plan_hash=_hash_of(held),
            )
            return release_views(change.session, [row], change.now_ms)[0]

    def releases(
        self,
        *,
        product: str | None = None,
        group: str | None = None,
        component: str | None = None,
        enabled: bool | None = None,
    ) -> tuple[ReleaseView, ...]:
        """Return releases by channel, newest label first."""
        query = select(ReleaseRow)
        for column, value in (
            (ReleaseRow.product, product),
            (ReleaseRow.group_name, group),
            (ReleaseRow.component, component),
            (ReleaseRow.enabled, enabled),
        ):
            if value is not None:
                query = query.where(col(column) == value)
        with self._database.reading() as session:
            return release_views(session, session.exec(query).all(), self._database.now_ms())

    def release(self, release_id: str) -> ReleaseView:
        """Return one release; NotFoundError."""
        with self._database.reading() as session:
            return release_views(session, [release_row(session, release_id)], self._database.now_ms())[0]

    def find(self, channel: ChannelKey, label: int) -> ReleaseView:
        """Return a channel's release by label; NotFoundError."""
        with self._database.reading() as session:
            return release_views(session, [find_release(session, channel, label)], self._database.now_ms())[0]

    def channels(self, product: str | None = None) -> tuple[ChannelKey, ...]:
        """Return every channel that ever had a release: what has a notice."""
        query = select(ChannelRow)
        if product is not None:
            query = query.where(col(ChannelRow.product) == product)
        with self._database.reading() as session:
            return tuple(sorted(channel_key(row) for row in session.exec(query)))

    def channel_notice(self, channel: ChannelKey) -> Notice:
        """Return the channel's notice, to be signed; the same bytes for the same `seq`. NotFoundError."""
        with self._database.reading() as session:
            row = session.get(ChannelRow, (channel.product, channel.group, channel.component))
            if row is None:
                raise NotFoundError(f"channel {channel} never had a release, so it has no notice")
            return notice_of(session, row)


def new_release_id() -> str:
    """Return an unused release id."""
    return f"rel-{secrets.token_hex(6)}"


# Making a release


def _create(
    change: Change,
    draft: ReleaseDraft,
    by: str,
    *,
    references_label: int | None = None,
    promoted_from: str | None = None,
    policy: Policy | None = None,
    plan_hash: str = "",
) -> ReleaseRow:
    session, channel = change.session, draft.channel
    firmware = _releasable(session, draft)
    if draft.release_id is not None and session.get(ReleaseRow, draft.release_id) is not None:
        raise ConflictError(f"release {draft.release_id} exists already; nothing was changed")
    if session.get(ChannelRow, (channel.product, channel.group, channel.component)) is None:
        session.add(ChannelRow(product=channel.product, group_name=channel.group, component=channel.component))
        session.flush()
    row = _row(draft, firmware, label=_next_label(session, channel), decision=change.next_number("decision"))
    if references_label is None:  # what brings a version back is a brake, and never refused for this
        check_stays(session, channel, as_noticed(row, firmware), change.now_ms)
    row.references_label, row.promoted_from = references_label, promoted_from
    row.created_at_ms, row.created_by = change.now_ms, by
    session.add(row)
    session.flush()
    if policy is not None:
        start_rollout(change, row, policy, plan_hash)
    after = {"channel": str(channel), "label": row.label, **to_plain(as_noticed(row, firmware))}
    after |= {"plan_hash": plan_hash} if plan_hash else {}
    audit(change, by, "release.created", f"release/{row.id}", after=after)
    note(
        *(change, "release.created", f"release/{row.id}", row.product),
        **named(row),
        by=by,
        version=firmware.version,
        percentage=row.percentage,
    )
    changed(change, channel)
    return row


def _bound(change: Change, draft: ReleaseDraft, held: HeldTo | None) -> ReleaseDraft:
    """Return the draft with the id that its plan has; raises DisturbedError."""
    if held is None:
        return draft
    check_undisturbed(change.session, held.decided)
    return replace(draft, release_id=held.release_id)


def _hash_of(held: HeldTo | None) -> str:
    return held.plan_hash if held else ""


def named(row: ReleaseRow) -> dict[str, Any]:
    """Return what events name a release by."""
    return {"channel": str(channel_key(row)), "label": row.label}


def _with_approvals(session: Session, draft: ReleaseDraft, policy: Policy | None) -> Policy | None:
    """Return the plan with the approvals that the product asks for; of a plain release that needs some, one phase."""
    approvals = product_row(session, draft.channel.product).approvals
    if policy is None and approvals:
        policy = Policy(phases=(Phase(percentage=draft.percentage),), terms=draft.terms)
    return policy and replace(policy, approvals=max(policy.approvals, approvals))


def _releasable(session: Session, draft: ReleaseDraft) -> FirmwareRow:
    channel = draft.channel
    group_row(session, channel.product, channel.group)
    firmware = firmware_row(session, channel.product, channel.component, draft.version)
    what = f"{firmware.component} {firmware.version}"
    if firmware.published_at_ms is None:
        raise ConflictError(f"firmware {what} is not published: its image cannot be served yet; nothing was released")
    check_floor(session, firmware)
    return firmware


def _row(draft: ReleaseDraft, firmware: FirmwareRow, *, label: int, decision: int) -> ReleaseRow:
    return ReleaseRow(
        id=draft.release_id or new_release_id(),
        product=draft.channel.product,
        group_name=draft.channel.group,
        component=draft.channel.component,
        label=label,
        decision=decision,
        firmware_id=firmware.id or 0,
        percentage=draft.percentage,
        mandatory=draft.mandatory,
        forced=draft.forced,
        urgency=draft.urgency.value,
        target_range=draft.target_range,
        description=draft.description,
        terms=to_plain(draft.terms),
        created_at_ms=0,
        created_by="",
    )


def _next_label(session: Session, channel: ChannelKey) -> int:
    highest = select(func.max(ReleaseRow.label)).where(*in_channel(channel))
    return (session.exec(highest).one() or 0) + 1


def _last_decision(session: Session) -> int:
    row = session.get(CounterRow, "decision")
    return row.value if row else 0


# Changing one


def _check_patch(session: Session, row: ReleaseRow, patch: ReleasePatch) -> None:
    name, nothing = f"v{row.label} of {channel_key(row)}", "nothing was changed"
    check_plan(session, row, patch)
    if not row.enabled and patch.enabled is not True and patch != ReleasePatch(enabled=False):
        raise ConflictError(f"{name} is disabled; enable it first; {nothing}")
    if patch.percentage is not None and patch.percentage < row.percentage:
        raise ConflictError(
            f"{name} is at {row.percentage} %, and a percentage only rises (a device that was covered keeps its "
            f"release); disable it instead; {nothing}"
        )
    if patch.enabled and not row.enabled:
        group_row(session, row.product, row.group_name)
        check_floor(session, firmware_by_id(session, row.firmware_id))
