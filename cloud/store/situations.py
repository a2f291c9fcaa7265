"""Devices as selection and planner see them: facts, what was decided for them, and the channels' enabled releases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from cloud.fleet import DeviceSituation
from cloud.models import (
    AttemptRow,
    ComponentRow,
    DeviceRow,
    FirmwareRow,
    FloorRow,
    GroupRow,
    MembershipRow,
    OtaRow,
    PinRow,
    ProductRow,
    ReleaseRow,
)
from cloud.rollout_models import RedundancyMemberRow, TurnRow
from cloud.shadowing import notice_releases
from cloud.store.lookup import firmware_ref
from protocol.codec import structure
from protocol.down import NoticeRelease, Ota
from protocol.facts import DeviceFacts
from protocol.identity import EVERYONE
from protocol.phases import Outcome, Phase
from protocol.schedule import Terms
from protocol.selection import Assignment, Channels
from protocol.up import Availability, Pending
from protocol.values import ComponentState, FirmwareRef, Urgency

DeviceIds = SelectOfScalar[str]
"""A query for the ids of devices, which the queries about these devices contain."""

NO_SUCCESS: Final = (Outcome.FAILED.value, Outcome.ROLLED_BACK.value)


def ids_of(product: str, *, group: str | None = None, device_ids: Sequence[str] | None = None) -> DeviceIds:
    """Return the query for a product's devices, for those of one group, or for the ones named."""
    query = select(DeviceRow.id).where(col(DeviceRow.product) == product)
    if group is not None and group != EVERYONE:
        members = select(MembershipRow.device_id).where(
            col(MembershipRow.product) == product, col(MembershipRow.group_name) == group
        )
        query = query.where(col(DeviceRow.id).in_(members))
    if device_ids is not None:
        query = query.where(col(DeviceRow.id).in_(device_ids))
    return query


def situations(session: Session, product: str, ids: DeviceIds) -> tuple[DeviceSituation, ...]:
    """Return a product's devices, by id, as selection and planner see them."""
    floors = floors_of(session, product)
    components, failures = _components(session, ids), _failures(session, ids)
    assigned = assignments(session, product, ids)
    query = (
        select_columns(
            col(DeviceRow.id),
            col(DeviceRow.hardware_model),
            col(DeviceRow.agent_version),
            col(DeviceRow.online),
            col(DeviceRow.state),
            col(DeviceRow.timezone),
            col(DeviceRow.last_seen_at_ms),
        )
        .where(col(DeviceRow.id).in_(ids))
        .order_by(col(DeviceRow.id))
    )
    found = []
    for device_id, model, agent_version, online, state, timezone, last_seen_at_ms in session.execute(query):
        said: dict[str, Any] = state or {}
        failed = {digest: failures.get((device_id, digest), 0) for digest in said.get("failed", ())}
        facts = DeviceFacts(
            device_id=device_id,
            hardware_model=model,
            agent_version=agent_version,
            components=components.get(device_id, {}),
            failed=failed,
            floors=floors,
            declined=frozenset(said.get("declined", ())),
        )
        found.append(
            DeviceSituation(
                facts=facts,
                assignment=assigned[device_id],
                online=online,
                phase=Phase(said.get("phase", Phase.IDLE)),
                availability=structure(said["availability"], Availability) if said else Availability(),
                pending=tuple(structure(item, Pending) for item in said.get("pending", ())),
                timezone=timezone,
                last_seen_at_ms=last_seen_at_ms,
            )
        )
    return tuple(found)


def channels_of(session: Session, product: str, groups: Sequence[str] | None = None) -> Channels:
    """Return the enabled releases of a product's channels (of some groups'), as their notices carry them."""
    query = (
        select(ReleaseRow, FirmwareRow)
        .join(FirmwareRow, col(FirmwareRow.id) == col(ReleaseRow.firmware_id))
        .where(col(ReleaseRow.product) == product, col(ReleaseRow.enabled).is_(True))
    )
    if groups is not None:
        query = query.where(col(ReleaseRow.group_name).in_(groups))
    channels: dict[tuple[str, str], list[NoticeRelease]] = defaultdict(list)
    for release, firmware in session.exec(query):
        channels[release.group_name, release.component].append(as_noticed(release, firmware))
    return {key: notice_releases(releases) for key, releases in channels.items()}


def as_noticed(release: ReleaseRow, firmware: FirmwareRow) -> NoticeRelease:
    """Return a release as a notice carries it."""
    return NoticeRelease(
        release_id=release.id,
        label=release.label,
        order=release.decision,
        firmware=firmware_ref(firmware),
        percentage=release.percentage,
        mandatory=release.mandatory,
        forced=release.forced,
        urgency=Urgency(release.urgency),
        target_range=release.target_range,
        description=release.description,
        references=release.references_label,
        terms=structure(release.terms, Terms),
    )


def assignments(session: Session, product: str, ids: DeviceIds) -> dict[str, Assignment]:
    """Return what was decided for each of these devices."""
    row = session.get(ProductRow, product)
    ota_enabled, base_only = row is not None and row.ota_enabled, row is not None and row.base_only
    takers = set(session.exec(select(RedundancyMemberRow.device_id).where(col(RedundancyMemberRow.device_id).in_(ids))))
    held = select(TurnRow).where(col(TurnRow.device_id).in_(ids), col(TurnRow.taken_away).is_(False))
    turns = {it.device_id: it.attempt_id for it in session.exec(held)}
    refs: dict[int, FirmwareRef] = {}
    groups: dict[str, list[str]] = defaultdict(list)
    pins: dict[str, list[FirmwareRef]] = defaultdict(list)
    memberships = (
        select(MembershipRow.device_id, MembershipRow.group_name)
        .join(
            GroupRow,
            (col(GroupRow.product) == col(MembershipRow.product))
            & (col(GroupRow.name) == col(MembershipRow.group_name)),
        )
        .where(col(MembershipRow.device_id).in_(ids))
        .order_by(col(GroupRow.rank), col(GroupRow.name))
    )
    for device_id, group in session.exec(memberships):
        groups[device_id].append(group)
    for pin in session.exec(select(PinRow).where(col(PinRow.device_id).in_(ids)).order_by(col(PinRow.component))):
        pins[pin.device_id].append(_ref(session, refs, pin.firmware_id))
    otas = _otas(session, ids, refs)
    return {
        device_id: Assignment(
            groups=(*groups[device_id], EVERYONE),
            pins=tuple(pins[device_id]),
            otas=tuple(otas.get(device_id, ())),
            ota_enabled=ota_enabled,
            base_only=base_only,
            takes_turns=device_id in takers,
            turn=turns.get(device_id, ""),
        )
        for device_id in session.exec(ids)
    }


def floors_of(session: Session, product: str) -> dict[str, int]:
    """Return a product's floors by component."""
    rows = session.exec(select(FloorRow).where(col(FloorRow.product) == product).order_by(col(FloorRow.component)))
    return {row.component: row.minimum_seq for row in rows}


def _components(session: Session, ids: DeviceIds) -> dict[str, dict[str, ComponentState]]:
    query = select_columns(
        col(ComponentRow.device_id),
        col(ComponentRow.component),
        col(ComponentRow.version),
        col(ComponentRow.build),
        col(ComponentRow.digest),
        col(ComponentRow.requires),
        col(ComponentRow.data_schema),
    ).where(col(ComponentRow.device_id).in_(ids))
    found: dict[str, dict[str, ComponentState]] = defaultdict(dict)
    for device_id, component, version, build, digest, requires, data_schema in session.execute(query):
        state = ComponentState(
            component=component,
            version=version,
            build=build,
            digest=digest,
            requires=requires,
            data_schema=data_schema,
        )
        found[device_id][component] = state
    return found


def _failures(session: Session, ids: DeviceIds) -> dict[tuple[str, str], int]:
    """Return (device, digest) to the newest decision that led to a failure there."""
    found: dict[tuple[str, str], int] = {}
    for source in (ReleaseRow, OtaRow):
        query = (
            select(AttemptRow.device_id, AttemptRow.digest, source.decision, AttemptRow.tried_order)
            .join(source, col(source.id) == col(AttemptRow.source_id))
            .where(col(AttemptRow.device_id).in_(ids), col(AttemptRow.outcome).in_(NO_SUCCESS))
        )
        for device_id, digest, number, tried_order in session.exec(query):
            found[device_id, digest] = max(number, tried_order, found.get((device_id, digest), 0))
    return found


def _otas(session: Session, ids: DeviceIds, refs: dict[int, FirmwareRef]) -> dict[str, list[Ota]]:
    query = (
        select(OtaRow)
        .where(col(OtaRow.device_id).in_(ids), col(OtaRow.in_force).is_(True))
        .order_by(col(OtaRow.decision).desc())
    )
    found: dict[str, list[Ota]] = defaultdict(list)
    for row in session.exec(query):
        found[row.device_id].append(
            Ota(
                ota_id=row.id,
                order=row.decision,
                firmware=_ref(session, refs, row.firmware_id),
                urgency=Urgency(row.urgency),
                forced=row.forced,
            )
        )
    return found


def _ref(session: Session, refs: dict[int, FirmwareRef], firmware_id: int) -> FirmwareRef:
    if firmware_id not in refs:
        refs[firmware_id] = firmware_ref(session.get_one(FirmwareRow, firmware_id))
    return refs[firmware_id]
