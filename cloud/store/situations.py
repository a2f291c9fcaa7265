"""Devices as selection and planner see them: facts, what was decided for them, and the channels' enabled releases."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Column, Select, Text, cast, inspect
from sqlalchemy import select as select_columns
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlmodel import Session, col, select

from cloud.cohorts import Cohorts, Gathering
from cloud.fleet import DeviceSituation
from cloud.models import (
    AttemptRow,
    ComponentRow,
    DeviceRow,
    FirmwareRow,
    FloorRow,
    MembershipRow,
    OtaRow,
    ReleaseRow,
    Row,
)
from cloud.shadowing import notice_releases
from cloud.store.assigned import Assigned, DeviceIds
from cloud.store.json_texts import JsonTexts
from cloud.store.lookup import firmware_ref
from protocol.codec import structure
from protocol.down import NoticeRelease
from protocol.facts import DeviceFacts
from protocol.identity import EVERYONE
from protocol.phases import Outcome, Phase
from protocol.schedule import Terms
from protocol.selection import Assignment, Channels
from protocol.up import Availability, Pending
from protocol.values import ComponentState, Urgency

__all__ = ["NO_SUCCESS", "DeviceIds", "as_noticed", "channels_of", "floors_of", "ids_of", "situations"]
Components = Mapping[str, ComponentState]
_STREAMED: Final[Mapping[str, Any]] = {"yield_per": 10_000}
_SAID: Final = ("phase", "availability", "pending", "failed", "declined")
_NONE: Final[Mapping[str, int]] = {}
Failures = Mapping[str, Mapping[str, int]]
_NOBODY: Final[Failures] = {}
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


def situations(session: Session, product: str, ids: DeviceIds, *, many: bool = False) -> Cohorts:
    """Return a product's devices, by id, as selection and planner see them; a million of them fit into memory.

    `many` says that these are likely more than those with locks, OTAs and turns: it is faster then, else slower.
    """
    session.flush()  # rows are read below the session, which would do it by itself
    gathering = Gathering()
    assigned = Assigned(session, product, ids, many=many)
    kinds = _Kinds(gathering, floors_of(session, product), assigned, lambda: _failures(session, ids))
    plain, own = kinds.plain, assigned.own
    found = session.connection().execute(_said_by(JsonTexts.of(session), ids))
    for rows in found.partitions():
        device_ids, last_seen, texts = zip(*rows, strict=True)
        numbers = map(plain.get, texts)
        gathering.add_all(
            device_ids,
            [
                kinds.number(device_id, said) if number is None or device_id in own else number
                for device_id, said, number in zip(device_ids, texts, numbers, strict=True)
            ],
            last_seen,
        )
    return gathering.cohorts()


def _said_by(json_texts: JsonTexts, ids: DeviceIds) -> Select[Any]:
    """Return the query for devices' ids, when they were heard last, and one text that devices which are alike share."""
    device, of, groups = _columns(DeviceRow), _columns(ComponentRow), _columns(MembershipRow)
    runs = json_texts.array(
        *(of[name] for name in ("component", "version", "build", "digest", "data_schema", "requires"))
    )
    said = json_texts.array(
        *(device[name] for name in ("hardware_model", "agent_version", "online", "timezone")),
        json_texts.picked(device["state"], *_SAID),
        select_columns(json_texts.gathered(runs)).where(of["device_id"] == device["id"]).scalar_subquery(),
        select_columns(json_texts.gathered(groups["group_name"]))
        .where(groups["device_id"] == device["id"])
        .scalar_subquery(),
    )
    query = ids.with_only_columns(device["id"], device["last_seen_at_ms"], cast(said, Text), maintain_column_froms=True)
    return query.order_by(device["id"]).execution_options(**_STREAMED)


class _Kinds:
    """The kinds of devices seen so far, by what their rows say: what was said in the same words is read once."""

    def __init__(
        self,
        gathering: Gathering,
        floors: Mapping[str, int],
        assigned: Assigned,
        failures: Callable[[], Failures],
    ) -> None:
        self._gathering, self._floors, self._assigned = gathering, floors, assigned
        self._ask_failures, self._failures = failures, _NOBODY
        self.plain: dict[str, int] = {}
        """The kinds of devices that have nothing of their own, beside what their rows say."""
        self._numbers: dict[object, int] = {}
        self._components: dict[str, Components] = {}

    def number(self, device_id: str, text: str) -> int:
        """Return the number of the kind of a device whose rows say this of it."""
        *row, said, runs, groups = json.loads(text)
        words = {name: value for name, value in zip(_SAID, said or (), strict=False) if value is not None}
        assignment = self._assigned.of(device_id, groups or ())
        failed = self._failed(device_id) if words.get("failed") else _NONE
        key = (text, id(assignment), *failed.items())
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self._gathering.kind(self._device(row, words, runs or (), assignment, failed))
        if not words.get("failed") and device_id not in self._assigned.own:
            self.plain[text] = number
        return number

    def _failed(self, device_id: str) -> Mapping[str, int]:
        """Return which digests failed on a device; the database is asked for all of them when there is one."""
        if self._failures is _NOBODY:
            self._failures = self._ask_failures()
        return self._failures.get(device_id, _NONE)

    def _device(
        self,
        row: Sequence[Any],
        words: Mapping[str, Any],
        runs: Sequence[Sequence[Any]],
        assignment: Assignment,
        failed: Mapping[str, int],
    ) -> DeviceSituation:
        model, agent_version, online, timezone = row
        facts = DeviceFacts(
            device_id="",
            hardware_model=model,
            agent_version=agent_version,
            components=self._running(runs),
            failed={digest: failed.get(digest, 0) for digest in words.get("failed", ())},
            floors=self._floors,
            declined=frozenset(words.get("declined", ())),
        )
        return DeviceSituation(
            facts=facts,
            assignment=assignment,
            online=bool(online),
            phase=Phase(words.get("phase", Phase.IDLE)),
            availability=structure(words.get("availability", {}), Availability),
            pending=tuple(structure(item, Pending) for item in words.get("pending", ())),
            timezone=timezone,
        )

    def _running(self, runs: Sequence[Sequence[Any]]) -> Components:
        """Return what a device runs; equal states are one object."""
        key = json.dumps(sorted(runs, key=lambda it: str(it[0])))
        if key not in self._components:
            self._components[key] = {
                component: ComponentState(
                    component=component,
                    version=version,
                    build=build,
                    digest=digest,
                    requires=json.loads(requires) if isinstance(requires, str) else requires,
                    data_schema=data_schema,
                )
                for component, version, build, digest, data_schema, requires in json.loads(key)
            }
        return self._components[key]


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


def floors_of(session: Session, product: str) -> dict[str, int]:
    """Return a product's floors by component."""
    rows = session.exec(select(FloorRow).where(col(FloorRow.product) == product).order_by(col(FloorRow.component)))
    return {row.component: row.minimum_seq for row in rows}


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
