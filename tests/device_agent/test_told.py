"""What the cloud told: accepted in order, refused by name, and remembered over restarts."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest

from device_agent.told import RefusedError, Told
from device_agent.trust import Distrust, TrustError
from protocol.codec import encode
from protocol.down import Desired, Notice, NoticeRelease
from protocol.errors import MessageError
from protocol.identity import MAX_INTEGER
from protocol.signing import DESIRED_TYPE, NOTICE_TYPE, Signature, seal
from protocol.topics import NoticeTopic
from tests.support.updates import firmware

SIGNATURES = (Signature(keyid="a" * 64, sig="00"),)
TOPIC = NoticeTopic("thermostat", "everyone", "app")


class BadSignatureError(Exception):
    """The signature is not good."""


@dataclass
class Kept:
    payload: bytes


@dataclass
class Keeper:
    """A journal's memory of messages."""

    kept: dict[str, Kept] = field(default_factory=dict)

    def all_seen(self) -> dict[str, Kept]:
        return self.kept

    def keep_seen(self, channel: str, seq: int, payload: bytes) -> None:
        assert seq > 0
        self.kept[channel] = Kept(payload)


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


@pytest.fixture
def told(keeper: Keeper) -> Told:
    return Told("pi-1", "thermostat", ("app", "os"), keeper=keeper)


def good(_pae: bytes, signatures: tuple[Signature, ...]) -> None:
    if signatures != SIGNATURES:
        raise BadSignatureError


def bad(_pae: bytes, _signatures: tuple[Signature, ...]) -> None:
    raise BadSignatureError


def notice(seq: int, *, percentage: int = 100, **values: Any) -> Notice:
    release = NoticeRelease(release_id="r1", label=1, order=1, firmware=firmware(), percentage=percentage)
    fields: dict[str, Any] = {"product": "thermostat", "group": "everyone", "component": "app", "releases": (release,)}
    return Notice(seq=seq, issued_at_ms=0, **{**fields, **values})


def desired(seq: int, **values: Any) -> Desired:
    fields: dict[str, Any] = {"device_id": "pi-1", "product": "thermostat", "session": 1, "groups": ("everyone",)}
    return Desired(seq=seq, issued_at_ms=0, **{**fields, **values})


def accept(told: Told, message: Notice | Desired, topic: NoticeTopic = TOPIC) -> bool:
    if isinstance(message, Desired):
        return told.accept_desired(seal(message, DESIRED_TYPE, lambda _: SIGNATURES), good) == message
    return told.accept_notice(topic, seal(message, NOTICE_TYPE, lambda _: SIGNATURES), good)


def refusal(told: Told, message: Notice | Desired) -> str:
    with pytest.raises(RefusedError) as refused:
        accept(told, message)
    return refused.value.code


def test_notices_in_order(told: Told) -> None:
    assert accept(told, notice(5))
    assert not accept(told, notice(5))  # said again
    assert accept(told, notice(6, percentage=50))
    assert refusal(told, notice(5)) == "stale_notice"
    assert refusal(told, notice(6)) == "altered_notice"
    assert told.channels["everyone", "app"][0].percentage == 50


def test_desires_in_order(told: Told) -> None:
    assert told.assignment is None
    assert accept(told, desired(5))
    again = desired(5, session=2, notices={"everyone/app": 3}, metadata_version=9)
    assert accept(told, dataclasses.replace(again, issued_at_ms=99))
    assert refusal(told, desired(4)) == "stale_desired"
    assert refusal(told, desired(5, ota_enabled=False)) == "altered_desired"
    assert refusal(told, desired(9, device_id="pi-2")) == "foreign_desired"
    assert refusal(told, desired(9, product="pump")) == "foreign_desired"
    assert told.assignment is not None
    assert told.assignment.ota_enabled


@pytest.mark.parametrize("values", [{"group": "pilot"}, {"component": "os", "releases": ()}, {"product": "pump"}])
def test_a_notice_of_another_channel_than_its_topic(told: Told, values: dict[str, Any]) -> None:
    assert refusal(told, notice(5, **values)) == "foreign_notice"


@pytest.mark.parametrize(
    "topic",
    [
        NoticeTopic("thermostat", "pilot", "app"),
        NoticeTopic("pump", "everyone", "app"),
        NoticeTopic("thermostat", "everyone", "radio"),
    ],
)
def test_what_nobody_asked_for_is_not_even_read(told: Told, topic: NoticeTopic) -> None:
    assert not told.accept_notice(topic, b"nonsense", bad)


def test_nothing_counts_that_is_not_signed(told: Told, keeper: Keeper) -> None:
    sealed = seal(notice(5), NOTICE_TYPE, lambda _: SIGNATURES)
    with pytest.raises(BadSignatureError):
        told.accept_notice(TOPIC, sealed, bad)
    with pytest.raises(MessageError):  # signed, but as another kind of message
        told.accept_notice(TOPIC, seal(notice(5), DESIRED_TYPE, lambda _: SIGNATURES), good)
    with pytest.raises(BadSignatureError):
        told.accept_desired(seal(desired(5), DESIRED_TYPE, lambda _: SIGNATURES), bad)
    assert (keeper.kept, told.channels, told.assignment) == ({}, {}, None)


@pytest.mark.parametrize("restarted", [False, True])
def test_numbers_that_a_stolen_key_used_up_end_with_the_key(told: Told, keeper: Keeper, restarted: bool) -> None:
    accept(told, desired(MAX_INTEGER, ota_enabled=False))
    accept(told, notice(MAX_INTEGER, releases=()))
    os = NoticeTopic("thermostat", "everyone", "os")
    accept(told, notice(MAX_INTEGER, component="os", releases=()), os)
    if restarted:
        told = Told("pi-1", "thermostat", ("app", "os"), keeper=keeper)
    fresh = (Signature(keyid="b" * 64, sig="01"),)

    def newer(_pae: bytes, signatures: tuple[Signature, ...]) -> None:
        if signatures != fresh:
            raise TrustError(Distrust.BAD_SIGNATURE, "a key that root does not name any more")

    names = {"everyone/app": 7, "everyone/os": 3}
    told.accept_desired(seal(desired(8, notices=names), DESIRED_TYPE, lambda _: fresh), newer)
    assert told.assignment is not None
    assert told.assignment.ota_enabled
    assert told.missing() == tuple(names), "asked for again"
    assert told.accept_notice(TOPIC, seal(notice(7), NOTICE_TYPE, lambda _: fresh), newer)
    with pytest.raises(RefusedError):
        told.accept_notice(TOPIC, seal(notice(6), NOTICE_TYPE, lambda _: fresh), newer)
    assert told.missing() == ("everyone/os",)


def test_it_remembers_over_restarts(told: Told, keeper: Keeper) -> None:
    accept(told, desired(5, groups=("pilot", "everyone")))
    accept(told, notice(7))
    again = Told("pi-1", "thermostat", ("app",), keeper=keeper)
    assert again.groups == ("pilot", "everyone")
    assert again.channels == told.channels
    assert refusal(again, notice(6)) == "stale_notice"
    assert refusal(again, desired(4)) == "stale_desired"
    other = Told("pi-2", "thermostat", ("app",), keeper=keeper)  # a disk that was copied
    assert other.assignment is None


def test_what_is_not_understood_any_more_is_asked_for_again(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    keeper.kept = {"desired": Kept(b"{"), "everyone/app": Kept(encode(notice(5)).replace(b"seq", b"qes"))}
    told = Told("pi-1", "thermostat", ("app",), keeper=keeper)
    assert told.assignment is None
    assert told.channels == {}
    assert "asked for again" in caplog.text


def test_missing_is_what_is_named_followed_and_older(told: Told) -> None:
    accept(told, notice(5))
    names = {"everyone/app": 5, "everyone/os": 2, "everyone/radio": 9, "pilot/app": 9}
    accept(told, desired(1, notices=names))
    assert told.missing() == ("everyone/os",)
    accept(told, desired(2, notices={**names, "everyone/app": 6}))
    assert told.missing() == ("everyone/app", "everyone/os")
    accept(told, desired(3, groups=("pilot", "everyone"), notices=names))
    assert told.missing() == ("everyone/os", "pilot/app")


def test_a_group_that_was_left_counts_no_more(told: Told) -> None:
    accept(told, desired(1, groups=("pilot", "everyone")))
    pilot = notice(5, group="pilot")
    assert accept(told, pilot, NoticeTopic("thermostat", "pilot", "app"))
    assert set(told.channels) == {("pilot", "app")}
    accept(told, desired(2))
    assert told.channels == {}
