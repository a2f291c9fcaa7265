"""Waiting for devices, live: a table on a terminal, a line per change elsewhere."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from rich.console import RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cloud.cli.client import FAILED, TIMED_OUT, Json
from cloud.cli.following import follow
from cloud.cli.render import Output, plural, shown
from cloud.cli.terminal import console_on, is_terminal
from cloud.progress import GOOD, UNSETTLED, Stage

MAX_ROWS: Final = 30
_STYLES = {Stage.UNDER_WAY: "cyan", Stage.WAITING: "dim", **dict.fromkeys(GOOD, "green")}

Fetch = Callable[[int | None, float], Json]
"""Takes the revision seen and how long to wait; returns a page with `revision` and `devices`."""


class Watch:
    """Follows devices until each has settled or the time is up."""

    def __init__(self, output: Output, fetch: Fetch, timeout_s: float | None) -> None:
        self._output, self._fetch, self._timeout_s = output, fetch, timeout_s
        self._told: dict[str, str] = {}

    def run(self) -> tuple[Json, int]:
        """Return the last page and the exit code: 0 all good, 1 some not, 3 some still open when the time was up."""
        if not is_terminal(self._output.stderr):
            return self._follow(self.tell)
        with Live(console=console_on(self._output.stderr), refresh_per_second=4, transient=True) as live:
            page, code = self._follow(lambda page: live.update(self.picture(page)))
        self.tell(page)
        return page, code

    def picture(self, page: Json) -> RenderableType:
        """Return what a terminal shows."""
        return device_table(page["devices"])

    def tell(self, page: Json) -> None:
        """Say what has changed, a line for each device."""
        for device in page["devices"]:
            said = describe(device)
            if self._told.get(device["device_id"]) != said:
                self._told[device["device_id"]] = said
                self._output.warn(f"  {shown(device['device_id'])}: {said}")

    def verdict(self, page: Json) -> int | None:
        """Return the exit code that a page comes to, or None while that is open."""
        stages = [Stage(device["stage"]) for device in page["devices"]]
        if UNSETTLED.intersection(stages):
            return None
        return 0 if all(stage in GOOD for stage in stages) else FAILED

    def _follow(self, show: Callable[[Json], object]) -> tuple[Json, int]:
        def fetch(before: Json | None, wait_s: float) -> Json:
            return self._fetch(None if before is None else before["revision"], wait_s)

        return follow(self._output, fetch, show, self.verdict, self._timeout_s)


def describe(device: Mapping[str, Any]) -> str:
    """Return how a device stands, in a few words."""
    stage = Stage(device["stage"])
    words = [stage.value.replace("_", " ")]
    if stage is Stage.UNDER_WAY:
        words = [str(device["phase"]).replace("_", " ")]
        if device["percent"] is not None:
            words.append(f"{device['percent'] // 10 * 10} %")
    why = [shown(item) for item in (device["reason"], device["detail"]) if item]
    return " ".join(words) + (f" ({': '.join(why)})" if why else "")


def conclude(output: Output, page: Json, code: int, timeout_s: float | None) -> None:
    """Say how it ended."""
    devices = page["devices"]
    good = sum(Stage(device["stage"]) in GOOD for device in devices)
    open_ = [device["device_id"] for device in devices if Stage(device["stage"]) in UNSETTLED]
    bad = len(devices) - good - len(open_)
    parts = [f"{plural(good, 'device')} updated"]
    if bad:
        parts.append(f"{bad} not")
    if open_:
        names = ", ".join(open_[:5]) + (", …" if len(open_) > 5 else "")
        parts.append(f"{len(open_)} still open ({names})")
    if not devices:
        parts = ["no device is to take it"]
    sentence = "; ".join(parts)
    if code == TIMED_OUT and timeout_s is not None:
        sentence += f" after {timeout_s:g} s. The decision stands: devices go on without this command."
    output.say(sentence[:1].upper() + sentence[1:])


def device_table(devices: list[Json], rows: int = MAX_ROWS) -> Table:
    """Return how devices stand, those first that have not settled."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("DEVICE", "", "DETAIL"):
        table.add_column(heading)
    order = sorted(devices, key=lambda device: (device["stage"] not in UNSETTLED, device["device_id"]))
    for device in order[:rows]:
        stage = Stage(device["stage"])
        online = "" if device["online"] else " (offline)"
        table.add_row(
            Text(shown(device["device_id"]) + online),
            Text(describe(device).partition(" (")[0], style=_STYLES.get(stage, "red")),
            Text(" ".join(shown(item) for item in (device["reason"], device["detail"]) if item)),
        )
    if len(order) > rows:
        table.add_row(Text(f"… and {len(order) - rows} more"), Text(""), Text(""))
    return table
