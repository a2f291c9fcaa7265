"""Lines of a plot from samples: the versions that count, the others together, and how it is now."""

from collections.abc import Mapping
from typing import Any, Final

from cloud.api.fleet import ProductCount
from cloud.store.samples import HistorySeries

SHOWN: Final = 8
"""Lines of a plot: more colours nobody tells apart."""
Points = list[list[int]]
"""A line: [milliseconds since 1970, devices]."""


def lines_of(
    series: tuple[HistorySeries, ...], now: Mapping[str, int] | None, counted_at_ms: int
) -> list[dict[str, Any]]:
    """Return the versions that most devices run or ran, in the order of when they came; the others are one line.

    `now` is how many run each version, counted at that time, and None where that is not known.
    """
    points = {it.version: [[point.at_ms, point.devices] for point in it.points] for it in series if not it.others}
    rest = [[[point.at_ms, point.devices] for point in it.points] for it in series if it.others]
    for version, devices in (now or {}).items():
        if version not in points and rest:
            rest.append([[counted_at_ms, devices]])
        elif version not in points:
            points[version] = []
    if now is not None:
        for version, some in points.items():
            some.append([counted_at_ms, now.get(version, 0)])
    order = sorted(points, key=lambda version: (-max(count for _, count in points[version]), version))
    apart = order if len(order) + bool(rest) <= SHOWN else order[: SHOWN - 1]
    rest += [points[version] for version in order[len(apart) :]]
    lines = [(version, points[version]) for version in sorted(apart, key=lambda version: points[version][0][0])]
    if rest:
        lines.append(("others", _sum(rest)))
    return [{"name": name, "points": some} for name, some in lines]


def lines_of_all(
    series: tuple[HistorySeries, ...], now: ProductCount | None, counted_at_ms: int
) -> list[dict[str, Any]]:
    """Return how many devices there were, and how many were connected."""
    points = [(it.at_ms, it.devices, it.online) for one in series for it in one.points]
    if now is not None:
        points.append((counted_at_ms, now.devices, now.online))
    there: Points = [[at_ms, devices] for at_ms, devices, _ in points]
    online: Points = [[at_ms, connected] for at_ms, _, connected in points]
    return [{"name": "devices", "points": there}, {"name": "online", "points": online}] if points else []


def _sum(lines: list[Points]) -> Points:
    sums: dict[int, int] = {}
    for at_ms, count in (point for one in lines for point in one):
        sums[at_ms] = sums.get(at_ms, 0) + count
    return [[at_ms, sums[at_ms]] for at_ms in sorted(sums)]
