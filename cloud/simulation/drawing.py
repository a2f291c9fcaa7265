"""A rehearsal as a picture: coverage and harm over time, as a small SVG file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from cloud.simulation.durations import spoken
from cloud.simulation.results import Run, Sample, quantile

WIDTH: Final = 760
PANEL: Final = 170
LEFT: Final = 78
RIGHT: Final = 150
TOP: Final = 54
GAP: Final = 46
POINTS: Final = 160
"""Points of a curve: more than this a picture of this width does not show."""
INK: Final = "#24292f"
FAINT: Final = "#d0d7de"
STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:" + INK + "}.t{font-weight:600;font-size:14px}.n{font-size:11px}"
    ".g{stroke:" + FAINT + ";stroke-width:1}.c{fill:none;stroke-width:2;stroke-linejoin:round}.b{opacity:.18}"
    ".m{stroke:#8250df;stroke-width:1;stroke-dasharray:3 3}"
)

Value = Callable[[Sample], float]


@dataclass(frozen=True, slots=True)
class Curve:
    """One number over time: what it is called, its colour, and how it is had from a sample."""

    name: str
    colour: str
    value: Value


@dataclass(frozen=True, slots=True)
class Course:
    """A curve over many runs: the median, and the bounds between which nine in ten lie, at each time."""

    curve: Curve
    times_s: tuple[float, ...]
    low: tuple[float, ...]
    middle: tuple[float, ...]
    high: tuple[float, ...]


COVERAGE: Final = (
    Curve("may take it", "#57606a", lambda sample: sample.covered),
    Curve("run it", "#1a7f37", lambda sample: sample.running),
)
HARM: Final = (
    Curve("fell back, or crash", "#cf222e", lambda sample: sample.failed),
    Curve("never heard again", "#9a6700", lambda sample: sample.silent),
)


def course(runs: Sequence[Run], curve: Curve, until_s: float, points: int = POINTS) -> Course:
    """Return a curve over some runs, at evenly spaced times."""
    times = tuple(until_s * index / (points - 1) for index in range(points))
    columns = [sorted(curve.value(run.at(at_s)) for run in runs) for at_s in times]
    low, middle, high = (tuple(quantile(column, share) for column in columns) for share in (0.05, 0.5, 0.95))
    return Course(curve, times, low, middle, high)


def until_of(runs: Sequence[Run]) -> float:
    """Return the time that a picture of these runs goes to: a little after the last thing that happened."""
    return max(max(run.last.at_s for run in runs) * 1.02, 60.0)


def draw(runs: Sequence[Run], title: str, subtitle: str) -> str:
    """Return the SVG of some runs of one plan: coverage above, harm below, phases of the first run as dashed lines."""
    until_s = until_of(runs)
    height = TOP + 2 * PANEL + GAP + 44
    frame = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{_quoted(title)}"><style>{STYLE}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    )
    parts = [
        frame,
        f'<text class="t" x="{LEFT}" y="22">{escape(title)}</text>',
        f'<text class="n" x="{LEFT}" y="40">{escape(subtitle)}</text>',
    ]
    for top, curves in ((TOP, COVERAGE), (TOP + PANEL + GAP, HARM)):
        parts += _panel(runs, curves, until_s, top)
    return "\n".join([*parts, "</svg>\n"])


def _panel(runs: Sequence[Run], curves: Sequence[Curve], until_s: float, top: int) -> list[str]:
    courses = [course(runs, curve, until_s) for curve in curves]
    highest = _round_up(max([4.0, *(max(it.high) for it in courses)]))
    right, bottom = WIDTH - RIGHT, top + PANEL

    def x(at_s: float) -> float:
        return LEFT + (right - LEFT) * at_s / until_s

    def y(value: float) -> float:
        return bottom - PANEL * value / highest

    parts = []
    for tick in range(5):
        value, at_s = highest * tick / 4, until_s * tick / 4
        parts.append(f'<path class="g" d="M{LEFT} {y(value):.1f}H{right}"/>')
        parts.append(f'<text class="n" x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,.10g}</text>')
        parts.append(f'<text class="n" x="{x(at_s):.1f}" y="{bottom + 16}" text-anchor="middle">{spoken(at_s)}</text>')
    for happening in runs[0].happenings[:40]:
        line = f"M{x(happening.at_s):.1f} {top}V{bottom}"
        parts.append(f'<path class="m" d="{line}"><title>{escape(happening.sentence)}</title></path>')
    for number, it in enumerate(courses):
        colour, band = it.curve.colour, [*zip(it.times_s, it.high, strict=True)]
        band += reversed([*zip(it.times_s, it.low, strict=True)])
        if it.low != it.high:
            parts.append(f'<path class="b" fill="{colour}" d="{_path(band, x, y)}Z"/>')
        line = _path([*zip(it.times_s, it.middle, strict=True)], x, y)
        parts.append(f'<path class="c" stroke="{colour}" d="{line}"/>')
        parts.append(f'<rect x="{right + 12}" y="{top + 4 + 20 * number}" width="12" height="3" fill="{colour}"/>')
        parts.append(f'<text class="n" x="{right + 30}" y="{top + 10 + 20 * number}">{it.curve.name}</text>')
    return parts


def _path(points: Sequence[tuple[float, float]], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """Return a path through points, without those on a level between two others."""
    kept = [
        point
        for index, point in enumerate(points)
        if index in (0, len(points) - 1) or not points[index - 1][1] == point[1] == points[index + 1][1]
    ]
    return "M" + "L".join(f"{x(at_s):.1f} {y(value):.1f}" for at_s, value in kept)


def _round_up(value: float) -> float:
    """Return the next number that divides well by four: 1, 2, 4 or 8 of a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10, 20) if step * power >= value)


def _quoted(text: str) -> str:
    return escape(text, {'"': "&quot;"})
