"""Child processes of a test: output in a file, ended by pid, their output shown when a test fails."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_POLL_S = 0.02


def wait_until(predicate: Callable[[], object], timeout_s: float = 60.0, what: str = "the condition") -> None:
    """Poll `predicate` until it is true; only for what offers no event to wait on.

    Raises:
        AssertionError: it stayed false for `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s:g} s"
        time.sleep(_POLL_S)


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs (a zombie, which waits for its parent to notice, does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


@dataclass
class Started:
    """One child: its process, and the file that holds its standard output and error together."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """SIGKILL, as a power cut; returns when it is gone."""
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout_s: float = 15.0) -> int:
        """SIGTERM, as a service manager; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Return the exit code, when it ends by itself."""
        return self.process.wait(timeout_s)

    def wait_for_line(self, text: str, timeout_s: float = 15.0) -> str:
        """Return the first line of output that contains `text`; fails when the child ends without saying it."""

        def said() -> str | None:
            return next((line for line in self.log().splitlines() if text in line), None)

        wait_until(lambda: said() or self.process.poll() is not None, timeout_s, f"{self.name} saying {text!r}")
        line = said()
        assert line is not None, (
            f"{self.name} ended with {self.process.returncode} and never said {text!r}:\n{self.log()[-4000:]}"
        )
        return line


@dataclass
class Processes:
    """Starts children with logs in one directory, and ends those that are left."""

    directory: Path
    started: list[Started] = field(default_factory=list)

    def start(
        self,
        *command: str | Path,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Started:
        """Start `command` with `env` added to this environment; several starts of one name keep their logs apart."""
        arguments: Sequence[str] = [str(part) for part in command]
        label = name or Path(arguments[0]).name
        log_path = self.directory / f"{label}.{len(self.started)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
            )
        child = Started(label, process, log_path)
        self.started.append(child)
        return child

    def close(self) -> None:
        for child in reversed(self.started):
            if child.process.poll() is None:
                child.kill()

    def logs(self) -> str:
        """Every child's output, for a failed test's report."""
        return "\n".join(
            f"--- {child.name} (pid {child.pid}, exit code {child.process.returncode}) ---\n{child.log()}"
            for child in self.started
        )
