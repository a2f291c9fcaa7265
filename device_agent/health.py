"""Whether a version does its work: checks that are probed, and the pure judge of a trial.

The policy by which `judge` decides, in order:

1. A version that ended by itself has failed (START_FAILED), and so has one whose image is not the one that was to be
   tried (WRONG_BOOT). Nothing makes up for either.
2. It becomes healthy with the first probe that passes; that may come late, but not after `prove_timeout_s` from its
   start. From then on it soaks: it is proved by a probe that passes `soak_s` or more after that first one, with
   none that failed between them. Time without probes proves nothing.
3. A probe that fails while it soaks breaks the soak, which begins anew with the next one that passes;
   `max_failures` failed ones in a row, once it was healthy, have it fail at once (HEALTH_FAILED). So a version that
   passes its first second and then fails does fail, and a single probe that was too slow costs time and no version.
4. If it needs to, the broker was reached (BROKER_UNREACHED) and the application confirmed (NOT_CONFIRMED) since its
   start. Both, like the first probe that passes, are waited for up to `prove_timeout_s`, or to the soak's end if that
   is later (and `probe_s` more, for the probe that shows it). What is lacking at that deadline is what it fails of:
   health, then broker, then confirmation. Time in which the agent itself stood still does not count (`trial`).
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import math
import os
import socket
import threading
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from device_agent.commands import expand, run
from protocol.errors import UserError
from protocol.phases import Reason

MAX_DETAIL: Final = 300


@dataclass(frozen=True, slots=True)
class Health:
    """What one probe found; `detail` says why it did not pass."""

    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """Healthy while a GET of `url` is answered with a status of 200 to 299; no redirect is followed.

    Raises UserError for a URL that is not http:// on this device itself: what another machine answers says nothing.
    """

    url: str

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme != "http" or not _is_loopback(parts.hostname) or parts.username is not None:
            raise UserError(f"{self.url!r:.200} is no health check: http:// on 127.0.0.1, [::1] or localhost is")
        if not _has_port(parts):
            raise UserError(f"{self.url!r:.200} is no health check: its port is not a number up to 65535")


@dataclass(frozen=True, slots=True)
class ExecCheck:
    """Healthy while a command ends with 0 in time; it may hold `{python}` and `{image}`."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class AliveCheck:
    """Healthy while the application runs."""


Check = HttpCheck | ExecCheck | AliveCheck


def probe(check: Check, timeout_s: float, *, alive: Callable[[], bool], image: Path | None = None) -> Health:
    """Return how the application is, within about `timeout_s`; never raises. Nothing that does not run is healthy."""
    try:
        if not alive():
            return Health(passed=False, detail="it does not run")
        match check:
            case HttpCheck(url):
                return _probe_http(url, timeout_s)
            case ExecCheck(command, environment, directory):
                return _probe_command(expand(command, image), timeout_s, os.environ | dict(environment), directory)
            case AliveCheck():
                return Health(passed=True)
    except Exception as error:  # noqa: BLE001 - whatever an application makes of a probe, it is not well
        return Health(passed=False, detail=f"{type(error).__name__}: {error}"[:MAX_DETAIL])


def _probe_http(url: str, timeout_s: float) -> Health:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    # A socket's timeout is for each byte; the timer is for the answer, however slowly it drips.
    late = threading.Event()
    timer = threading.Timer(timeout_s, _hang_up, (connection, late))
    timer.daemon = True
    timer.start()
    try:
        path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request("GET", path, headers={"User-Agent": "fleetlift-agent", "Connection": "close"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        why = f"no answer within {timeout_s:g} s" if late.is_set() or isinstance(error, TimeoutError) else str(error)
        return Health(passed=False, detail=f"{url}: {why or type(error).__name__}"[:MAX_DETAIL])
    finally:
        timer.cancel()
        connection.close()
    if late.is_set():  # what was there when the line was cut reads like an answer
        return Health(passed=False, detail=f"{url}: no answer within {timeout_s:g} s"[:MAX_DETAIL])
    return Health(passed=200 <= status < 300, detail="" if 200 <= status < 300 else f"{url}: status {status}")


def _hang_up(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    late.set()
    opened = connection.sock
    if opened is not None:
        with contextlib.suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)


def _probe_command(
    command: Sequence[str], timeout_s: float, environment: Mapping[str, str], directory: Path | None
) -> Health:
    ran = run(command, timeout_s, environment=environment, directory=directory)
    if ran.passed:
        return Health(passed=True)
    how = f"no end within {timeout_s:g} s" if ran.code is None else f"exit code {ran.code}"
    return Health(passed=False, detail=f"{how}: {ran.output}"[:MAX_DETAIL] if ran.output else how)


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _has_port(parts: urllib.parse.SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvePolicy:
    """How long a version soaks, by when it must be proved (seconds from its start), and what else it needs."""

    soak_s: float
    prove_timeout_s: float
    needs_confirm: bool = False
    needs_broker: bool = True
    max_failures: int = 2
    probe_s: float = 6.0
    """The longest from the beginning of one probe to the end of the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """All that was seen of one trial; times are seconds of one clock that only goes forward.

    The methods return what it is with one thing more; `judge` needs nothing else.
    """

    started_s: float
    expected_digest: str
    booted_digest: str
    healthy_since_s: float | None = None
    healthy_until_s: float | None = None
    was_healthy: bool = False
    failures: int = 0
    failure: str = ""
    ended: str | None = None
    broker_reached: bool = False
    confirmed: bool = False

    def probed(self, at_s: float, health: Health) -> Observations:
        """Return them with a probe that was begun at `at_s`."""
        if health.passed:
            since_s = at_s if self.healthy_since_s is None else self.healthy_since_s
            return replace(self, healthy_since_s=since_s, healthy_until_s=at_s, was_healthy=True, failures=0)
        return replace(
            self, healthy_since_s=None, healthy_until_s=None, failures=self.failures + 1, failure=health.detail
        )

    def ended_by_itself(self, detail: str) -> Observations:
        """Return them with the application's end."""
        return replace(self, ended=detail)

    def reached_broker(self) -> Observations:
        """Return them with an answer of the broker that came since the start."""
        return replace(self, broker_reached=True)

    def was_confirmed(self) -> Observations:
        """Return them with the application's confirmation, given since the start."""
        return replace(self, confirmed=True)


@dataclass(frozen=True, slots=True)
class Proved:
    """The trial is good."""


@dataclass(frozen=True, slots=True)
class ProofFailed:
    """The trial is bad."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """Not known yet: probe on, and judge again by `until_s` at the latest, whatever happens."""

    until_s: float


Verdict = Proved | ProofFailed | Undecided


def judge(seen: Observations, policy: ProvePolicy, now_s: float) -> Verdict:
    """Return what is to be thought of a trial by `now_s`, by the policy at the head of this file."""
    if seen.ended is not None:
        return ProofFailed(Reason.START_FAILED, seen.ended)
    if seen.booted_digest != seen.expected_digest:
        return ProofFailed(Reason.WRONG_BOOT, f"started {seen.booted_digest}, not {seen.expected_digest}")
    if seen.was_healthy and seen.failures >= policy.max_failures:
        return ProofFailed(Reason.HEALTH_FAILED, f"it was healthy, and then not: {seen.failure}")
    last_chance_s, soaked_s = seen.started_s + policy.prove_timeout_s, math.inf
    if seen.healthy_since_s is not None and seen.healthy_since_s <= last_chance_s:
        soaked_s = seen.healthy_since_s + policy.soak_s
    soaked = seen.healthy_until_s is not None and seen.healthy_until_s >= soaked_s
    lacking = _lacking(seen, policy, soaked=soaked)
    if lacking is None:
        return Proved()
    deadline_s = last_chance_s if math.isinf(soaked_s) else max(last_chance_s, soaked_s + policy.probe_s)
    if now_s >= deadline_s:
        return lacking
    return Undecided(soaked_s if now_s < soaked_s < deadline_s else deadline_s)


def _lacking(seen: Observations, policy: ProvePolicy, *, soaked: bool) -> ProofFailed | None:
    within = f"within {policy.prove_timeout_s:g} s"
    if not soaked:
        why = f"it did not stay healthy {within}" if seen.was_healthy else f"it did not become healthy {within}"
        return ProofFailed(Reason.HEALTH_FAILED, f"{why}: {seen.failure}" if seen.failure else why)
    if policy.needs_broker and not seen.broker_reached:
        return ProofFailed(Reason.BROKER_UNREACHED, f"the broker was not reached {within}")
    if policy.needs_confirm and not seen.confirmed:
        return ProofFailed(Reason.NOT_CONFIRMED, f"the application did not confirm {within}")
    return None
