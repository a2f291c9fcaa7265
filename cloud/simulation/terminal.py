"""A rehearsal as lines of characters: the median of a curve as a filled area, and its axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cloud.simulation.drawing import Curve, course, until_of
from cloud.simulation.durations import spoken
from cloud.simulation.results import Run

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
LABEL: Final = 11


def plot(runs: Sequence[Run], curve: Curve, *, width: int, rows: int = 6, until_s: float | None = None) -> list[str]:
    """Return a curve's median over some runs as lines of a width, the highest first, with its axis below."""
    columns = max(10, width - LABEL - 2)
    until_s = until_of(runs) if until_s is None else until_s
    values = course(runs, curve, until_s, columns).middle
    highest = max(1.0, *values)
    lines = []
    for row in range(rows, 0, -1):
        label = f"{highest:,.0f}" if row == rows else "0" if row == 1 else ""
        cells = (_cell(value / highest * rows - (row - 1)) for value in values)
        lines.append(f"{label:>{LABEL}} ┤{''.join(cells)}".rstrip())
    middle = spoken(until_s / 2)
    end = spoken(until_s)
    space = " " * max(1, columns - columns // 2 - len(middle) - len(end))
    lines.append(f"{'':>{LABEL}} └{'─' * columns}")
    lines.append(f"{'':>{LABEL}}  0{middle:>{columns // 2 + len(middle) - 1}}{space}{end}")
    return lines


def _cell(filled: float) -> str:
    """Return the character that is filled to a part of its height; a little is shown as the least there is."""
    if filled <= 0:
        return BLOCKS[0]
    return BLOCKS[min(8, max(1, round(filled * 8)))]
