"""Attention: somebody at the device consents, defers or declines; deadlines, operators and newer releases end it."""

import pytest

from device_agent.config import UpdateSettings
from device_agent.consent import ConsentError
from protocol.phases import Outcome, Phase, Wait
from protocol.schedule import Terms, Window
from protocol.values import FirmwareRef
from tests.device_agent.runner.playing import Start, waits
from tests.support.simulated_cloud import Cloud
from tests.support.simulated_device import Device
from tests.support.simulated_world import World

ASKING = Terms(attention=True)
OPTIONAL = Terms(attention=True, optional=True)


def offer(device: Device, cloud: Cloud, image: FirmwareRef, terms: Terms = ASKING, **values: object) -> None:
    cloud.release(image, terms=terms, **values)
    device.link.notify()
    device.run()


def questions(device: Device) -> list[dict[str, object]]:
    return [event for event in device.control.events if event["event"] == "attention_required"]


def test_what_asks_for_attention_is_downloaded_and_waits_for_consent(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device, new = start(), world.image("1.1.0")
    offer(device, cloud, new)
    assert (device.snapshot.phase, world.running) == (Phase.INSTALLING, old.digest)
    assert waits(device)["why"] == Wait.CONSENT
    asked = {
        "component": "app",
        "version": "1.1.0",
        "mandatory": False,
        "optional": False,
        "state": "asked",
        "until_ms": None,
    }
    assert questions(device) == [{"event": "attention_required", **asked}]
    assert device.status["attention"] == asked
    device.link.disconnect()
    device.run(1.0)
    device.go_online()
    device.run()
    assert len(questions(device)) == 1, "asked once"
    device.desk.consent(None)
    device.run()
    assert world.running == new.digest
    assert device.control.names()[-1] == "update_installed"
    assert device.status["attention"] is None


def test_consent_lasts_over_a_restart_before_the_installation(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device, new = start(), world.image("1.1.0")
    offer(device, cloud, new)
    device.desk.consent("app")
    device = start(online=False)
    device.run(until=lambda: device.snapshot.phase is Phase.PROVING)
    assert world.running == new.digest
    assert questions(device) == []


def test_consent_is_for_one_release_alone(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, first, second = start(), world.image("1.1.0"), world.image("1.2.0")
    offer(device, cloud, first, Terms(attention=True, windows=(Window(start_minute=0, duration_minutes=1),)))
    device.desk.consent(None)
    device.run()
    assert waits(device)["why"] == Wait.WINDOW
    offer(device, cloud, second)
    assert waits(device)["why"] == Wait.CONSENT
    assert world.running == old.digest


def test_without_a_question_consent_does_nothing_and_the_rest_is_refused(
    world: World, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    device.desk.consent(None)
    for refused in (lambda: device.desk.defer(60, None), lambda: device.desk.decline(None)):
        with pytest.raises(ConsentError, match="nothing waits for an answer"):
            refused()
    assert device.journal.answers() == ()


def test_what_is_deferred_is_asked_again(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, new = start(), world.image("1.1.0")
    offer(device, cloud, new)
    until = device.desk.defer(3600, None)
    assert until == pytest.approx(world.time + 3600, abs=1)
    device.run(3000)
    assert device.status["attention"]["state"] == "deferred"
    assert len(questions(device)) == 1
    device = start()
    device.run()
    assert questions(device) == []
    world.time = until + 1
    device.run(400)
    assert len(questions(device)) == 1
    assert device.status["attention"]["state"] == "asked"


def test_deferrals_together_are_limited(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, new = start(updates=UpdateSettings(longest_deferral_s=5000)), world.image("1.1.0")
    offer(device, cloud, new)
    with pytest.raises(ConsentError, match="5000 s more at most"):
        device.desk.defer(5001, None)
    device.desk.defer(4000, None)
    world.time += 4500
    device.run(400)
    assert device.status["attention"]["state"] == "asked"
    with pytest.raises(ConsentError, match=r"4\d\d s more at most"):
        device.desk.defer(1000, None)
    device.desk.defer(300, None)
    device.desk.consent(None)
    device.run()
    assert world.running == new.digest


def test_a_deadline_ends_questions_and_deferrals(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, new = start(), world.image("1.1.0")
    deadline_ms = round(world.time * 1000) + 4_000_000
    offer(device, cloud, new, Terms(attention=True, deadline_ms=deadline_ms))
    assert device.status["attention"]["until_ms"] == deadline_ms
    device.desk.defer(86_400, None)
    device.run(until=lambda: world.running == new.digest, for_s=6000)
    assert world.running == new.digest
    assert deadline_ms <= world.time * 1000 < deadline_ms + 5000


def test_what_is_not_optional_cannot_be_declined(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    offer(device, cloud, world.image("1.1.0"))
    with pytest.raises(ConsentError, match=r"1\.1\.0 is not optional"):
        device.desk.decline(None)
    offer(device, cloud, world.image("1.2.0"), OPTIONAL, mandatory=True)
    with pytest.raises(ConsentError, match=r"1\.2\.0 is not optional"):
        device.desk.decline(None)


def test_what_is_declined_stays_declined_until_somebody_consents(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device, new = start(), world.image("1.1.0")
    offer(device, cloud, new, OPTIONAL)
    device.desk.decline(None)
    device.run()
    assert (device.snapshot.phase, cloud.ends()[-1].outcome) == (Phase.IDLE, Outcome.CANCELLED)
    assert cloud.states[-1].declined == ("r2",)
    assert [(item.version, item.why) for item in cloud.states[-1].pending] == [("1.1.0", Wait.DECLINED)]
    device = start()
    device.run()
    device.desk.check()
    device.run()
    assert world.running == old.digest
    assert device.status["attention"]["state"] == "declined"
    device.desk.consent(None)
    device.run()
    assert world.running == new.digest
    assert not cloud.states[-1].declined


def test_a_newer_release_asks_anew(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, newer = start(), world.image("1.2.0")
    offer(device, cloud, world.image("1.1.0"), OPTIONAL)
    device.desk.decline(None)
    device.run()
    offer(device, cloud, newer, OPTIONAL)
    assert questions(device)[-1]["version"] == "1.2.0"
    device.desk.consent(None)
    device.run()
    assert world.running == newer.digest


@pytest.mark.parametrize("change", [{"mandatory": True}, {"forced": True}, {"terms": ASKING}])
def test_an_operator_who_insists_ends_a_decline(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, change: dict[str, object]
) -> None:
    device, new = start(), world.image("1.1.0")
    offer(device, cloud, new, OPTIONAL)
    device.desk.decline(None)
    device.run()
    cloud.patch(cloud.releases[0], **change)
    device.link.notify()
    device.run()
    assert cloud.states[-1].declined == ()
    if "forced" not in change:
        assert waits(device)["why"] == Wait.CONSENT
        device.desk.consent(None)
        device.run()
    assert world.running == new.digest


def test_an_answer_that_cannot_be_stored_is_none(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, new = start(), world.image("1.1.0")
    offer(device, cloud, new)
    device.journal._database._connection.execute("PRAGMA query_only=ON")
    with pytest.raises(Exception, match="the journal"):
        device.desk.consent(None)
    device.journal._database._connection.execute("PRAGMA query_only=OFF")
    device.run()
    assert (waits(device)["why"], world.running) == (Wait.CONSENT, old.digest)


def test_why_tells_every_rule_and_for_what_it_waits(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device, new = start(), world.image("1.1.0")
    offer(device, cloud, new)
    (told,) = device.desk.why(None)
    assert (told["component"], told["verdict"], told["version"], told["blocked_by"]) == ("app", "take", "1.1.0", None)
    assert told["waits"]["why"] == "consent"
    assert [step["rule"] for step in told["steps"]] == ["hardware", "percentage", "target_range", "release"]
    assert told["lines"][0] == "app: 1.1.0 is to be taken, by release r2 v2 of group everyone"
    assert device.desk.why("app") == [told]
    with pytest.raises(Exception, match="nothing is known of a component os"):
        device.desk.why("os")
