"""The picture of the device's machine, from its own table: `python -m docs.generating.machine_picture`."""

from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from device_agent.machine import TRANSITIONS
from protocol.phases import Phase

PICTURE: Final = Path(__file__).resolve().parents[1] / "machine.svg"
ROWS: Final = tuple(phase for phase in Phase if phase is not Phase.ROLLING_BACK)
CENTRE, WIDTH, HEIGHT, STEP, TOP = 320, 150, 34, 74, 24
INNER, OUTER, RIGHT = 170, 60, 600
_HEAD: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 520" role="img" \
aria-label="The states of the device's machine, and the events between them">
<style>
:root{color-scheme:light dark}
text{font:12px system-ui,sans-serif;fill:#24292f}
.g{fill:#fff}
.s{font-weight:600;font-size:13px}
.b{fill:#f6f8fa;stroke:#57606a}.t{fill:#fff8c5;stroke:#9a6700}.r{fill:#ffebe9;stroke:#cf222e}
.e{fill:none;stroke:#57606a;stroke-width:1.5}.x{fill:none;stroke:#cf222e;stroke-width:1.5}
.h{fill:#57606a}
@media (prefers-color-scheme:dark){
.g{fill:#0d1117}text{fill:#e6edf3}.b{fill:#161b22;stroke:#8b949e}.t{fill:#2b2208;stroke:#d29922}.r{fill:#2d1214;stroke:#f85149}
.e{stroke:#8b949e}.x{stroke:#f85149}.h{fill:#8b949e}}
</style>
<rect class="g" width="720" height="520"/>
<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path class="h" d="M0 0L8 4L0 8z"/></marker></defs>"""


def picture() -> str:
    """Return the machine as SVG; raises KeyError for an edge that there is no way for in the picture."""
    edges: dict[tuple[Phase, Phase], list[str]] = {}
    for (before, event), (after, _) in TRANSITIONS.items():
        if before is not after:
            edges.setdefault((before, after), []).append(event.__name__)
    drawn = [_edge(before, after, names) for (before, after), names in edges.items()]
    return "\n".join([_HEAD, *drawn, *(_box(phase) for phase in Phase), "</svg>", ""])


def _middle(phase: Phase) -> int:
    row = Phase.PROVING if phase is Phase.ROLLING_BACK else phase
    return TOP + ROWS.index(row) * STEP + HEIGHT // 2


def _box(phase: Phase) -> str:
    centre = RIGHT if phase is Phase.ROLLING_BACK else CENTRE
    trial = phase in (Phase.RESTARTING, Phase.PROVING, Phase.COMMITTING)
    kind = "r" if phase is Phase.ROLLING_BACK else "t" if trial else "b"
    top = _middle(phase) - HEIGHT // 2
    return (
        f'<rect class="{kind}" x="{centre - WIDTH // 2}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'<text class="s" x="{centre}" y="{top + 22}" text-anchor="middle">{phase.name}</text>'
    )


def _edge(before: Phase, after: Phase, names: list[str]) -> str:
    """Draw one edge; where it runs depends on what it means."""
    start, end = _middle(before), _middle(after)
    left, right = CENTRE - WIDTH // 2, CENTRE + WIDTH // 2
    if after is Phase.ROLLING_BACK:
        side = RIGHT - WIDTH // 2
        aim = end + (start > end) * 8 - (start < end) * 8
        return _line(f"M{right} {start}H{right + 70}V{aim}H{side}", "x") + _text(right + 8, start - 6, names)
    if before is Phase.ROLLING_BACK:
        return _line(f"M{RIGHT} {start - HEIGHT // 2}V{end}H{right}", "e") + _text(RIGHT - 8, start - 34, names, "end")
    if ROWS.index(after) == ROWS.index(before) + 1:
        path = f"M{CENTRE} {start + HEIGHT // 2}V{end - HEIGHT // 2}"
        return _line(path, "e") + _text(CENTRE + 8, (start + end) // 2 + 4, names)
    if (before, after) == (Phase.PROVING, Phase.RESTARTING):
        return _line(f"M{left} {start - 6}H{left - 24}V{end + 6}H{left}", "e") + _text(
            left - 30, (start + end) // 2 + 4, names, "end"
        )
    if before is Phase.COMMITTING and after is Phase.IDLE:
        return _line(f"M{left} {start}H{OUTER}V{end - 6}H{left}", "e") + _text(OUTER + 8, start - 6, names)
    if after is Phase.IDLE and "Failed" in names:
        return _line(f"M{left} {start}H{INNER}V{end + 6}H{left}", "x") + _stack(start, names)
    raise KeyError((before, after))


def _line(path: str, kind: str) -> str:
    return f'<path class="{kind}" d="{path}" marker-end="url(#a)"/>'


def _text(x: int, y: int, names: list[str], anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(", ".join(names))}</text>'


def _stack(y: int, names: list[str]) -> str:
    """Write names under one another, above a line's end where there is room for them left of it."""
    return "".join(
        f'<text x="{INNER - 8}" y="{y - 14 + 14 * line}" text-anchor="end">{escape(name)}</text>'
        for line, name in enumerate(names)
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
