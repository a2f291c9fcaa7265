"""Draws the device's machine from its own tables, as Mermaid.

`python -m tests.support.state_diagram` renews the document.
"""

from pathlib import Path

from device_agent.machine import RESUME, TRANSITIONS

DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"
BEGIN, END = "<!-- state diagram -->\n", "<!-- end of state diagram -->"


def state_diagram() -> str:
    """Return the diagram: an arrow per pair of states that an event joins, and where a power cut leaves it."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), (target, _) in TRANSITIONS.items():
        if state is not target:
            arrows.setdefault((state.name, target.name), []).append(event.__name__)
    lines = ["```mermaid", "flowchart TD"]
    for (begin, end), events in arrows.items():
        lines.append(f"    {begin} -->|{'<br>'.join(events)}| {end}")
    lines += ["```", "", "After a power cut:", "", "| it was | it is | and first |", "|---|---|---|"]
    for state, (target, effects) in RESUME.items():
        doing = ", ".join(effect.value.replace("_", " ") for effect in effects) or "rests"
        lines.append(f"| {state.name} | {target.name} | {doing} |")
    return "\n".join([*lines, ""])


def renewed(text: str) -> str:
    """Return the document with the diagram as it should be."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + state_diagram() + END + rest.partition(END)[2]


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text()))
