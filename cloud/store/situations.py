"""Devices as selection and planner see them: facts, what was decided for them, and the channels' enabled releases."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Column, Text, cast, inspect
from sqlalchemy import select as select_columns
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from cloud.cohorts import Cohorts, Gathering
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
    Row,
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

Components = Mapping[str, ComponentState]
_STREAMED: Final[Mapping[str, Any]] = {"yield_per": 10_000}
_SAID: Final = ("phase", "availability", "pending", "failed", "declined")
_NONE: Final[Mapping[str, int]] = {}
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


def situations(session: Session, product: str, ids: DeviceIds) -> Cohorts:
    """Return a product's devices, by id, as selection and planner see them; a million of them fit into memory."""
    session.flush()  # rows are read below the session, which would do it by itself
    gathering = Gathering()
    kinds, failures = _Kinds(gathering, floors_of(session, product)), _failures(session, ids)
    states, assigned = _States(session, ids), _Assigned(session, product, ids)
    device, said = _columns(DeviceRow), _columns(DeviceRow)["state"]
    query = (
        select_columns(
            *(
                device[name]
                for name in ("id", "last_seen_at_ms", "hardware_model", "agent_version", "online", "timezone")
            ),
            *(cast(said[name], Text) for name in _SAID),
        )
        .where(device["id"].in_(ids))
        .order_by(device["id"])
        .execution_options(**_STREAMED)
    )
    for device_id, last_seen_at_ms, *row in session.connection().execute(query):
        failed = failures.get(device_id, _NONE)
        number = kinds.number(row, states.of(device_id), assigned.of(device_id), failed)
        gathering.add(device_id, number, last_seen_at_ms)
    return gathering.cohorts()


class _Kinds:
    """The kinds of devices seen so far, by what their rows say: what was said in the same words is read once."""

    def __init__(self, gathering: Gathering, floors: Mapping[str, int]) -> None:
        self._gathering, self._floors = gathering, floors
        self._numbers: dict[object, int] = {}

    def number(
        self, row: Sequence[Any], components: Components, assignment: Assignment, failures: Mapping[str, int]
    ) -> int:
        """Return the number of the kind of a device whose row says this of it."""
        key = (*row, id(components), id(assignment), *failures.items())
        number = self._numbers.get(key)
        if number is None:
            model, agent_version, online, timezone, *texts = row
            words = {name: json.loads(text) for name, text in zip(_SAID, texts, strict=True) if text is not None}
            said = {name: value for name, value in words.items() if value is not None}
            facts = DeviceFacts(
                device_id="",
                hardware_model=model,
                agent_version=agent_version,
                components=components,
                failed={digest: failures.get(digest, 0) for digest in said.get("failed", ())},
                floors=self._floors,
                declined=frozenset(said.get("declined", ())),
            )
            device = DeviceSituation(
                facts=facts,
                assignment=assignment,
                online=online,
                phase=Phase(said.get("phase", Phase.IDLE)),
                availability=structure(said.get("availability", {}), Availability),
                pending=tuple(structure(item, Pending) for item in said.get("pending", ())),
                timezone=timezone,
            )
            number = self._numbers[key] = self._gathering.kind(device)
        return number


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
    session.flush()
    assigned = _Assigned(session, product, ids)
    return {device_id: assigned.of(device_id) for device_id in session.exec(ids.order_by(col(DeviceRow.id))).all()}


class _Assigned:
    """What was decided for devices, who are asked about by id, ascending; equal decisions are one object."""

    def __init__(self, session: Session, product: str, ids: DeviceIds) -> None:
        row = session.get(ProductRow, product)
        self._ota_enabled, self._base_only = row is not None and row.ota_enabled, row is not None and row.base_only
        takers = select(RedundancyMemberRow.device_id).where(col(RedundancyMemberRow.device_id).in_(ids))
        turns = select(TurnRow).where(col(TurnRow.device_id).in_(ids), col(TurnRow.taken_away).is_(False))
        self._takers = set(session.exec(takers))
        self._turns = {it.device_id: it.attempt_id for it in session.exec(turns)}
        refs: dict[int, FirmwareRef] = {}
        self._pins: dict[str, list[FirmwareRef]] = defaultdict(list)
        for pin in session.exec(select(PinRow).where(col(PinRow.device_id).in_(ids)).order_by(col(PinRow.component))):
            self._pins[pin.device_id].append(_ref(session, refs, pin.firmware_id))
        self._otas = _otas(session, ids, refs)
        ranks = select(GroupRow.name, GroupRow.rank).where(col(GroupRow.product) == product)
        self._ranks = {name: (rank, name) for name, rank in session.exec(ranks)}
        of = _columns(MembershipRow)
        memberships = (
            select_columns(of["device_id"], of["group_name"])
            .where(of["device_id"].in_(ids))  # not of the product, too: for one device all of its members were read
            .order_by(of["device_id"])
            .execution_options(**_STREAMED)
        )
        self._groups = _Merged(session.connection().execute(memberships))
        self._known: dict[object, Assignment] = {}

    def of(self, device_id: str) -> Assignment:
        """Return what was decided for a device."""
        groups = tuple(row[1] for row in self._groups.of(device_id))
        if len(groups) > 1:
            groups = tuple(sorted(groups, key=self._ranks.__getitem__))
        pins, otas = self._pins.get(device_id), self._otas.get(device_id)
        takes_turns, turn = device_id in self._takers, self._turns.get(device_id, "")
        key = device_id if pins or otas else (groups, takes_turns, turn)
        if key not in self._known:
            self._known[key] = Assignment(
                groups=(*groups, EVERYONE),
                pins=tuple(pins or ()),
                otas=tuple(otas or ()),
                ota_enabled=self._ota_enabled,
                base_only=self._base_only,
                takes_turns=takes_turns,
                turn=turn,
            )
        return self._known[key]


class _Merged:
    """Rows by their first column, which is a device's id, ascending; asked for by the same ids in the same order."""

    def __init__(self, rows: Iterable[Sequence[Any]]) -> None:
        self._rows = iter(rows)
        self._next: Sequence[Any] | None = next(self._rows, None)

    def of(self, device_id: str) -> list[Sequence[Any]]:
        """Return the rows of a device."""
        found = []
        while self._next is not None and self._next[0] == device_id:
            found.append(self._next)
            self._next = next(self._rows, None)
        return found


def floors_of(session: Session, product: str) -> dict[str, int]:
    """Return a product's floors by component."""
    rows = session.exec(select(FloorRow).where(col(FloorRow.product) == product).order_by(col(FloorRow.component)))
    return {row.component: row.minimum_seq for row in rows}


class _States:
    """What devices run, who are asked about by id, ascending; equal states are one object."""

    def __init__(self, session: Session, ids: DeviceIds) -> None:
        of = _columns(ComponentRow)
        query = (
            select_columns(
                *(of[name] for name in ("device_id", "component", "version", "build", "digest", "data_schema")),
                cast(of["requires"], Text),
            )
            .where(of["device_id"].in_(ids))
            .order_by(of["device_id"])
            .execution_options(**_STREAMED)
        )
        self._rows = _Merged(session.connection().execute(query))
        self._known: dict[object, Components] = {}

    def of(self, device_id: str) -> Components:
        """Return what a device runs."""
        rows = self._rows.of(device_id)
        key = tuple(row[1:] for row in rows)
        if key not in self._known:
            self._known[key] = {
                component: ComponentState(
                    component=component,
                    version=version,
                    build=build,
                    digest=digest,
                    requires=json.loads(requires),
                    data_schema=data_schema,
                )
                for component, version, build, digest, data_schema, requires in key
            }
        return self._known[key]


def _failures(session: Session, ids: DeviceIds) -> dict[str, dict[str, int]]:
    """Return device to digest to the newest decision that led to a failure there."""
    found: dict[str, dict[str, int]] = {}
    for source in (ReleaseRow, OtaRow):
        query = (
            select(AttemptRow.device_id, AttemptRow.digest, source.decision, AttemptRow.tried_order)
            .join(source, col(source.id) == col(AttemptRow.source_id))
            .where(col(AttemptRow.device_id).in_(ids), col(AttemptRow.outcome).in_(NO_SUCCESS))
        )
        for device_id, digest, number, tried_order in session.exec(query):
            of = found.setdefault(device_id, {})
            of[digest] = max(number, tried_order, of.get(digest, 0))
    return found


def _columns(row: type[Row]) -> ReadOnlyColumnCollection[str, Column[Any]]:
    """Return a table's columns: rows of them come without the cost of objects."""
    columns: ReadOnlyColumnCollection[str, Column[Any]] = inspect(row).local_table.columns
    return columns


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
