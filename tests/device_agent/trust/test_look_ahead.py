"""Bundles are looked into when they come: nobody waits for signatures later, and nobody is kept busy by garbage."""

from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import Signature, SSlibKey  # type: ignore[attr-defined]  # exported without saying so

from device_agent.trust import LOOK_AGAIN_S, DeviceTrust, Distrust, TrustError
from protocol.down import Bundle
from tests.device_agent.trust.device import DAY_S, PATH, nobody
from tests.support.repository import NOW_S, Repository


class Ahead:
    """A device's trust whose work aside is done when the test says so; it counts the signatures that are verified."""

    def __init__(self, directory: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
        self.repository = repository
        self.now_s = NOW_S
        self.ask: Callable[[str], bytes | None] = nobody
        self.aside: list[Callable[[], None]] = []
        self.verified = 0
        real = SSlibKey.verify_signature

        def verify(key: SSlibKey, signature: Signature, data: bytes) -> None:
            self.verified += 1
            real(key, signature, data)

        self.trust = DeviceTrust(
            directory,
            repository.bootstrap,
            "thermostat",
            ask=lambda name: self.ask(name),  # noqa: PLW0108 - whoever is asked by then
            now=lambda: self.now_s,
            aside=self.aside.append,
        )
        monkeypatch.setattr(SSlibKey, "verify_signature", verify)

    def offer(self, bundle: Bundle | None = None) -> bool:
        return self.trust.offer_bundle(bundle or self.repository.bundle())

    def work(self) -> int:
        """Do what is to be done aside, and return how many signatures that took."""
        before = self.verified
        while self.aside:
            self.aside.pop(0)()
        return self.verified - before

    def refresh(self) -> int:
        before = self.verified
        self.trust.refresh()
        return self.verified - before


@pytest.fixture
def ahead(directory: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Ahead:
    return Ahead(directory, repository, monkeypatch)


def forged(version: int) -> Bundle:
    mallory = Repository("thermostat")
    mallory.root.version = 1
    mallory.timestamp.version = version
    mallory.publish()
    return mallory.bundle()


def test_who_needs_what_was_looked_into_verifies_nothing(ahead: Ahead) -> None:
    assert ahead.offer()
    assert ahead.verified == 0, "it returns at once"
    assert ahead.work() > 0
    assert ahead.trust.floors() == {"app": 2}
    assert ahead.refresh() == 0
    assert ahead.trust.signed_firmware(PATH).length == 9
    assert ahead.offer()
    assert (ahead.work(), ahead.refresh()) == (0, 0), "the same bundle again"


def test_what_was_verified_expires_all_the_same(ahead: Ahead) -> None:
    ahead.offer()
    ahead.work()
    ahead.now_s += 3650 * DAY_S
    with pytest.raises(TrustError) as refused:
        ahead.refresh()
    assert refused.value.code is Distrust.EXPIRED


def test_what_is_newer_is_looked_into_and_taken(ahead: Ahead) -> None:
    ahead.offer()
    ahead.work()
    ahead.repository.add_firmware(b"the next image", version="1.1.0", seq=4)
    ahead.repository.publish()
    assert ahead.offer()
    assert ahead.work() > 0
    assert ahead.refresh() == 0
    assert ahead.trust.signed_firmware("thermostat/app/1.1.0").length == 14


def test_a_bundle_that_nobody_looked_into_yet_is_verified_when_it_is_needed(ahead: Ahead) -> None:
    ahead.offer()
    assert ahead.refresh() > 0
    assert ahead.work() == 0


def test_a_flood_of_bundles_is_one_look(ahead: Ahead) -> None:
    for _ in range(5):
        ahead.repository.publish()
        assert ahead.offer()
    assert len(ahead.aside) == 1


def test_a_bundle_that_is_no_good_raises_nothing_asks_nobody_and_is_the_last_for_a_while(ahead: Ahead) -> None:
    ahead.offer()
    ahead.work()
    ahead.ask = pytest.fail
    assert ahead.offer(forged(100))
    assert ahead.work() > 0
    for version in (101, 102):
        assert ahead.offer(forged(version))
        assert ahead.work() == 0
    ahead.now_s += LOOK_AGAIN_S
    assert ahead.offer(forged(103))
    assert ahead.work() > 0
    ahead.ask = ahead.repository.ask
    assert ahead.refresh() > 0, "who needs it asks the cloud itself"
    assert ahead.trust.signed_firmware(PATH).length == 9


def test_what_a_bundle_had_no_room_for_is_asked_for_when_it_is_needed(ahead: Ahead) -> None:
    bundle = ahead.repository.bundle()
    small = {name: text for name, text in bundle.files.items() if "thermostat" not in name}
    asked: list[str] = []
    ahead.ask = asked.append
    ahead.offer(Bundle(product="thermostat", root_version=1, files=small))
    ahead.work()
    assert asked == []
    ahead.ask = ahead.repository.ask
    ahead.refresh()
    assert ahead.trust.signed_firmware(PATH).length == 9
    assert ahead.repository.asked == ["2.thermostat.json"]


def test_what_comes_soon_after_what_had_to_be_asked_for_is_looked_into(ahead: Ahead) -> None:
    """A device that has just come, and what it got: the floor that is raised a moment later is not left for later."""
    whole = ahead.repository.bundle()
    small = {name: text for name, text in whole.files.items() if "thermostat" not in name}
    ahead.offer(Bundle(product="thermostat", root_version=1, files=small))
    ahead.work()
    ahead.ask = ahead.repository.ask
    ahead.refresh()
    ahead.ask = nobody
    ahead.repository.raise_floor("thermostat", {"app": 3})
    ahead.repository.publish()
    assert ahead.offer()
    assert ahead.work() > 0
    assert ahead.trust.floors() == {"app": 3}


def test_only_a_newer_version_is_news(ahead: Ahead) -> None:
    """Else anybody could have a good bundle verified again and again, each time with another file that nobody needs."""
    ahead.offer()
    ahead.work()
    bundle = ahead.repository.bundle()
    assert ahead.offer(Bundle(product="thermostat", root_version=1, files={**bundle.files, "9.other.json": "{}"}))
    assert ahead.aside == []


def test_a_newer_root_is_left_to_who_hears_that_it_is_behind(ahead: Ahead) -> None:
    ahead.offer()
    ahead.work()
    ahead.repository.rotate_root()
    ahead.repository.publish()
    assert ahead.offer()
    assert ahead.trust.is_behind
    assert ahead.work() == 0
    assert ahead.trust.is_behind
    ahead.ask = ahead.repository.ask
    ahead.trust.refresh()
    assert not ahead.trust.is_behind
