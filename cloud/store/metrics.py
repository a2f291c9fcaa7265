"""What became of releases, derived by query from the devices' journals: never a counter, so never lost or doubled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import ColumnElement, and_, case, func, or_, true
from sqlalchemy import select as select_columns
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from cloud.models import AttemptRow, ComponentRow, DeviceRow, FirmwareRow, GroupRow, MembershipRow, ReleaseRow
from cloud.store.channels import channel_key, in_channel
from cloud.store.engine import Database
from cloud.store.lookup import release_row
from cloud.store.situations import ids_of
from cloud.values import ChannelKey, ReleaseMetrics, RunningView
from protocol.identity import EVERYONE
from protocol.manifest import ANY_HARDWARE
from protocol.phases import Outcome, Reason


class Metrics:
    """Metrics of releases and of the fleet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def release(self, release_id: str) -> ReleaseMetrics:
        """Return one release's metrics; NotFoundError."""
        with self._database.reading() as session:
            row = release_row(session, release_id)
            return _metrics(session, row, _group_devices(session, channel_key(row)))

    def channel(self, channel: ChannelKey) -> Mapping[str, ReleaseMetrics]:
        """Return the metrics of a channel's releases by release id."""
        with self._database.reading() as session:
            devices = _group_devices(session, channel)
            rows = session.exec(select(ReleaseRow).where(*in_channel(channel))).all()
            return {row.id: _metrics(session, row, devices) for row in rows}

    def versions(self, product: str, component: str) -> Mapping[str, int]:
        """Return how many devices report each version of a component."""
        query = (
            select(ComponentRow.version, func.count())
            .join(DeviceRow, col(DeviceRow.id) == col(ComponentRow.device_id))
            .where(col(DeviceRow.product) == product, col(ComponentRow.component) == component)
            .group_by(col(ComponentRow.version))
        )
        with self._database.reading() as session:
            return dict(session.exec(query).all())

    def running(self, product: str) -> tuple[RunningView, ...]:
        """Return how many devices run which image, by component and version."""
        query = select_columns(col(ComponentRow.component), col(ComponentRow.version), col(ComponentRow.digest))
        counted = (
            query.add_columns(func.count())
            .where(col(ComponentRow.device_id).in_(ids_of(product)))
            .group_by(col(ComponentRow.component), col(ComponentRow.version), col(ComponentRow.digest))
            .order_by(col(ComponentRow.component), col(ComponentRow.version), col(ComponentRow.digest))
        )
        with self._database.reading() as session:
            return tuple(
                RunningView(component=component, version=version, digest=digest, devices=devices)
                for component, version, digest, devices in session.execute(counted)
            )

    def online(self) -> Mapping[str, tuple[int, int]]:
        """Return per product (devices online, devices)."""
        query = select(DeviceRow.product, DeviceRow.online, func.count()).group_by(
            col(DeviceRow.product), col(DeviceRow.online)
        )
        found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        with self._database.reading() as session:
            for product, online, count in session.exec(query):
                there, devices = found[product]
                found[product] = there + (count if online else 0), devices + count
        return dict(found)


def _group_devices(session: Session, channel: ChannelKey) -> int:
    devices = ids_of(channel.product, group=channel.group).subquery()
    return session.exec(select(func.count()).select_from(devices)).one()


def _metrics(session: Session, release: ReleaseRow, group_devices: int) -> ReleaseMetrics:
    # A journal that its device lost tells no more: what it was in the middle of is not under way for ever.
    lost = and_(col(AttemptRow.outcome).is_(None), col(AttemptRow.journal_id) != col(DeviceRow.journal_id))
    kinds = (
        case((lost, "lost"), else_=col(AttemptRow.outcome)),
        col(AttemptRow.reason),
        col(AttemptRow.taken_back_at_ms).is_not(None),
    )
    query = (
        select_columns(*kinds, func.count(), func.sum(case((col(AttemptRow.downloaded), 1), else_=0)))
        .join(DeviceRow, col(DeviceRow.id) == col(AttemptRow.device_id))
        .where(col(AttemptRow.source_id) == release.id)
        .group_by(*kinds)
    )
    attempts = downloads = 0
    ended: dict[str | None, dict[tuple[str | None, bool], int]] = defaultdict(lambda: defaultdict(int))
    for outcome, reason, taken_back, count, downloaded in session.execute(query):
        attempts, downloads = attempts + count, downloads + int(downloaded or 0)
        ended[outcome][reason, bool(taken_back)] += count
    active = _active(session, release)
    return ReleaseMetrics(
        release_id=release.id,
        group_devices=group_devices,
        attempts=attempts,
        under_way=sum(ended[None].values()),
        downloads=downloads,
        installs=sum(count for (_, back), count in ended[Outcome.SUCCEEDED].items() if not back),
        taken_back=sum(count for (_, back), count in ended[Outcome.SUCCEEDED].items() if back),
        active=active,
        active_percent=round(100 * active / group_devices, 1) if group_devices else 0.0,
        rollbacks=_by_reason(ended[Outcome.ROLLED_BACK]),
        failures=_by_reason(ended[Outcome.FAILED]),
        cancellations=_by_reason(ended[Outcome.CANCELLED]),
    )


def _by_reason(counts: Mapping[tuple[str | None, bool], int]) -> dict[Reason, int]:
    found: dict[Reason, int] = defaultdict(int)
    for (reason, _), count in sorted(counts.items(), key=lambda item: str(item[0])):
        if reason is not None:
            found[Reason(reason)] += count
    return dict(found)


def _active(session: Session, release: ReleaseRow) -> int:
    """Count the devices of the release's group that are active on it, by the definition in `ReleaseMetrics`."""
    digest = session.get_one(FirmwareRow, release.firmware_id).digest
    newer = aliased(AttemptRow)
    overtaken = (
        select(newer.id)
        .where(
            col(newer.device_id) == col(AttemptRow.device_id),
            col(newer.component) == col(AttemptRow.component),
            col(newer.outcome) == Outcome.SUCCEEDED.value,
            col(newer.taken_back_at_ms).is_(None),
            col(newer.id) > col(AttemptRow.id),
        )
        .exists()
    )
    query = (
        select(func.count(func.distinct(col(AttemptRow.device_id))))
        .join(
            ComponentRow,
            (col(ComponentRow.device_id) == col(AttemptRow.device_id))
            & (col(ComponentRow.component) == col(AttemptRow.component)),
        )
        .join(DeviceRow, col(DeviceRow.id) == col(AttemptRow.device_id))
        .where(
            col(DeviceRow.product) == release.product,
            _in_group(release.product, release.group_name),
            col(ComponentRow.component) == release.component,
            col(ComponentRow.digest) == digest,
            col(AttemptRow.digest) == digest,
            col(AttemptRow.outcome) == Outcome.SUCCEEDED.value,
            col(AttemptRow.taken_back_at_ms).is_(None),
            ~overtaken,
            _counts_here(session, release, digest),
        )
    )
    return session.exec(query).one()


def _counts_here(session: Session, release: ReleaseRow, digest: str) -> ColumnElement[bool]:
    """Return the condition for a device that has the release's image to be active on this release and no other."""
    query = (
        select(ReleaseRow, FirmwareRow)
        .join(FirmwareRow, col(FirmwareRow.id) == col(ReleaseRow.firmware_id))
        .join(
            GroupRow,
            (col(GroupRow.product) == col(ReleaseRow.product)) & (col(GroupRow.name) == col(ReleaseRow.group_name)),
        )
        .where(
            col(ReleaseRow.product) == release.product,
            col(ReleaseRow.component) == release.component,
            col(ReleaseRow.enabled).is_(True),
            col(FirmwareRow.digest) == digest,
        )
        .order_by(col(GroupRow.rank), col(ReleaseRow.label).desc())
    )
    reached = {row.id: (row.group_name, tuple(firmware.hardware_models)) for row, firmware in session.exec(query)}

    def of_none(releases: Iterable[tuple[str, tuple[str, ...]]]) -> list[ColumnElement[bool]]:
        return [~_reaches(release.product, *one) for one in dict.fromkeys(releases)]

    newest_success = and_(col(AttemptRow.source_id) == release.id, *of_none(reached.values()))
    if release.id not in reached:
        return newest_success
    decides_before = list(reached.values())[: list(reached).index(release.id)]
    first = and_(_reaches(release.product, *reached[release.id]), *of_none(decides_before))
    return or_(first, newest_success)


def _reaches(product: str, group: str, hardware_models: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition for a release to apply to a device that runs its image.

    Its percentage and range do not count for those (rule 3 of `protocol.selection`).
    """
    every_model = ANY_HARDWARE in hardware_models
    admitted = true() if every_model else col(DeviceRow.hardware_model).in_(hardware_models)
    return and_(_in_group(product, group), admitted)


def _in_group(product: str, group: str) -> ColumnElement[bool]:
    if group == EVERYONE:
        return true()
    members = select(MembershipRow.device_id).where(
        col(MembershipRow.product) == product, col(MembershipRow.group_name) == group
    )
    return col(DeviceRow.id).in_(members)
