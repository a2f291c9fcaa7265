"""Watching a release: bars for its stages on a terminal, a line per change elsewhere, a JSON line with -o json."""

import json
from collections.abc import Callable
from typing import Any, Final

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cloud.cli.client import FAILED, TIMED_OUT, Json
from cloud.cli.context import Operator
from cloud.cli.render import Output, Row, plural, shown
from cloud.cli.watch import Fetch, Watch, device_table
from cloud.progress import GOOD, UNSETTLED, Stage, Verdict

FEW: Final = 30
"""Devices up to which each is spoken of."""
TROUBLES: Final = 8
BAR_WIDTH: Final = 40
_STYLES: Final = {Stage.UNDER_WAY: "cyan", Stage.WAITING: "bright_black", **dict.fromkeys(GOOD, "green")}
_CODES: Final = {Verdict.OPEN: None, Verdict.GOOD: 0, Verdict.BAD: FAILED}


class ReleaseWatch(Watch):
    """Follows a release until its plan or its devices have decided, or the time is up."""

    def __init__(
        self,
        output: Output,
        fetch: Fetch,
        timeout_s: float | None,
        *,
        title: str,
        each: Callable[[Json], object] | None = None,
    ) -> None:
        """Take where to; `each` is given every page that differs from the one before, in place of a person."""
        super().__init__(output, fetch, timeout_s)
        self._title, self._each, self._last, self._last_rollout = title, each, "", ""

    def verdict(self, page: Json) -> int | None:
        """Return the exit code that a page comes to, or None while that is open."""
        return _CODES[Verdict(page["verdict"])]

    def picture(self, page: Json) -> RenderableType:
        """Return the bars, and the devices under them: all of few, of many those that are not well."""
        count = sum(page["stages"].values())
        table = Table(box=None, pad_edge=False, show_header=False)
        for stage, number in _in_order(page["stages"]):
            style = _STYLES.get(stage, "red")
            bar = ProgressBar(total=max(count, 1), completed=number, width=BAR_WIDTH, complete_style=style)
            table.add_row(Text(_name(stage), style=style), bar, Text(f"{number} of {count}"))
        devices = page["devices"] if count <= FEW else unwell(page)
        parts: list[RenderableType] = [Text(self._headline(page), style="bold"), table]
        return Stack(*parts, *([device_table(devices, FEW if count <= FEW else TROUBLES)] if devices else []))

    def _headline(self, page: Json) -> str:
        version, rollout = page["release"]["firmware"]["version"], rollout_line(page)
        return f"{self._title} ({version})" + (f", {rollout}" if rollout else "")

    def tell(self, page: Json) -> None:
        """Say what has changed: of few devices each, of many how many are where."""
        said = {"stages": page["stages"], "rollout": page["rollout"], "verdict": page["verdict"]}
        changed = json.dumps(said, sort_keys=True) != self._last
        self._last = json.dumps(said, sort_keys=True)
        if self._each is not None:
            if changed:
                self._each(page)
            return
        if (rollout := rollout_line(page)) != self._last_rollout:
            self._last_rollout = rollout
            self._output.warn(f"  {rollout}")
        if sum(page["stages"].values()) <= FEW:
            super().tell(page)
        elif changed:
            self._output.warn(f"  {stages_line(page)}")


def fetching(operator: Operator, release_id: str) -> Fetch:
    """Return what asks for a release's progress."""
    return lambda seen, wait_s: operator.api.get("releases", release_id, "progress", seen=seen, wait=wait_s)


def conclude(output: Output, page: Json, code: int, timeout_s: float | None) -> None:
    """Say how it ended."""
    stages = {Stage(name): count for name, count in page["stages"].items()}
    good = sum(stages.get(stage, 0) for stage in GOOD)
    still = sum(stages.get(stage, 0) for stage in UNSETTLED)
    bad = sum(stages.values()) - good - still
    parts = [f"{plural(good, 'device')} updated"]
    if bad:
        parts.append(f"{bad} not")
    if still:
        names = [shown(it["device_id"]) for it in page["devices"] if Stage(it["stage"]) in UNSETTLED]
        parts.append(f"{still} still open ({', '.join(names[:5])}{', …' if still > len(names[:5]) else ''})")
    if not stages:
        parts = ["no device is to take it"]
    sentence = "; ".join(parts)
    if page["rollout"] is not None:
        sentence += f"; its plan is {rollout_line(page)}"
    elif stands := rollout_line(page):
        sentence += f"; it is {stands}"
    if code == TIMED_OUT and timeout_s is not None:
        sentence += f" after {timeout_s:g} s. The decision stands: devices go on without this command."
    output.say(sentence[:1].upper() + sentence[1:])


def rollout_line(page: Row) -> str:
    """Return where a plan is, and what keeps it there; without one, whether the release is disabled or paused."""
    rollout, release = page["rollout"], page["release"]
    if rollout is None:
        return "disabled" if not release["enabled"] else "paused" if release["terms"]["paused"] else ""
    where = f", phase {rollout['phase']} of {rollout['phases']}" if rollout["status"] in ("running", "paused") else ""
    return f"{_words(rollout['status'])}{where}" + (f": {shown(rollout['why'])}" if rollout["why"] else "")


def stages_line(page: Row) -> str:
    """Return how many devices are in each stage."""
    return (
        ", ".join(f"{count} {_name(stage)}" for stage, count in _in_order(page["stages"])) or "no device is to take it"
    )


def unwell(page: Row) -> list[Any]:
    """Return the devices that did not take it, and will not."""
    return [it for it in page["devices"] if Stage(it["stage"]) not in GOOD | UNSETTLED]


def _in_order(stages: dict[str, int]) -> list[tuple[Stage, int]]:
    return [(stage, stages[stage]) for stage in Stage if stages.get(stage)]


def _name(stage: Stage) -> str:
    return _words(stage.value)


def _words(value: str) -> str:
    return value.replace("_", " ")
