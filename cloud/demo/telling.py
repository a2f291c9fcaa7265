"""How the demonstration tells its story, and how it keeps count of what it claims."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

POLL_S: Final = 0.05
PLAIN_WIDTH: Final = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One claim, and whether it was seen to hold."""

    act: str
    claim: str
    passed: bool
    saw: str
    at_s: float


class Teller:
    """Tells the story as it happens: in colour on a terminal, in plain lines elsewhere; keeps the checks."""

    def __init__(self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        found = console or Console(highlight=False)
        self.console = found if found.is_terminal else Console(file=found.file, width=PLAIN_WIDTH, highlight=False)
        self.checks: list[Check] = []
        self._clock = clock
        self._started = clock()
        self._act = ""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demonstration began."""
        return self._clock() - self._started

    @property
    def failed(self) -> int:
        """How many claims did not hold."""
        return sum(not check.passed for check in self.checks)

    def act(self, name: str, title: str) -> None:
        """Begin a part of the story."""
        self._act = name
        self.console.print()
        self._line(f"{name}. {title}", "bold cyan")

    def say(self, sentence: str) -> None:
        """Tell what is being done."""
        self._line(f"   {sentence}")

    def command(self, *words: str) -> None:
        """Show the command that an operator would type, which is the one being run."""
        self._line("   $ fleetlift " + " ".join(f'"{word}"' if " " in word else word for word in words), "blue")

    def expect(self, claim: str, passed: bool, saw: str = "") -> bool:
        """Note a claim that holds now, or does not."""
        check = Check(act=self._act, claim=claim, passed=passed, saw=saw, at_s=round(self.elapsed_s, 2))
        self.checks.append(check)
        mark, style = ("ok    ", "green") if passed else ("FAILED", "bold red")
        self._line(f"   {mark} {claim}" + ("" if passed or not saw else f" — saw: {saw}"), style)
        return passed

    def eventually(
        self, claim: str, probe: Callable[[], object], saw: Callable[[], object], *, timeout_s: float = 30.0
    ) -> bool:
        """Note a claim that comes true within a time, watched from outside; `saw` tells what there was if not."""
        return self.expect(claim, wait_for(probe, timeout_s), str(saw()))

    def document(self) -> dict[str, Any]:
        """Return the checks for a program."""
        return {
            "checks": [asdict(check) for check in self.checks],
            "failed": self.failed,
            "elapsed_s": round(self.elapsed_s, 2),
        }

    def report(self, path: Path) -> None:
        """Write the checks as JSON."""
        path.write_text(json.dumps(self.document(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def close(self) -> int:
        """Say how it ended; return the exit code."""
        self.console.print()
        self._line(f"   in {self.elapsed_s:.0f} s")
        self._line(
            f"demo: {len(self.checks)} checks, {self.failed} failed", "bold red" if self.failed else "bold green"
        )
        return 1 if self.failed else 0

    def _line(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style), soft_wrap=True)


def wait_for(probe: Callable[[], object], timeout_s: float, poll_s: float = POLL_S) -> bool:
    """Return whether `probe` becomes true within the time: outside observation has no event to wait on."""
    deadline = time.monotonic() + timeout_s
    while not probe():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True
