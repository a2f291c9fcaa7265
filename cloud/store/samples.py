"""The fleet over time: how many devices ran what, sampled, for plots. What time has made too fine is forgotten.

A sample of a product is complete: a row for its devices as such (component and version empty), and one for each
version of each component that some device ran then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, func
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from cloud.models import ComponentRow, DeviceRow
from cloud.people_models import SampleRow
from cloud.store.engine import Database
from cloud.store.lookup import batches, product_row

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
ANEW_MS: Final = HOUR_MS
"""After so long an unchanged fleet is sampled, too: where there is no sample, the server did not run."""
FINE_MS: Final = 2 * DAY_MS
"""For so long all samples are kept; then one of each hour, for HOURLY_MS; then one of each day."""
HOURLY_MS: Final = 60 * DAY_MS
MAX_SERIES: Final = 12
"""Versions that a history tells apart: those that most devices ran."""
MAX_POINTS: Final = 2000

Counts = Mapping[tuple[str, str], tuple[int, int]]
"""By component and version (devices, of which are connected)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPoint:
    """How many devices ran a version at one time, and how many of those were connected."""

    at_ms: int
    devices: int
    online: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySeries:
    """A version over time, oldest point first; each holds until the next. `version` is empty for all devices.

    `others`: of several versions that few devices ran, together.
    """

    version: str
    others: bool
    points: tuple[HistoryPoint, ...]


class Samples:
    """The fleet over time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self) -> Mapping[str, Counts]:
        """Return the fleet as it is, by product."""
        with self._database.reading() as session:
            return _count(session)

    def take(self) -> int:
        """Take a sample of each product that has changed since its last one, or was not sampled for an hour.

        Returns of how many products.
        """
        fleet = self.count()  # it takes long for a large fleet, and nobody who writes waits for it
        with self._database.changing() as change:
            taken = 0
            for product, counts in fleet.items():
                last_ms, last = _last(change.session, product)
                is_old = last_ms is None or change.now_ms - last_ms >= ANEW_MS
                if last_ms == change.now_ms or not (is_old or last != counts):
                    continue
                change.session.add_all(_rows(product, change.now_ms, counts))
                taken += 1
            return taken

    def thin(self) -> int:
        """Forget what is finer than it is kept; return how many samples."""
        with self._database.reading() as session:
            times = select(SampleRow.product, SampleRow.at_ms).where(
                *_WHOLE, col(SampleRow.at_ms) < self._database.now_ms() - FINE_MS
            )
            by_product: dict[str, list[int]] = defaultdict(list)
            for product, at_ms in session.exec(times):
                by_product[product].append(at_ms)
        gone = 0
        for product, there in by_product.items():
            surplus = surplus_of(there, self._database.now_ms())
            for some in batches(surplus):
                with self._database.changing() as change:
                    of = (col(SampleRow.product) == product, col(SampleRow.at_ms).in_(some))
                    change.session.execute(delete(SampleRow).where(*of))
            gone += len(surplus)
        return gone

    def components(self, product: str) -> tuple[str, ...]:
        """Return the components that devices of a product had at its last sample."""
        with self._database.reading() as session:
            _, counts = _last(session, product)
        return tuple(sorted({component for component, _ in counts if component}))

    def history(
        self, product: str, component: str = "", *, since_ms: int = 0, points: int = MAX_POINTS
    ) -> tuple[HistorySeries, ...]:
        """Return the versions of a component over time, those that most devices ran first; NotFoundError.

        Without a component, the product's devices as such. `points` at most of each, evenly left out.
        """
        with self._database.reading() as session:
            product_row(session, product)
            of = (col(SampleRow.product) == product, col(SampleRow.at_ms) >= since_ms)
            times = sorted(session.exec(select(SampleRow.at_ms).where(*of, *_WHOLE)))
            kept = _evenly(times, points)
            query = select_columns(
                col(SampleRow.version), col(SampleRow.at_ms), col(SampleRow.devices), col(SampleRow.online)
            ).where(*of, col(SampleRow.component) == component)
            found: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
            for version, at_ms, devices, online in session.execute(query):
                if at_ms in kept:
                    found[version][at_ms] = (devices, online)
        return _series(found, sorted(kept))


def surplus_of(times_ms: Iterable[int], now_ms: int) -> tuple[int, ...]:
    """Return those of a product's samples that are not kept: the last of each hour is, later the last of each day."""
    kept: dict[tuple[str, int], int] = {}
    times = sorted(times_ms)
    for at_ms in times:
        kept[_bucket(at_ms, now_ms)] = at_ms
    return tuple(sorted(set(times) - set(kept.values())))


def _bucket(at_ms: int, now_ms: int) -> tuple[str, int]:
    if at_ms >= now_ms - FINE_MS:
        return "each", at_ms
    if at_ms >= now_ms - HOURLY_MS:
        return "hour", at_ms // HOUR_MS
    return "day", at_ms // DAY_MS


_WHOLE: Final = (col(SampleRow.component) == "", col(SampleRow.version) == "")


def _count(session: Session) -> dict[str, Counts]:
    product, online = col(DeviceRow.product), col(DeviceRow.online)
    whole = select_columns(product, online, func.count()).group_by(product, online)
    component, version = col(ComponentRow.component), col(ComponentRow.version)
    parts = (
        select_columns(product, online, component, version, func.count())
        .join(DeviceRow, col(DeviceRow.id) == col(ComponentRow.device_id))
        .group_by(product, online, component, version)
    )
    found: dict[str, dict[tuple[str, str], tuple[int, int]]] = defaultdict(dict)
    rows = [(name, is_online, "", "", count) for name, is_online, count in session.execute(whole)]
    for name, is_online, of, what, count in [*rows, *session.execute(parts)]:
        devices, connected = found[name].get((of, what), (0, 0))
        found[name][of, what] = devices + count, connected + (count if is_online else 0)
    return dict(found)


def _last(session: Session, product: str) -> tuple[int | None, Counts]:
    at_ms = session.exec(select(func.max(SampleRow.at_ms)).where(col(SampleRow.product) == product, *_WHOLE)).one()
    if at_ms is None:
        return None, {}
    query = select(SampleRow).where(col(SampleRow.product) == product, col(SampleRow.at_ms) == at_ms)
    return at_ms, {(row.component, row.version): (row.devices, row.online) for row in session.exec(query)}


def _rows(product: str, at_ms: int, counts: Counts) -> Sequence[SampleRow]:
    return [
        SampleRow(product=product, component=component, version=version, at_ms=at_ms, devices=devices, online=online)
        for (component, version), (devices, online) in counts.items()
    ]


def _evenly(times: Sequence[int], points: int) -> frozenset[int]:
    """Return so many of the times at most, the last one always among them."""
    step = -(-len(times) // points) if times else 1
    return frozenset(times[::-1][::step])


def _series(found: Mapping[str, Mapping[int, tuple[int, int]]], times: Sequence[int]) -> tuple[HistorySeries, ...]:
    """Return a series for each version that many devices ran, and one for all the others together."""
    peaks = sorted(found, key=lambda version: (-max(count for count, _ in found[version].values()), version))
    apart = peaks[:MAX_SERIES] if len(peaks) <= MAX_SERIES else peaks[: MAX_SERIES - 1]
    series = [_one(version, [found[version]], times, others=False) for version in apart]
    if rest := peaks[len(apart) :]:
        series.append(_one("", [found[version] for version in rest], times, others=True))
    return tuple(series)


def _one(
    version: str, counts: Sequence[Mapping[int, tuple[int, int]]], times: Sequence[int], *, others: bool
) -> HistorySeries:
    """Return a series from the first time at which some device ran it on; where none did, there are none."""
    first = min(min(one) for one in counts)
    points = []
    for at_ms in times:
        if at_ms < first:
            continue
        there = [one.get(at_ms, (0, 0)) for one in counts]
        points.append(HistoryPoint(at_ms=at_ms, devices=sum(it[0] for it in there), online=sum(it[1] for it in there)))
    return HistorySeries(version=version, others=others, points=tuple(points))
