"""Runs an application that is a service of the system (systemd, OpenRC, ...) by the commands that its owner gave.

The service's own unit starts `<slots>/current/image`; whoever watches it there also restarts it after a crash, so
`exited` never tells anything here, and `keep_up` asks for nothing. What it was started from last is in service.json.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_agent.commands import Ran, expand, run
from device_agent.slots import durable
from device_agent.supervision import ApplicationError, Exit, check_image
from protocol.codec import decode, encode
from protocol.errors import ProtocolError
from protocol.identity import check_digest
from protocol.phases import Reason

COMMAND_TIMEOUT_S: Final = 90.0
"""systemd's own default for a unit's start and stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    digest: str

    def __post_init__(self) -> None:
        check_digest(self.digest)


class SystemService:
    """One component's service. Each command may hold `{python}`, the restart command `{image}` too.

    Without a stop command the service is left running where it would be stopped; without an `active` command (exit
    code 0: it runs) it counts as running once it was started.
    """

    def __init__(
        self,
        directory: Path,
        *,
        restart: Sequence[str],
        stop: Sequence[str] = (),
        active: Sequence[str] = (),
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> None:
        self._record_path = directory / "service.json"
        self._restart, self._stop, self._active = tuple(restart), tuple(stop), tuple(active)
        self._timeout_s = timeout_s
        directory.mkdir(mode=durable.DIRECTORY_MODE, parents=True, exist_ok=True)

    @property
    def pid(self) -> int | None:
        """None: the service manager knows."""
        return None

    def start(self, image: Path, *, digest: str, environment: Mapping[str, str], keep_up: bool) -> str:
        """Restart the service with `image` if it has `digest`; return the digest that was started.

        Raises ApplicationError: WRONG_BOOT, and nothing is started, if it has another; START_FAILED if the command
        fails or takes too long.
        """
        del keep_up
        check_image(image, digest)
        # First, so that a service that came up although the agent died in between is not taken for the one before.
        durable.write_file(self._record_path, encode(_Record(digest=digest)))
        ran = self._run(expand(self._restart, image), self._timeout_s, environment)
        if not ran.passed:
            how = "took too long" if ran.code is None else f"ended with {ran.code}"
            raise ApplicationError(Reason.START_FAILED, f"the restart command {how}: {ran.output or 'no output'}")
        return digest

    def adopt(self, image: Path, *, digest: str, environment: Mapping[str, str], keep_up: bool) -> bool:
        """Tell whether the service runs and was started from `digest`; one that was not is stopped."""
        del image, environment, keep_up
        record = self._load_record()
        if record is None or not self.alive():
            return False
        if record.digest != digest:
            self.stop(self._timeout_s)
            return False
        return True

    def keep_up(self, wanted: bool) -> None:
        """Nothing: the service manager decides."""

    def stop(self, timeout_s: float) -> None:
        """Stop the service, if there is a command for it; raises ApplicationError if that fails."""
        if self._stop:
            ran = self._run(expand(self._stop), timeout_s, {})
            if not ran.passed:
                raise ApplicationError(Reason.INSTALL_FAILED, f"the service does not stop: {ran.output or 'no output'}")
        self._record_path.unlink(missing_ok=True)

    def alive(self) -> bool:
        """Tell whether it runs."""
        if not self._active:
            return self._load_record() is not None
        return self._run(expand(self._active), self._timeout_s, {}).passed

    def exited(self, callback: Callable[[Exit], None]) -> None:
        """Nothing: its end is the service manager's."""

    def close(self) -> None:
        """Nothing: there is no thread."""

    def _run(self, command: Sequence[str], timeout_s: float, environment: Mapping[str, str]) -> Ran:
        try:
            return run(command, timeout_s, environment=os.environ | dict(environment), leaves_children=True)
        except OSError as error:
            return Ran(code=127, output=str(error))

    def _load_record(self) -> _Record | None:
        content = durable.read_file(self._record_path, 4096)
        try:
            return decode(content, _Record) if content else None
        except ProtocolError:
            return None
