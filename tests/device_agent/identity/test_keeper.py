"""An identity is kept alive: renewed from a real server, in a loop with its own clock, past whatever goes wrong."""

from __future__ import annotations

import dataclasses
import logging
import queue
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud.pki.authorities import Authorities
from device_agent.clock import DeviceClock
from device_agent.identity.asking import Asking
from device_agent.identity.enrolling import Applicant, enrol
from device_agent.identity.keeper import IdentityKeeper
from device_agent.identity.keys import OpensslKeys
from device_agent.identity.renewal import Pauses
from device_agent.identity.store import Identity, IdentityFilesError, IdentityStore
from device_agent.loop import Call, Loop
from device_agent.tls import verifying_context
from tests.support.enrolment_desk import PRODUCT, EnrolmentDesk

DAY_S = 86_400.0
TIMEOUT_S = 20.0


class FakeLink:
    """A link that counts how often it connected anew."""

    def __init__(self) -> None:
        self.is_up = True
        self.reconnects = 0

    def reconnect(self) -> None:
        self.reconnects += 1


class SameThread:
    """A worker that works when it is told to."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Call] = queue.SimpleQueue()

    def submit(self, call: Call) -> None:
        self.calls.put(call)

    def stop(self, timeout_s: float) -> None:
        pass


class Kept:
    """One enrolled device, days of whose life pass when `pass_` is called."""

    def __init__(self, store: IdentityStore, desk: EnrolmentDesk) -> None:
        self.store, self.desk = store, desk
        self.since_s = 0.0
        self.clock_error_s = 0.0
        self.idle = True
        self.link = FakeLink()
        self.worker = SameThread()
        self.clock = DeviceClock(lambda: 0.0, wall=self._wall, monotonic=self._monotonic)
        store.directory.parent.mkdir()
        self.begin_s = 0.0
        root = store.directory.parent / "root.json"
        applicant = Applicant(device_id="pi-1", product=PRODUCT, hardware_model="pi4", root=root)
        self.first = enrol(
            applicant, desk.code, desk.url, store, keys=OpensslKeys(), clock=self.clock, say=lambda _text: None
        )
        self.begin_s = self.first.not_before_ms / 1000
        desk.issuer = Authorities(desk.fleet.directory / "ca", now=lambda: datetime.fromtimestamp(self._true(), UTC))
        self.loop = Loop(self._monotonic)
        self.loop.failed = self._failed
        self.keeper = self.start()

    def _wall(self) -> float:
        return self.begin_s + self.since_s + self.clock_error_s

    def _true(self) -> float:
        return self.begin_s + self.since_s

    def _monotonic(self) -> float:
        return self.since_s

    @staticmethod
    def _failed(error: Exception) -> None:
        raise error

    def start(self) -> IdentityKeeper:
        identity = self.store.load()
        assert identity is not None
        asking = Asking(self.store, OpensslKeys(), self.clock, lambda identity: identity.server)
        self.loop = Loop(self._monotonic)
        self.keeper = IdentityKeeper(
            self.store,
            identity,
            asks=asking,
            link=self.link,
            clock=self.clock,
            loop=self.loop,
            worker=self.worker,
            is_idle=lambda: self.idle,
            pauses=Pauses(),
        )
        self.keeper.start()
        self.settle()
        return self.keeper

    def settle(self) -> None:
        """Do everything that is due now."""
        while self.loop.turn(wait=False) or not self.worker.calls.empty():
            if not self.worker.calls.empty():
                self.worker.calls.get()()

    def pass_(self, seconds: float) -> None:
        """Let time pass, and do everything when it is due."""
        end = self.since_s + seconds
        while (due := self.loop.next_due()) is not None and due <= end:
            self.since_s = max(self.since_s, due)
            self.settle()
        self.since_s = end
        self.settle()

    @property
    def identity(self) -> Identity:
        found = self.store.load()
        assert found is not None
        return found

    def asked(self, path: str) -> int:
        return sum(1 for _, asked in self.desk.asked if asked == path)

    def check(self) -> None:
        """The identity is whole, whatever happened."""
        verifying_context(self.store.authorities(), self.clock, self.store.pair(self.identity))


@pytest.fixture
def kept(store: IdentityStore, desk: EnrolmentDesk) -> Iterator[Kept]:
    kept = Kept(store, desk)
    yield kept
    kept.check()


def test_a_certificate_is_renewed_with_a_new_key_from_day_60_on(kept: Kept) -> None:
    kept.pass_(59.9 * DAY_S)
    assert kept.asked("/renewal") == 0
    kept.pass_(1.2 * DAY_S)
    assert kept.asked("/renewal") == 1
    renewed = kept.identity
    assert renewed.certificate != kept.first.certificate
    old, new = (kept.store.directory / it.certificate for it in (kept.first, renewed))
    kept.pass_(60.0)
    assert kept.link.reconnects == 1
    assert new.exists()
    assert not old.exists()
    assert kept.keeper.status()["certificate"] == renewed.certificate[7:-4]
    assert kept.keeper.status()["problem"] is None


def test_it_waits_with_its_connection_until_no_update_is_under_way(kept: Kept) -> None:
    kept.idle = False
    kept.pass_(62 * DAY_S)
    assert kept.asked("/renewal") == 1
    assert kept.link.reconnects == 0
    assert (kept.store.directory / kept.first.certificate).exists()
    kept.idle, kept.link.is_up = True, False
    kept.pass_(3600.0)
    assert kept.link.reconnects == 1
    assert (kept.store.directory / kept.first.certificate).exists()
    kept.link.is_up = True
    kept.pass_(60.0)
    assert not (kept.store.directory / kept.first.certificate).exists()


def test_a_server_that_is_away_is_tried_again_and_told_once_a_day(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.pass_(59 * DAY_S)
    kept.desk.stop()
    with caplog.at_level(logging.WARNING, "device_agent.identity.keeper"):
        kept.pass_(10 * DAY_S)
    told = [record for record in caplog.records if "the identity's certificate" in record.getMessage()]
    assert 8 <= len(told) <= 11
    status = kept.keeper.status()
    assert "refused" in status["problem"]
    assert 30 < status["renewal_failures"] < 60
    assert kept.store.tries().certificate.failures == status["renewal_failures"]
    kept.start()  # a restart asks no sooner
    assert kept.keeper.status()["renewal_failures"] == status["renewal_failures"]
    kept.desk.start()
    kept.pass_(6 * 3600.0)
    assert kept.identity.certificate != kept.first.certificate
    kept.pass_(1.2 * DAY_S)
    assert kept.keeper.status()["problem"] is None


def test_an_answer_that_is_lost_is_had_with_the_same_key(kept: Kept) -> None:
    kept.desk.lost_answers = 3
    kept.pass_(62 * DAY_S)
    assert kept.asked("/renewal") == 4
    assert len(kept.desk.issued) == 2
    assert kept.identity.certificate != kept.first.certificate


def test_a_revoked_device_says_so_and_asks_seldom(kept: Kept) -> None:
    kept.desk.revoked.add("pi-1")
    kept.pass_(90 * DAY_S)
    assert "revoked" in kept.keeper.status()["problem"]
    assert kept.asked("/renewal") < 30 * 8
    assert kept.identity == kept.first


def test_a_wrong_answer_is_not_taken_over(kept: Kept) -> None:
    kept.desk.change = lambda it: dataclasses.replace(it, device_id="pi-2")
    kept.pass_(62 * DAY_S)
    assert "answered for pi-2" in kept.keeper.status()["problem"]
    assert kept.identity == kept.first
    kept.desk.change = lambda it: it
    kept.pass_(DAY_S)
    assert kept.identity != kept.first


def test_new_authorities_reach_the_device_within_a_day(kept: Kept) -> None:
    kept.desk.fleet.authorities.rotate("services")
    kept.pass_(1.2 * DAY_S)
    both = kept.desk.fleet.authorities.trusted("services").decode()
    assert kept.store.authorities() == both
    # The server changes over, and the old authority goes: the device follows.
    kept.desk.fleet.authorities.retire("services")
    kept.desk.stop()
    kept.desk.start()
    kept.pass_(1.2 * DAY_S)
    assert kept.store.authorities() == kept.desk.fleet.authorities.trusted("services").decode() != both
    assert kept.keeper.status()["problem"] is None


def test_authorities_that_do_not_lead_to_the_server_are_not_taken_over(kept: Kept, tmp_path: Path) -> None:
    good = kept.store.authorities()
    kept.desk.ca = Authorities.create(tmp_path / "other-ca").trusted("services").decode()
    kept.pass_(62 * DAY_S)
    assert kept.store.authorities() == good
    assert kept.identity != kept.first  # the certificate is taken all the same


@pytest.mark.parametrize("garbled", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_authorities_that_are_none_are_not_taken_over(kept: Kept, garbled: str) -> None:
    good = kept.store.authorities()
    kept.desk.ca = garbled or " "
    kept.pass_(1.5 * DAY_S)
    assert kept.store.authorities() == good


def test_a_certificate_that_ended_is_renewed_all_the_same(kept: Kept) -> None:
    kept.desk.stop()
    kept.pass_(100 * DAY_S)
    assert kept.identity == kept.first
    kept.desk.start()
    kept.pass_(DAY_S)
    assert kept.identity != kept.first


def test_a_clock_in_1970_renews_by_the_time_that_passes(kept: Kept) -> None:
    kept.clock_error_s = -kept.begin_s
    floor_s = kept.first.not_before_ms / 1000
    kept.clock = DeviceClock(lambda: floor_s, wall=kept._wall, monotonic=kept._monotonic)
    kept.start()
    assert kept.keeper.status()["clock_behind"] is True
    kept.pass_(59 * DAY_S)
    assert kept.asked("/renewal") == 0
    kept.pass_(3 * DAY_S)
    assert kept.asked("/renewal") == 1


def test_a_short_life_is_renewed_at_two_thirds_too(kept: Kept) -> None:
    kept.desk.lifetime = timedelta(hours=3)
    kept.pass_(62 * DAY_S)
    before = kept.asked("/renewal")
    kept.pass_(DAY_S)
    assert 11 <= kept.asked("/renewal") - before <= 13  # a little less than two hours each


def test_a_clock_that_is_ahead_does_not_renew_without_end(kept: Kept) -> None:
    kept.clock_error_s = 75 * DAY_S
    kept.start()
    kept.pass_(10 * DAY_S)
    assert 9 <= kept.asked("/renewal") <= 11
    kept.clock_error_s = 0.0
    kept.pass_(50 * DAY_S)
    assert kept.asked("/renewal") <= 12
    assert kept.keeper.status()["problem"] is None


def test_who_is_enrolled_anew_meanwhile_is_followed(kept: Kept) -> None:
    kept.desk.used.clear()
    root = kept.store.directory.parent / "root.json"
    applicant = Applicant(device_id="pi-1", product=PRODUCT, hardware_model="pi4", root=root)
    again = enrol(
        applicant, kept.desk.code, kept.desk.url, kept.store, keys=OpensslKeys(), clock=kept.clock, say=lambda _: None
    )
    kept.pass_(3700.0)
    assert kept.link.reconnects == 1
    assert kept.keeper.status()["certificate"] == again.certificate[7:-4]


def test_a_disk_that_is_full_stops_nothing(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise IdentityFilesError("no space left on device")

    for name in ("keep_tries", "next_key", "tidy"):
        monkeypatch.setattr(kept.store, name, full)
    kept.pass_(62 * DAY_S)
    assert "no space left" in kept.keeper.status()["problem"]
    monkeypatch.undo()
    kept.pass_(DAY_S)
    assert kept.identity != kept.first


def test_an_error_that_nobody_thought_of_stops_nothing(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(kept.store, "next_key", stumble)
    kept.pass_(62 * DAY_S)
    assert "ZeroDivisionError" in kept.keeper.status()["problem"]
    monkeypatch.undo()
    kept.pass_(DAY_S)
    assert kept.identity != kept.first


def test_files_that_vanish_are_told(kept: Kept) -> None:
    path = kept.store.directory / "identity.json"
    content = path.read_bytes()
    path.write_bytes(b"{}")
    kept.pass_(3700.0)
    assert "identity.json" in kept.keeper.status()["problem"]
    path.write_bytes(content)
    kept.pass_(3700.0)
    assert kept.keeper.status()["problem"] is None
