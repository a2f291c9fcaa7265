"""What running an application means, whoever does it: the calls, how its end is told, and when it is restarted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from device_agent.slots import durable
from protocol.errors import FleetliftError
from protocol.phases import Reason


class ApplicationError(FleetliftError):
    """The application could not be started; `reason` is what an attempt fails of by that."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """The application ended by itself, or could not be restarted.

    `code` is its exit code (negative: the signal), None if it is not known: nobody's child, or it did not start.
    `restart_in_s` is None if it stays down.
    """

    code: int | None
    ran_s: float
    restart_in_s: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How long to wait before a restart: doubled from crash to crash, from the start again after a steady run."""

    first_s: float = 1.0
    longest_s: float = 60.0
    steady_s: float = 60.0


def restart_after(policy: RestartPolicy, crashes: int, ran_s: float) -> tuple[int, float]:
    """Return how many crashes in a row this one makes, and the seconds to wait; `crashes` were before it."""
    crashes = 1 if ran_s >= policy.steady_s else crashes + 1
    return crashes, min(policy.longest_s, policy.first_s * 2.0 ** min(crashes - 1, 32))


class Supervisor(Protocol):
    """What the runner sees of an application, however it is run."""

    def start(self, image: Path, *, digest: str, environment: Mapping[str, str], keep_up: bool) -> str:
        """End what runs and start `image`; return the digest that was started.

        Raises ApplicationError: WRONG_BOOT, and nothing is started, if the image does not have `digest`.
        """

    def adopt(self, image: Path, *, digest: str, environment: Mapping[str, str], keep_up: bool) -> bool:
        """Take over what an agent before started if it runs `digest`, else end it; tell whether it runs."""

    def keep_up(self, wanted: bool) -> None:
        """Restart it, or do not, when it ends by itself."""

    def stop(self, timeout_s: float) -> None:
        """End it: asked first, by force after `timeout_s`."""

    def alive(self) -> bool:
        """Tell whether it runs."""

    def exited(self, callback: Callable[[Exit], None]) -> None:
        """Have `callback` called, in another thread, when it ends by itself; it must not call back into this."""

    def close(self) -> None:
        """Watch it no longer; it keeps running."""


def check_image(image: Path, digest: str) -> None:
    """Raise ApplicationError unless the image, read from the disk now, has this digest."""
    try:
        found = durable.digest_file(image)
    except OSError as error:
        raise ApplicationError(
            Reason.START_FAILED, f"the image cannot be read, and was not started: {error}"
        ) from error
    if found != digest:
        raise ApplicationError(
            Reason.WRONG_BOOT, f"the image has digest {found[:12]}… and not {digest[:12]}…: it was not started"
        )
