"""What was refused of devices: told once of each device and kind, within bounds, and kept for whoever asks."""

import logging
from pathlib import Path

import pytest

from cloud import refusals as module
from cloud.broker import EmbeddedBroker
from cloud.refusals import MAX_DEVICES, WINDOW_S, Refusals
from cloud.tally import Tally
from protocol.up import Ask, Asked, Want
from tests.cloud.clouds import TOPICS, Cloud, device_on
from tests.cloud.homes import hello_of, open_home
from tests.cloud.store.fleets import Clock
from tests.support.processes import wait_until


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock) -> Refusals:
    return Refusals(clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return found


def test_each_device_kind_and_code_is_told_once(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    for device_id in ("js-1", "js-2", "js-1"):
        for kind, code in (("hello", "bad_message"), ("hello", "unknown_product"), ("report", "bad_message")):
            refusals.note(device_id, kind, code, "the field 'seq' is missing")
    said = lines(caplog)
    assert len(said) == 6
    assert said[0] == (
        "hello of js-1 was not processed (bad_message): the field 'seq' is missing; "
        "further ones of this device are only counted"
    )


def test_what_meets_every_device_is_told_once_of_all(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(50):
        refusals.note(f"pi-{number}", "report", "failed", "the disk is full", of_all=True)
    assert len(lines(caplog)) == 1
    assert refusals.of("pi-49")[0].sentence == "the disk is full"


def test_a_device_has_its_last_refusals_with_counts(refusals: Refusals, clock: Clock) -> None:
    refusals.note("js-1", "hello", "bad_message", "first")
    refusals.note("js-1", "report", "bad_message", "other")
    clock.pass_s(5)
    refusals.note("js-1", "hello", "bad_message", "second")
    last, before = refusals.of("js-1")
    assert (last.kind, last.code, last.sentence, last.count) == ("hello", "bad_message", "second", 2)
    assert last.last_at_ms == int(clock.now_s * 1000)
    assert (before.kind, before.count) == ("report", 1)
    assert refusals.of("js-2") == ()


def test_the_devices_that_were_refused_last_are_kept(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    refusals.note("js-1", "hello", "bad_message", "x")
    for number in range(MAX_DEVICES - 1):
        refusals.note(f"pi-{number}", "hello", "bad_message", "x")
    refusals.note("js-1", "hello", "bad_message", "x")
    refusals.note("one-more", "hello", "bad_message", "x")
    assert refusals.of("js-1")[0].count == 2
    assert refusals.of("pi-0") == ()
    assert refusals.of("pi-1")
    assert len(lines(caplog)) == module.MAX_LINES + 1


def test_names_without_end_write_so_many_lines_an_hour(
    refusals: Refusals, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LINES", 3)
    for number in range(10):
        refusals.note(f"forged-{number}", "hello", "bad_message", "x")
    said = lines(caplog)
    assert len(said) == 4
    assert "3 such lines within an hour" in said[-1]
    clock.pass_s(WINDOW_S)
    refusals.note("js-1", "hello", "bad_message", "x")
    assert len(lines(caplog)) == 1
    clock.pass_s(-2 * WINDOW_S)  # a clock that is set back does not silence it
    refusals.note("js-2", "hello", "bad_message", "x")
    assert len(lines(caplog)) == 1


def test_nothing_that_a_device_writes_begins_a_line(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    refusals.note("topic\nforged line", "topic", "bad_identity", "text\x1b[31m\r\n" + "x" * 1000)
    (said,) = lines(caplog)
    assert said.isprintable()
    assert len(said) < 1000


def test_a_failure_is_logged_once_and_counted_always(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    for _ in range(3):
        tally.refuse("hello", "unknown_product", "pi-1", "there is no product x")
        tally.fail("notice", "failed", "thermostat/everyone/app", OSError("no"))
    assert tally.counts()["refused"] == {"hello_unknown_product": 3, "notice_failed": 3}
    assert len(lines(caplog)) == 2
    assert [item.code for item in tally.refusals.of("pi-1")] == ["unknown_product"]


def test_a_device_that_is_written_by_a_stranger_is_told_each_of_its_mistakes(
    tmp_path: Path, mosquitto: EmbeddedBroker
) -> None:
    with (
        open_home(tmp_path / "home") as home,
        Cloud(home, mosquitto.port) as cloud,
        device_on(cloud, mosquitto, "js-1") as device,
    ):
        device.say("hello", hello_of(product="toaster"))
        wait_until(lambda: cloud.refusals.of("js-1"), what="the hello refused")  # it would give way to the next one
        device.say("report", b"{}")
        device.say("want", Want(blob="a" * 64, ranges=((0, 1),)))
        device.peer.publish(TOPICS.up("js-1", "helo"), b"{}")
        device.hello(session=9)
        device.say("ask", Ask(request=2, what=Asked.NOTICE, name="no-channel"))
        device.say("hello", hello_of(session=8))
        expected = {
            "hello unknown_product": "there is no product toaster",
            "report bad_message": "Report: the field 'journal_id' is missing",
            "want unknown_blob": "there is no such blob (blob aaaaaaaaaaaa)",
            "topic bad_identity": "up/helo' is not one of ours",
            "ask bad_name": "'no-channel' is no channel",
            "hello stale_hello": "session 8 is before",
        }
        wait_until(lambda: len(cloud.refusals.of("js-1")) == len(expected), what="every refusal kept")
        told = {f"{item.kind} {item.code}": item.sentence for item in cloud.refusals.of("js-1")}
        assert told.keys() == expected.keys()
        assert all(says in told[what] for what, says in expected.items()), told
