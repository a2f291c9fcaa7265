"""Lets an application say when its device may be updated, and hear of updates: one file, standard library only.

    updates = Updates()  # finds the agent by the environment variable FLEETLIFT_CONTROL_SOCKET
    updates.on("firmware_update_pending", lambda event: print("version", event["version"], "waits"))
    with updates.hold("printing page 3"):  # nothing is installed, and nothing restarted, in here
        ...
    updates.disable_updates(why="infusion runs")  # lasts, over restarts too, until enable_updates()
    updates.on("attention_required", lambda event: updates.defer(600) if busy() else updates.consent())
    updates.confirm()  # this version, on trial or not, does its work

Copy this file into your application, under any name: it imports nothing of Fleetlift, so its errors have a root of
their own (the one exception to the project's tree). It speaks docs/control-socket.md.

Without an agent nothing fails: calls return quietly, `connected` says how things stand, and an agent that appears is
told what was wished last: disabled or enabled, the open holds, that this version was confirmed. With `required=True`
it is an UpdatesUnavailableError instead.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

SOCKET_VARIABLE: Final = "FLEETLIFT_CONTROL_SOCKET"
COMPONENT_VARIABLE: Final = "FLEETLIFT_COMPONENT"
PENDING: Final = "firmware_update_pending"
ATTENTION: Final = "attention_required"
DATA_SYNC: Final = "data_sync_wanted"
EVENTS: Final = (
    PENDING, ATTENTION, DATA_SYNC, "update_ready", "installing", "restarting", "forced", "update_installed",
    "update_rolled_back", "updates_enabled", "updates_disabled",
)  # fmt: skip
ANY_EVENT: Final = "*"
DEFAULT_SCOPE: Final = ("install", "restart")

Event = Mapping[str, Any]
Handler = Callable[[Event], object]
_Answer = Mapping[str, Any] | None

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0  # a new agent waits longer than this for the holds of the one before
_REFRESH_S: Final = 15.0
_MAX_ANSWER_BYTES: Final = 1024 * 1024

_LOG = logging.getLogger("fleetlift.sdk")


class UpdatesError(Exception):
    """The root of this file's errors."""


class UpdatesUnavailableError(UpdatesError):
    """There is no agent, or it does not answer, and one is required."""


class UpdatesRefusedError(UpdatesError):
    """The agent refused the request; `code` is its word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


@dataclass(eq=False)
class UpdateHold:
    """A reason to wait; `hold_id` is the agent's name for it, None while no agent knows of it."""

    fields: Mapping[str, Any]
    hold_id: str | None = None


@dataclass(eq=False)
class _Call:
    """A request on its way: settled, in the connection's thread, by its answer, or by None when that is lost."""

    then: Callable[[_Answer], None] = lambda _: None
    answer: _Answer = None
    settled: threading.Event = field(default_factory=threading.Event)

    def settle(self, answer: _Answer) -> None:
        self.answer = answer
        self.then(answer)
        self.settled.set()


class Updates(contextlib.AbstractContextManager["Updates"]):
    """The application's line to the agent of its device. Thread-safe; close it, or let the process end.

    `socket_path` is the agent's control socket (default: the environment variable FLEETLIFT_CONTROL_SOCKET; without
    both there is no agent). `timeout_s` bounds every wait for an answer, that of the constructor included.
    One thread keeps the connection; another runs the handlers, one at a time, in the order of the events.
    """

    def __init__(
        self, socket_path: str | os.PathLike[str] | None = None, *, required: bool = False, timeout_s: float = 5.0
    ) -> None:
        self._path = os.fspath(socket_path or os.environ.get(SOCKET_VARIABLE, ""))
        self._required = required
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._sock: socket.socket | None = None
        self._calls: dict[int, _Call] = {}
        self._call_number = 0
        self._connected = False
        self._closing = False
        # What the application wishes; every agent is told anew.
        self._wish: tuple[str, float, dict[str, Any]] | None = None  # disable or enable, until when (monotonic), fields
        self._holds: list[UpdateHold] = []
        self._confirmed = False
        self._gauges: dict[str, dict[str, Any]] = {}
        # What the agent said last, and when it was asked.
        self._status: dict[str, Any] = {}
        self._asked_at = 0.0
        self._handlers: list[tuple[str, Handler]] = []
        self._to_tell: queue.SimpleQueue[tuple[Handler, Event] | None] = queue.SimpleQueue()
        self._waker, self._woken = socket.socketpair()
        self._tried = threading.Event()
        loops = (self._keep_connected, self._tell)
        self._threads = [threading.Thread(target=loop, name="fleetlift-updates", daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()
        self._tried.wait(timeout_s)
        if required and not self._connected:
            self.close()
            raise UpdatesUnavailableError(f"no agent answers at {self._path or f'(${SOCKET_VARIABLE} is not set)'}")

    # What an application asks. Without an agent: False or {}. What the agent refuses raises UpdatesRefusedError.

    def disable_updates(self, until_s: float | None = None, why: str = "") -> bool:
        """Let no update start, for `until_s` seconds or until `enable_updates`; tell whether the agent took it.

        It outlives this process, and the agent's: what must end with this process is a `hold`.
        """
        if until_s is None:
            return self._ask_wish("disable", math.inf, why=why)
        return self._ask_wish("disable", time.monotonic() + until_s, why=why, until_s=math.ceil(until_s))

    def enable_updates(self) -> bool:
        """Let updates start again, the pending one first; tell whether the agent took it."""
        return self._ask_wish("enable", math.inf)

    @contextlib.contextmanager
    def hold(self, why: str, scope: Iterable[str] = DEFAULT_SCOPE, ttl_s: int = 3600) -> Iterator[UpdateHold]:
        """Make updates wait within a `with` block: of `download`, `install` and `restart` those in `scope`.

        Renewed in the background, and taken again from an agent that was restarted. `ttl_s` bounds how long it stays
        in force if this process stops without ending.
        """
        hold = UpdateHold({"why": why, "scope": sorted(scope), "ttl_s": ttl_s})
        self._holds.append(hold)
        try:
            self._ask("hold", _Call(lambda answer: self._held(hold, answer)), **hold.fields)
            yield hold
        finally:
            with self._lock:
                self._holds.remove(hold)
                hold_id, hold.hold_id = hold.hold_id, None
                if hold_id is not None:
                    self._send("release", _Call(), {"hold": hold_id})

    def confirm(self) -> bool:
        """Say that this version does its work, so that a trial of it may end well; tell whether the agent took it."""
        self._confirmed = True
        return self._ask("confirm") is not None

    def ready(self) -> bool:
        """Say that what is downloaded may be installed now; tell whether the agent took it."""
        return self._ask("ready") is not None

    def consent(self) -> bool:
        """Agree to the update that asks for attention; tell whether the agent took it. Also undoes a `decline`."""
        return self._ask("consent") is not None

    def defer(self, seconds: float) -> bool:
        """Be asked again in a while; tell whether the agent took it."""
        return self._ask("defer", seconds=math.ceil(seconds)) is not None

    def decline(self) -> bool:
        """Do without the update that asks for attention, if it is optional; tell whether the agent took it."""
        return self._ask("decline") is not None

    def data_synced(self, synced: bool = True) -> bool:
        """Say that the data is synced and rests, so that its schema may change; tell whether the agent took it.

        False takes it back, for whoever writes on, and so does a start of the application: it is asked anew.
        """
        return self._ask("data_synced", synced=synced) is not None

    def report_gauge(self, name: str, value: int, component: str | None = None) -> bool:
        """Tell the operator a whole number that shows how this application does; tell whether the agent took it.

        Call it whenever the number changes: the agent tells the cloud at its own pace. At most 16 names (a-z, 0-9, -).
        """
        component = component or os.environ.get(COMPONENT_VARIABLE)
        fields: dict[str, Any] = {"name": name, "value": value} | ({"component": component} if component else {})
        with self._lock:
            self._gauges[name] = fields
        return self._ask("gauge", **fields) is not None

    def check_for_updates(self) -> bool:
        """Have the agent ask the cloud now; tell whether it took it."""
        return self._ask("check") is not None

    def status(self) -> dict[str, Any]:
        """Return the agent's whole state, asked for now."""
        answer = self._ask("status", _Call(self._absorb))
        return {} if answer is None else dict(answer.get("status", {}))

    def why(self, component: str | None = None) -> list[dict[str, Any]]:
        """Return what is to be done about each component, or one: every rule that says so, and for what it waits."""
        answer = self._ask("why", component=component)
        return [] if answer is None else list(answer.get("decisions", []))

    # What the agent said last. Never waits: kept fresh by every event and every call, and every 15 seconds.

    @property
    def connected(self) -> bool:
        """Tell whether there is an agent that answers."""
        return self._connected

    @property
    def updates_enabled(self) -> bool:
        """Tell whether updates may start; without an agent, what was wished last."""
        return self._status.get("updates_enabled") is not False

    @property
    def updates_pending(self) -> bool:
        """Tell whether a newer release waits."""
        return isinstance(self._status.get("pending"), dict)

    @property
    def attention(self) -> Event | None:
        """Return the update that somebody at the device is asked about, `version` and `optional` among its fields."""
        found = self._status.get("attention")
        return found if isinstance(found, dict) and found.get("state") == "asked" else None

    @property
    def data_sync(self) -> Event | None:
        """Return the update that waits until the application calls `data_synced`: `version`, `data_schema`."""
        found = self._status.get("data_sync")
        return found if isinstance(found, dict) else None

    @property
    def updates_forced(self) -> bool:
        """Tell whether an operator forces the update, whatever the application wishes."""
        return self._status.get("updates_forced") is True

    def on(self, event: str, handler: Handler) -> None:
        """Call `handler(event)` for every event of this name, or of any for `*`; raises ValueError for another name.

        The event is a mapping with its name under `event`. An update that waits or asks already is told when the
        handler is added, and when the connection comes back: a handler hears of each at least once.
        """
        if event not in (*EVENTS, ANY_EVENT):
            raise ValueError(f"{event!r} is not one of {', '.join(EVENTS)} or {ANY_EVENT!r}")
        with self._lock:
            self._handlers.append((event, handler))
            for waiting in self._waiting():
                if event in (waiting["event"], ANY_EVENT):
                    self._to_tell.put((handler, waiting))

    def close(self) -> None:
        """End the connection, and so the holds; what `disable_updates` said stays. Idempotent."""
        self._closing = True
        self._waker.close()  # which the connection's thread sees as an end
        self._to_tell.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(self._timeout_s)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, operation: str, call: _Call | None = None, **fields: Any) -> _Answer:
        call = call or _Call()
        if self._send(operation, call, fields) and call.settled.wait(self._timeout_s) and call.answer is not None:
            if call.answer.get("ok") is not True:
                raise UpdatesRefusedError(str(call.answer.get("error")), str(call.answer.get("message")))
            return call.answer
        if self._required:
            raise UpdatesUnavailableError(f"the agent at {self._path} did not answer {operation!r}")
        return None

    def _send(self, operation: str, call: _Call, fields: Mapping[str, Any]) -> bool:
        with self._lock:
            if self._sock is None:
                return False
            self._call_number += 1
            self._calls[self._call_number] = call
            line = json.dumps({"op": operation, "id": self._call_number, **fields}, separators=(",", ":")).encode()
            try:
                self._sock.sendall(line + b"\n")
            except OSError:
                del self._calls[self._call_number]
                with contextlib.suppress(OSError):  # half a line may be out; the reader sees the end and reconnects
                    self._sock.shutdown(socket.SHUT_RDWR)
                return False
            return True

    def _ask_wish(self, operation: str, until: float, **fields: Any) -> bool:
        self._wish = (operation, until, fields)
        taken = self._ask(operation, **fields) is not None
        self._status = {**self._status, "updates_enabled": operation == "enable"}
        return taken

    def _ask_for(self, hold: UpdateHold) -> None:
        call = _Call(lambda answer: self._held(hold, answer))
        if hold.hold_id is None:
            self._send("hold", call, hold.fields)
        else:
            self._send("renew", call, {"hold": hold.hold_id, "ttl_s": hold.fields["ttl_s"]})

    # In the connection's thread.

    def _held(self, hold: UpdateHold, answer: _Answer) -> None:
        with self._lock:
            granted = (answer or {}).get("hold")  # None: refused, and asked for again when it is time
            if granted is None or (hold in self._holds and hold.hold_id in (None, granted)):
                hold.hold_id = granted
            else:  # given back meanwhile, or asked for twice around a reconnection
                self._send("release", _Call(), {"hold": granted})

    def _absorb(self, answer: _Answer, event: Event | None = None) -> None:
        if answer is not None and isinstance(status := answer.get("status"), dict):
            self._status = status
        if event is not None:
            self._announce(event)

    def _greeted(self, answer: _Answer) -> None:
        self._absorb(answer)
        self._connected = answer is not None and answer.get("ok") is True
        self._tried.set()
        for waiting in self._waiting() if self._connected else ():
            self._announce(waiting)

    def _waiting(self) -> list[Event]:
        pending = self._status["pending"] if self.updates_pending else None
        found = {PENDING: pending, ATTENTION: self.attention, DATA_SYNC: self.data_sync}
        return [{**fields, "event": name} for name, fields in found.items() if fields is not None]

    def _announce(self, event: Event) -> None:
        with self._lock:
            for name, handler in self._handlers:
                if name in (event["event"], ANY_EVENT):
                    self._to_tell.put((handler, event))

    def _heard(self, message: Mapping[str, Any]) -> None:
        if message.get("event") == "hold_expired":
            for hold in self._holds:
                if hold.hold_id == message.get("hold"):
                    hold.hold_id, self._asked_at = None, 0.0
        elif "event" in message:  # told once the state is at least as new
            call = _Call(lambda answer: self._absorb(answer, message))
            if not self._send("status", call, {}):
                call.settle(None)
        else:
            self._calls.pop(message.get("id", 0), _Call()).settle(message)

    def _tell(self) -> None:
        while (item := self._to_tell.get()) is not None:
            handler, event = item
            try:
                handler(event)
            except Exception:  # noqa: BLE001 - the application's mistake does not silence the next event
                _LOG.exception("the handler of %s failed", event["event"])

    def _keep_connected(self) -> None:
        pause_s = _FIRST_PAUSE_S
        with self._woken, selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            while self._path and not self._closing:
                if (sock := _connect(self._path, self._timeout_s)) is not None:
                    with sock:
                        selector.register(sock, selectors.EVENT_READ)
                        try:
                            self._greet(sock)
                            self._converse(sock, selector)
                        except Exception as error:  # noqa: BLE001 - whatever came, a new connection begins afresh
                            _LOG.warning("the connection to the agent was of no use: %s", error)
                        selector.unregister(sock)
                        pause_s = _FIRST_PAUSE_S if self._connected else pause_s
                        self._lose()
                self._tried.set()
                selector.select(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self._tried.set()

    def _greet(self, sock: socket.socket) -> None:
        with self._lock:
            self._sock, self._asked_at = sock, time.monotonic()
            if self._wish is not None and (left_s := self._wish[1] - time.monotonic()) > 0:
                operation, _, fields = self._wish
                self._send(operation, _Call(), fields | ({"until_s": math.ceil(left_s)} if "until_s" in fields else {}))
            for hold in self._holds:
                self._ask_for(hold)
            if self._confirmed:
                self._send("confirm", _Call(), {})
            for gauge in self._gauges.values():
                self._send("gauge", _Call(), gauge)
            self._send("subscribe", _Call(self._greeted), {})

    def _converse(self, sock: socket.socket, selector: selectors.BaseSelector) -> None:
        inbox = bytearray()
        while not self._closing and len(inbox) <= _MAX_ANSWER_BYTES:
            if sock not in [key.fileobj for key, _ in selector.select(self._keep_fresh())]:
                continue
            if not (data := sock.recv(64 * 1024)):
                return
            *lines, inbox = (inbox + data).split(b"\n")
            for line in lines:
                self._heard(json.loads(line))

    def _keep_fresh(self) -> float:
        # Renews the holds and asks for the state when it is time; returns the seconds until it is time again.
        with self._lock:
            interval_s: float = min([_REFRESH_S, *(hold.fields["ttl_s"] / 3 for hold in self._holds)])
            if (wait_s := self._asked_at + interval_s - time.monotonic()) > 0:
                return wait_s
            self._asked_at = time.monotonic()
            for hold in self._holds:
                self._ask_for(hold)
            self._send("status", _Call(self._absorb), {})
            return interval_s

    def _lose(self) -> None:
        with self._lock:
            self._sock, self._connected = None, False
            calls, self._calls = self._calls, {}
            for hold in self._holds:
                hold.hold_id = None
        for call in calls.values():
            call.settle(None)


def _connect(path: str, timeout_s: float) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        # Through its directory's descriptor, for an address has at most 107 bytes.
        directory = os.open(Path(path).parent, os.O_PATH | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{Path(path).name}")
        finally:
            os.close(directory)
    except OSError:
        sock.close()
        return None
    return sock
