"""Keeps the identity alive while the agent runs: renews the certificate in time, and follows the authorities.

1. The server is asked in a thread of its own; everything else happens in the agent's loop.
2. Nothing waits for it and nothing is stopped by it: what fails is tried again later, told in `status`, and logged when
   it is something new, or once a day.
3. A new certificate is in force at the next connection, which is made when no update is under way. The pair before is
   removed when the broker has taken the new one.
4. A broker that refuses what the device says may have heard that it is revoked, which only the next connection tells:
   so that is made, once an hour at most.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from device_agent.clock import DeviceClock, describe
from device_agent.identity.renewal import PAUSES, Pauses, certificate_due_s, lot, next_authorities_s, next_certificate_s
from device_agent.identity.store import Identity, IdentityFilesError, IdentityStore, RenewalTries, Tries
from device_agent.loop import Loop, Worker
from protocol.errors import FleetliftError

LOOK_AGAIN_S: Final = 3600.0
IDLE_AGAIN_S: Final = 15.0
LOG_AGAIN_S: Final = 86_400.0
_LOG = logging.getLogger(__name__)


class Asks(Protocol):
    """Asks the server (`asking.Asking`); blocking, and raises FleetliftErrors."""

    def certificate(self, identity: Identity) -> Identity:
        """Renew."""

    def authorities(self, identity: Identity) -> bool:
        """Follow the authorities."""


class Reconnects(Protocol):
    """The link, as far as a certificate concerns it (`link.Link`)."""

    @property
    def is_up(self) -> bool:
        """Whether the broker is connected."""

    def reconnect(self) -> None:
        """Connect anew."""


class IdentityKeeper:
    """One device's. `start` is for the loop's thread, `status` for any; `is_idle()`: no update is under way."""

    def __init__(
        self,
        store: IdentityStore,
        identity: Identity,
        *,
        asks: Asks,
        link: Reconnects,
        clock: DeviceClock,
        loop: Loop,
        worker: Worker,
        is_idle: Callable[[], bool],
        pauses: Pauses = PAUSES,
    ) -> None:
        self._store = store
        self._identity = identity
        self._asks = asks
        self._link = link
        self._clock = clock
        self._loop = loop
        self._worker = worker
        self._is_idle = is_idle
        self._pauses = pauses
        self._tries = store.tries()
        self._busy = False
        self._problems: dict[str, str] = {}
        self._logged: dict[str, tuple[str, float]] = {}
        self._doubted_at_s = float("-inf")

    def start(self) -> None:
        """Begin."""
        self._tidy_now()
        self._look()

    def denied(self) -> None:
        """Hear, in the loop's thread, that the broker refused something that the device may do."""
        now_s = self._loop.monotonic()
        if now_s - self._doubted_at_s >= LOOK_AGAIN_S:
            self._doubted_at_s = now_s
            self._reconnect()

    def status(self) -> Mapping[str, Any]:
        """Return how the identity stands: JSON values."""
        identity, tries = self._identity, self._tries.certificate
        return {
            "device_id": identity.device_id,
            "certificate": identity.certificate.removeprefix("device-").removesuffix(".pem"),
            "not_before_ms": identity.not_before_ms,
            "not_after_ms": identity.not_after_ms,
            "renewal_due_ms": round(self._due_s() * 1000),
            "renewal_failures": tries.failures,
            "problem": "; ".join(self._problems.values()) or None,
            "clock_behind": self._clock.is_behind,
        }

    def _due_s(self) -> float:
        identity = self._identity
        return certificate_due_s(identity.not_before_ms / 1000, identity.not_after_ms / 1000, lot(identity.certificate))

    def _look(self) -> None:
        """Do what is due, or come again when it is; hourly at least, for clocks are set."""
        self._heed_others()
        if self._busy:
            return
        now, identity = self._clock.now(), self._identity
        place = lot(identity.device_id)
        certificate_s = next_certificate_s(
            identity.not_before_ms / 1000,
            identity.not_after_ms / 1000,
            self._tries.certificate,
            now,
            place=lot(identity.certificate),
            chance=_chance(identity, self._tries.certificate),
            pauses=self._pauses,
        )
        authorities_s = next_authorities_s(
            self._tries.authorities,
            now,
            place=place,
            chance=_chance(identity, self._tries.authorities),
            pauses=self._pauses,
        )
        if certificate_s <= now:
            self._ask("certificate")
        elif authorities_s <= now:
            self._ask("authorities")
        else:
            pause_s = min(LOOK_AGAIN_S, certificate_s - now, authorities_s - now)
            self._loop.after("identity", pause_s, self._look)

    def _heed_others(self) -> None:
        """Follow who enrolled this device anew meanwhile."""
        try:
            found = self._store.load()
        except IdentityFilesError as error:
            self._fail("files", str(error))
            return
        self._problems.pop("files", None)
        if found is not None and found != self._identity and found.device_id == self._identity.device_id:
            self._use(found)

    def _ask(self, what: str) -> None:
        self._busy = True
        identity = self._identity

        def call() -> None:
            try:
                answer = self._asks.certificate(identity) if what == "certificate" else self._asks.authorities(identity)
            except FleetliftError as error:
                text = str(error)
                self._loop.post(lambda: self._asked(what, identity, text))
            except Exception as error:  # noqa: BLE001 - whatever a server answers, it is asked again
                _LOG.exception("the identity's %s", what)
                text = f"{type(error).__name__}: {error}"
                self._loop.post(lambda: self._asked(what, identity, text))
            else:
                self._loop.post(lambda: self._asked(what, answer if isinstance(answer, Identity) else identity, None))

        self._worker.submit(call)

    def _asked(self, what: str, identity: Identity, problem: str | None) -> None:
        self._busy = False
        now_s = max(0, int(self._clock.now()))
        before: Tries = getattr(self._tries, what)
        if problem is None:
            tries = Tries(tried_at_s=now_s, done_at_s=now_s)
            self._problems.pop(what, None)
            self._logged.pop(what, None)
        else:
            tries = Tries(failures=before.failures + 1, tried_at_s=now_s, done_at_s=before.done_at_s)
            self._fail(what, problem)
        self._keep(dataclasses.replace(self._tries, **{what: tries}))
        if identity != self._identity:
            _LOG.info("the certificate was renewed until %s", describe(identity.not_after_ms / 1000))
            self._use(identity)
        self._look()

    def _keep(self, tries: RenewalTries) -> None:
        self._tries = tries
        try:
            self._store.keep_tries(tries)
        except IdentityFilesError as error:
            _LOG.warning("what came of a renewal is only kept until the agent ends: %s", error)

    def _fail(self, what: str, problem: str) -> None:
        self._problems[what] = problem
        before, at_s = self._logged.get(what, ("", float("-inf")))
        now = self._loop.monotonic()
        if problem != before or now - at_s >= LOG_AGAIN_S:
            self._logged[what] = (problem, now)
            ends = describe(self._identity.not_after_ms / 1000)
            _LOG.warning("the identity's %s: %s; the certificate ends %s", what, problem, ends)

    def _use(self, identity: Identity) -> None:
        self._identity = identity
        self._reconnect()

    def _reconnect(self) -> None:
        if not self._is_idle():
            self._loop.after("identity reconnect", IDLE_AGAIN_S, self._reconnect)
            return
        self._link.reconnect()
        self._loop.after("identity tidy", IDLE_AGAIN_S, self._tidy)

    def _tidy(self) -> None:
        if self._link.is_up:
            self._tidy_now()
        else:
            self._loop.after("identity tidy", IDLE_AGAIN_S, self._tidy)

    def _tidy_now(self) -> None:
        try:
            self._store.tidy(self._identity)
        except IdentityFilesError as error:
            _LOG.warning("an old key could not be removed: %s", error)


def _chance(identity: Identity, tries: Tries) -> float:
    """Return a number that looks like chance, and stays the same until the next try."""
    return lot(f"{identity.certificate} {tries.failures} {tries.tried_at_s}")
