"""Serves the local control socket (docs/control-socket.md): applications and shells ask, hold, confirm and listen.

1. A hold is a lease on its connection: it ends with the connection, with its time to live, or when it is released,
   whichever comes first. Nothing else ends it, and nothing outlives it.
2. Nothing that a peer sends or fails to read stops the loop: it gets an error line, or loses its connection.
3. The server knows nothing of updates: what a request means is the handler's, called in the server's own thread.
"""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from device_agent.control_requests import (
    Check,
    Confirm,
    Consent,
    ControlError,
    DataSynced,
    Decline,
    Defer,
    Disable,
    Enable,
    Gauge,
    Ready,
    ReleaseHold,
    RenewHold,
    ReportStatus,
    Request,
    Subscribe,
    TakeHold,
    Why,
    decode_id,
    decode_line,
    decode_request,
)
from device_agent.control_socket import MAX_CONNECTIONS, LineServer, Peer
from protocol.errors import FleetliftError

__all__ = ["ControlError", "ControlHandler", "ControlServer", "Hold", "shell_lock_held"]

MAX_HOLDS_PER_CONNECTION: Final = 16
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Somebody's reason to wait.

    `owner` is for people: why, and the process and user that the kernel vouches for. The times are seconds of the
    server's `now`, for display: the server alone decides when a lease ends, by a clock that nobody can set.
    """

    hold_id: str
    owner: str
    scope: frozenset[str]
    acquired_at: float
    expires_at: float


class ControlHandler(Protocol):
    """What stands behind the socket. Called in the server's thread: be quick, be thread-safe, never block.

    A FleetliftError raised here is answered to the peer with its text; anything else is logged and answered as
    `internal`. All calls are idempotent.
    """

    def status(self) -> dict[str, Any]:
        """Return the agent's state as JSON values; docs/control-socket.md says which keys the SDK reads."""

    def disable(self, until: float | None, why: str) -> None:
        """Start no update until `until` (seconds of `now`; None: until enabled); durable before it returns."""

    def enable(self) -> None:
        """Undo `disable`; a pending update may start."""

    def check(self) -> None:
        """Ask the cloud now."""

    def confirm(self) -> None:
        """Take the version that runs for good; without a version on trial, nothing."""

    def ready(self) -> None:
        """Install what is downloaded now, as the application is ready for it; without such, nothing."""

    def data_synced(self, synced: bool) -> None:
        """Let an update that changes the schema of the data go on, or wait again; without such, nothing."""

    def gauge(self, name: str, value: int, component: str | None) -> None:
        """Take a gauge of a component, of the only one if it is None."""

    def consent(self, component: str | None) -> None:
        """Let what asks for attention be installed; durable before it returns. Without such, nothing."""

    def defer(self, seconds: int, component: str | None) -> float:
        """Put it off; durable before it returns when it is asked for again (seconds of `now`)."""

    def decline(self, component: str | None) -> None:
        """Do not install it; durable before it returns."""

    def why(self, component: str | None) -> list[dict[str, Any]]:
        """Return the decision about a component, or about each, as JSON values (docs/control-socket.md)."""

    def holds_changed(self, holds: tuple[Hold, ...]) -> None:
        """Hear of every change of the holds in force."""


@dataclass(frozen=True, slots=True)
class _Lease:
    """A hold, the peer it lives with, and the `monotonic` second at which it ends."""

    hold: Hold
    peer: Peer
    deadline: float


class ControlServer:
    """Serves one agent's control socket in a thread of its own.

    `now` dates what is shown and what lasts (`disable`); leases are timed by `monotonic`, so that a device whose
    clock is set forward after boot does not lose its holds. `publish`, `holds` and `stop` may be called from anywhere.
    """

    def __init__(
        self,
        path: Path,
        handler: ControlHandler,
        now: Callable[[], float] = time.time,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handler = handler
        self._now = now
        self._monotonic = monotonic
        self._subscribers: set[Peer] = set()
        self._leases: tuple[_Lease, ...] = ()  # replaced, never changed: other threads read it
        self._hold_numbers = itertools.count(1)
        self._events: deque[bytes] = deque()
        too_many = ControlError(f"{MAX_CONNECTIONS} connections are open; close one", code="too_many_connections")
        self._lines = LineServer(
            path, answer=self._answer, closed=self._closed, tick=self._tick, crowded=_refused(None, too_many)
        )

    def start(self) -> None:
        """Bind the socket (mode 0660) and serve it; raises ControlError if it cannot be, or another agent serves it."""
        self._lines.start()

    def stop(self) -> None:
        """Send what was published, close every connection (their holds end) and remove the socket; idempotent."""
        self._lines.stop()

    def publish(self, event: Mapping[str, Any]) -> None:
        """Push `{"event": name, ...}` to every subscriber; never blocks, and one that does not read is dropped."""
        if not isinstance(event.get("event"), str):
            raise ControlError("an event has its name in the field 'event'; nothing was published")
        if self._lines.running:
            self._events.append(_line(event))
            self._lines.wake()

    def holds(self) -> tuple[Hold, ...]:
        """Return the holds in force, oldest first."""
        now = self._monotonic()
        return tuple(lease.hold for lease in self._leases if lease.deadline > now)

    # What the loop asks.

    def _answer(self, peer: Peer, line: bytes | None) -> bytes:
        request_id: int | None = None
        try:
            fields = decode_line(line)
            request_id = decode_id(fields)
            request = decode_request(fields)
            self._expire()
            return _line({"id": request_id, "ok": True, **self._perform(peer, request)})
        except FleetliftError as error:
            return _refused(request_id, error)
        except Exception:  # noqa: BLE001 - whatever failed behind one request, the next one is served
            _LOG.exception("the control request of process %d failed", peer.pid)
            return _refused(request_id, ControlError("the agent failed; its log says why", code="internal"))

    def _closed(self, peer: Peer) -> None:
        self._subscribers.discard(peer)
        self._keep(lambda lease: lease.peer is not peer)

    def _tick(self) -> float | None:
        self._expire()
        while self._events:
            line = self._events.popleft()
            for peer in list(self._subscribers):
                self._lines.send(peer, line)
        deadlines = [lease.deadline for lease in self._leases]
        return max(0.0, min(deadlines) - self._monotonic()) if deadlines else None

    def _perform(self, peer: Peer, request: Request) -> dict[str, Any]:
        match request:
            case TakeHold():
                return self._grant(peer, self._new_hold(peer, request), request.ttl_s)
            case RenewHold():
                return self._grant(peer, self._lease(peer, request.hold).hold, request.ttl_s)
            case ReleaseHold():
                released = self._lease(peer, request.hold)
                self._keep(lambda lease: lease is not released)
            case Subscribe():
                self._subscribers.add(peer)
                return {"status": self._status()}
            case ReportStatus():
                return {"status": self._status()}
            case _:
                return self._hand_on(request)
        return {}

    def _hand_on(self, request: Request) -> dict[str, Any]:
        match request:
            case Disable():
                until = None if request.until_s is None else self._now() + request.until_s
                self._handler.disable(until, request.why)
            case Enable():
                self._handler.enable()
            case Check():
                self._handler.check()
            case Confirm():
                self._handler.confirm()
            case Ready():
                self._handler.ready()
            case DataSynced():
                self._handler.data_synced(request.synced)
            case Gauge():
                self._handler.gauge(request.name, request.value, request.component)
            case Consent():
                self._handler.consent(request.component)
            case Defer():
                return {"until": self._handler.defer(request.seconds, request.component)}
            case Decline():
                self._handler.decline(request.component)
            case Why():
                return {"decisions": self._handler.why(request.component)}
        return {}

    def _status(self) -> dict[str, Any]:
        holds = [dataclasses.asdict(hold) | {"scope": sorted(hold.scope)} for hold in self.holds()]
        return {"holds": holds, **self._handler.status()}

    # Leases.

    def _new_hold(self, peer: Peer, request: TakeHold) -> Hold:
        if sum(lease.peer is peer for lease in self._leases) >= MAX_HOLDS_PER_CONNECTION:
            raise ControlError(f"a connection has at most {MAX_HOLDS_PER_CONNECTION} holds", code="too_many_holds")
        now = self._now()
        return Hold(
            hold_id=f"h{next(self._hold_numbers)}",
            owner=f"{request.why} (pid {peer.pid}, uid {peer.uid})",
            scope=request.scope,
            acquired_at=now,
            expires_at=now + request.ttl_s,
        )

    def _grant(self, peer: Peer, hold: Hold, ttl_s: int) -> dict[str, Any]:
        granted = dataclasses.replace(hold, expires_at=self._now() + ttl_s)
        leases = {lease.hold.hold_id: lease for lease in self._leases}
        leases[hold.hold_id] = _Lease(granted, peer, self._monotonic() + ttl_s)
        self._set_leases(list(leases.values()))
        return {"hold": hold.hold_id, "expires_at": granted.expires_at}

    def _lease(self, peer: Peer, hold_id: str) -> _Lease:
        for lease in self._leases:
            if lease.hold.hold_id == hold_id and lease.peer is peer:
                return lease
        raise ControlError(f"this connection has no hold {hold_id!r:.40} (any more)", code="unknown_hold")

    def _expire(self) -> None:
        now = self._monotonic()
        expired = [lease for lease in self._leases if lease.deadline <= now]
        self._keep(lambda lease: lease.deadline > now)
        for lease in expired:
            if lease.peer in self._subscribers:
                self._lines.send(lease.peer, _line({"event": "hold_expired", "hold": lease.hold.hold_id}))

    def _keep(self, wanted: Callable[[_Lease], bool]) -> None:
        kept = [lease for lease in self._leases if wanted(lease)]
        if len(kept) != len(self._leases):
            self._set_leases(kept)

    def _set_leases(self, leases: list[_Lease]) -> None:
        self._leases = tuple(leases)
        try:
            self._handler.holds_changed(tuple(lease.hold for lease in leases))
        except Exception:  # noqa: BLE001 - the leases stand, whoever failed to hear of them
            _LOG.exception("the handler failed to hear of a change of holds")


def shell_lock_held(path: Path) -> bool:
    """Tell whether a shell holds updates with `flock -s PATH command`; PATH is made if it is missing.

    The kernel frees the lock when the command, and whatever inherited it, is gone; it survives the agent's restarts.
    Raises ControlError if PATH cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o660)
    except OSError as error:
        raise ControlError(f"the lock file {path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)  # which also releases the lock
    return False


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _refused(request_id: int | None, error: FleetliftError) -> bytes:
    code = error.code if isinstance(error, ControlError) else "refused"
    return _line({"id": request_id, "ok": False, "error": code, "message": str(error)})
