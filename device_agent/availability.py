"""Whether the device lets itself be updated: what the application said, who holds, and the shell's lock file.

1. A disabling is in the journal before it is answered, and lasts over restarts. Its end is timed by a clock that only
   goes forward, so setting the device's clock does not end it; after a restart it lasts at most as long again.
2. With `enabled_at_start` off, every start of the agent begins disabled, until somebody enables.
3. The end of the shell's lock is waited for by a thread that asks the kernel for it, not by looking again and again.
4. An agent that starts again in the same boot of the device, after somebody held updates, gives holders a grace in
   which to take their holds again. A fleet in which nobody holds never waits.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from device_agent.admission import HELD_BY_LOCK, Held, Willingness
from device_agent.control import ControlError, Hold, shell_lock_held
from device_agent.journal import Disabling
from protocol.up import Availability, HoldInfo
from protocol.values import MAX_HOLDS, Scope

DISABLED_AT_START: Final = Disabling(why="disabled at the agent's start, until somebody enables")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOG = logging.getLogger(__name__)


class Memory(Protocol):
    """Where a disabling is kept, durably."""

    def disabling(self) -> Disabling | None:
        """Return that updates are disabled, or None."""

    def set_disabling(self, disabling: Disabling | None) -> None:
        """Store that they are, or are not."""

    def holders_boot(self) -> str:
        """Return the boot in which somebody last held updates."""

    def set_holders_boot(self, boot_id: str) -> None:
        """Store the boot in which somebody holds updates."""


class Gatekeeper:
    """Knows what the application and everyone else say; `disable`, `enable` and `holds_changed` are for any thread.

    `changed` is called, in whatever thread, when the answer may be another. `now` is the clock for people, `monotonic`
    the one for timers (seconds).
    """

    def __init__(
        self,
        memory: Memory,
        lock_path: Path,
        *,
        enabled_at_start: bool,
        grace_s: float,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._memory = memory
        self._lock_path = lock_path
        self._now = now
        self._monotonic = monotonic
        self.changed: Callable[[], None] = _nothing
        self._boot_id = boot_id()
        self._holds: tuple[Hold, ...] = ()
        self._awaiting_lock = threading.Event()
        self._set(memory.disabling() or (None if enabled_at_start else DISABLED_AT_START))
        held_before = bool(self._boot_id) and memory.holders_boot() == self._boot_id
        self._grace_ends = monotonic() + grace_s if held_before else None
        self._grace_until_ms = round((now() + grace_s) * 1000)

    @property
    def enabled(self) -> bool:
        """Tell whether the application lets updates happen."""
        return self._disabling is None or (self._disabled_ends is not None and self._disabled_ends <= self._monotonic())

    @property
    def in_grace(self) -> bool:
        """Tell whether holders still get their time to take their holds again."""
        return self._grace_ends is not None and self._grace_ends > self._monotonic()

    def disable(self, until: float | None, why: str) -> None:
        """Let nothing start until `until` (seconds of `now`; None: until enabled); durable before it returns."""
        disabling = Disabling(why=why)
        if until is not None:
            duration_ms = max(0, round((until - self._now()) * 1000))
            disabling = Disabling(max(0, round(until * 1000)), duration_ms, why)
        self._memory.set_disabling(disabling)
        self._set(disabling)
        self.changed()

    def enable(self) -> None:
        """Let updates start; durable before it returns."""
        if self._memory.disabling() is not None:
            self._memory.set_disabling(None)
        self._set(None)
        self.changed()

    def holds_changed(self, holds: tuple[Hold, ...]) -> None:
        """Hear which holds are in force."""
        self._holds = holds
        if holds and self._boot_id and self._memory.holders_boot() != self._boot_id:
            self._memory.set_holders_boot(self._boot_id)
        self.changed()

    def willingness(self) -> Willingness:
        """Return what everyone says, now."""
        holds = [
            Held(owner=hold.owner, scopes=_scopes(hold), expires_at_ms=round(hold.expires_at * 1000))
            for hold in self._holds
        ]
        if self.lock_held():
            holds.append(Held(owner=f"the lock file {self._lock_path.name}", scopes=HELD_BY_LOCK))
        if self.in_grace:
            holds.append(Held(owner="the agent's start", scopes=HELD_BY_LOCK, expires_at_ms=self._grace_until_ms))
        disabling = None if self.enabled else self._disabling
        return Willingness(
            enabled=disabling is None,
            disabled_until_ms=disabling.until_ms if disabling else None,
            why_disabled=disabling.why if disabling else "",
            holds=tuple(holds),
        )

    def report(self) -> Availability:
        """Return what the cloud is told of it."""
        disabling = None if self.enabled else self._disabling
        holds = [_info(hold) for hold in self._holds]
        if self.lock_held():
            holds.insert(0, HoldInfo(owner="a shell", why=self._lock_path.name, scopes=tuple(sorted(HELD_BY_LOCK))))
        return Availability(
            enabled=disabling is None,
            disabled_until_ms=disabling.until_ms if disabling else None,
            holds=tuple(holds[:MAX_HOLDS]),
        )

    def next_change(self) -> float | None:
        """Return when (of `monotonic`) the answer changes by itself."""
        times = [self._disabled_ends, self._grace_ends]
        return min((due for due in times if due is not None and due > self._monotonic()), default=None)

    def lock_held(self) -> bool:
        """Tell whether a shell holds the lock file; if so, `changed` is called when it does not any more."""
        try:
            held = shell_lock_held(self._lock_path)
        except ControlError as error:
            _LOG.warning("%s", error)
            return False
        if held and not self._awaiting_lock.is_set():
            self._awaiting_lock.set()
            threading.Thread(target=self._await_lock, name="hold-lock", daemon=True).start()
        return held

    def _await_lock(self) -> None:
        try:
            descriptor = os.open(self._lock_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            finally:
                os.close(descriptor)
        except OSError as error:
            _LOG.warning("the end of the hold by %s cannot be waited for: %s", self._lock_path, error.strerror)
        self._awaiting_lock.clear()
        self.changed()

    def _set(self, disabling: Disabling | None) -> None:
        self._disabled_ends = None
        if disabling is not None and disabling.until_ms is not None:
            left_ms = min(disabling.until_ms - self._now() * 1000, disabling.duration_ms)
            self._disabled_ends = self._monotonic() + left_ms / 1000
        self._disabling = disabling


def boot_id() -> str:
    """Return what tells this boot of the device from every other, or the empty text."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _nothing() -> None:
    pass


def _scopes(hold: Hold) -> frozenset[Scope]:
    return frozenset(Scope(name) for name in hold.scope)


def _info(hold: Hold) -> HoldInfo:
    why, _, who = hold.owner.rpartition(" (")
    return HoldInfo(
        owner=who.rstrip(")")[:100],
        why=why[:200],
        scopes=tuple(sorted(_scopes(hold))),
        expires_at_ms=max(0, round(hold.expires_at * 1000)),
    )
