"""The runner with all that it is made of, on a simulated world and clock: when it takes what, and what it tells."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agent.admission import InstallPolicy
from device_agent.config import ComponentSettings, HealthSettings, UpdateSettings
from device_agent.control import Hold
from device_agent.events import Failed
from device_agent.health import AliveCheck
from protocol.codec import encode
from protocol.down import Ack, Ota
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.up import Asked
from protocol.values import FirmwareRef, Scope, Urgency
from tests.support.simulated_cloud import DEVICE, PRODUCT, TOPICS, Cloud
from tests.support.simulated_device import Device, no_fsync
from tests.support.simulated_world import World

Start = Callable[..., Device]


@pytest.fixture(autouse=True)
def _fast_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_fsync)
    monkeypatch.setattr(os, "fdatasync", no_fsync)


@pytest.fixture
def world(tmp_path: Path) -> World:
    directory = tmp_path / "device"
    directory.mkdir()
    return World(directory)


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def start(world: World, cloud: Cloud) -> Iterator[Start]:
    """Starts the agent, once or (after the one before was switched off) again."""
    lives: list[Device] = []

    def begin(**settings: Any) -> Device:
        for life in lives:
            life.power_off()
        lives[:] = [Device(world, cloud, **settings)]
        return lives[0].start()

    yield begin
    for life in lives:
        assert "internal_error" not in life.journal.refused()
        life.power_off()


@pytest.fixture
def old(world: World, cloud: Cloud, start: Start) -> FirmwareRef:
    """1.0.0, which the device runs for good."""
    image = world.image("1.0.0")
    cloud.release(image)
    start().run()
    assert world.running == image.digest
    return image


def hold(*scopes: str, owner: str = "dosing (pid 8, uid 1000)") -> Hold:
    return Hold(hold_id="h1", owner=owner, scope=frozenset(scopes), acquired_at=0.0, expires_at=2_000_000_000.0)


def waits(device: Device) -> dict[str, Any]:
    pending = device.status["pending"]
    assert pending is not None
    return dict(pending)


# Taking.


def test_a_first_installation(world: World, cloud: Cloud, start: Start) -> None:
    image = world.image("1.0.0")
    cloud.release(image)
    device = start()
    device.run()
    assert world.running == world.current_digest() == image.digest
    (end,) = cloud.ends()
    assert (end.outcome, end.from_version, end.booted_digest) == (Outcome.SUCCEEDED, None, image.digest)
    assert device.application.kept_up
    assert cloud.states[-1].components[0].digest == image.digest
    assert cloud.states[-1].phase is Phase.IDLE


def test_gradual_waits_for_the_next_session_or_check(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new, urgency=Urgency.GRADUAL)
    device.link.notify()
    device.run()
    assert world.running == old.digest
    assert waits(device)["why"] == Wait.NEXT_SESSION
    assert cloud.states[-1].pending[0].why is Wait.NEXT_SESSION
    device.desk.check()
    device.run()
    assert world.running == new.digest
    assert device.status["pending"] is None


def test_gradual_is_taken_when_a_session_starts(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new, urgency=Urgency.GRADUAL)
    device.link.notify()
    device.run()
    device.link.disconnect()
    device.run()
    device.link.connect()
    device.run()
    assert world.running == new.digest


def test_immediate_is_taken_on_arrival(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    assert world.running == new.digest


def test_a_timer_asks_by_itself(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start(updates=UpdateSettings(check_interval_s=3600))
    device.run()
    hellos = len(cloud.hellos)
    new = world.image("1.1.0")
    cloud.release(new, urgency=Urgency.GRADUAL)
    device.run(4000.0, until=lambda: world.running == new.digest)
    assert len(cloud.hellos) == hellos + 1
    assert world.running == new.digest


def test_a_single_device_ota_comes_with_a_desired(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.otas.append(Ota(ota_id="o1", order=cloud.next_order(), firmware=new))
    cloud.desired_seq += 1
    device.link.deliver("desired", cloud.desired(0))
    device.run()
    assert world.running == new.digest
    assert cloud.ends()[-1].source_id == "o1"


def test_switched_off_for_the_product(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    cloud.release(world.image("1.1.0"))
    cloud.ota_enabled = False
    cloud.desired_seq += 1
    device = start()
    device.run()
    assert world.running == old.digest
    assert device.status["pending"] is None


# The application has the last word on when.


@pytest.mark.parametrize("urgency", list(Urgency))
def test_disabled_updates_do_not_start(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, urgency: Urgency
) -> None:
    device = start()
    device.run()
    device.desk.disable(None, "dosing")
    new = world.image("1.1.0")
    cloud.release(new, urgency=urgency)
    device.desk.check()
    device.run()
    assert (world.running, device.snapshot.phase) == (old.digest, Phase.IDLE)
    assert device.fetching.received_bytes(new) == 0
    assert waits(device) == {
        "component": "app",
        "version": "1.1.0",
        "mandatory": False,
        "forced": False,
        "why": "disabled",
        "detail": "dosing",
    }
    assert not cloud.states[-1].availability.enabled
    assert device.control.names().count("firmware_update_pending") == 1
    device.desk.enable()
    device.run()
    assert world.running == new.digest
    assert device.control.names()[-1] == "update_installed"
    assert {"updates_disabled", "updates_enabled"} <= set(device.control.names())


def test_disabled_outlasts_a_restart(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.desk.disable(None, "dosing")
    new = world.image("1.1.0")
    cloud.release(new)
    device = start()
    device.run()
    assert world.running == old.digest
    device.desk.enable()
    device.run()
    assert world.running == new.digest


def test_a_disabling_ends_in_time(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    device.desk.disable(world.time + 50, "cleaning")
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run(49.0)
    assert world.running == old.digest
    device.run(60.0)
    assert world.running == new.digest


def test_disabled_from_the_start(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    new = world.image("1.1.0")
    cloud.release(new, mandatory=True)
    device = start(updates=UpdateSettings(enabled_at_start=False))
    device.run()
    assert world.running == old.digest
    device.desk.enable()
    device.run()
    assert world.running == new.digest


@pytest.mark.parametrize(
    ("scope", "phase"),
    [("download", Phase.IDLE), ("install", Phase.INSTALLING), ("restart", Phase.INSTALLING)],
)
def test_a_hold_keeps_its_step_waiting(  # noqa: PLR0917 - fixtures
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, scope: str, phase: Phase
) -> None:
    device = start()
    device.run()
    device.desk.holds_changed((hold(scope),))
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    assert (world.running, device.snapshot.phase) == (old.digest, phase)
    assert waits(device)["why"] == Wait.HELD
    info = cloud.states[-1].availability.holds[0]
    assert (info.owner, info.why, info.scopes) == ("pid 8, uid 1000", "dosing", (Scope(scope),))
    device.desk.holds_changed(())
    device.run()
    assert world.running == new.digest


def test_a_hold_pauses_a_download_and_keeps_what_is_there(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run(until=lambda: device.fetching.progress is not None)
    device.desk.holds_changed((hold("download"),))
    device.run()
    assert device.snapshot.phase is Phase.DOWNLOADING
    assert 0 < device.fetching.received_bytes(new) < new.size_bytes
    device.desk.holds_changed(())
    device.run()
    assert world.running == new.digest
    assert len(world.fetched) == len(set(world.fetched))


def test_a_forced_update_goes_over_both_and_says_so(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    device.desk.disable(None, "dosing")
    device.desk.holds_changed((hold("download", "install", "restart"),))
    new = world.image("1.1.0")
    cloud.release(new, forced=True, urgency=Urgency.GRADUAL)
    device.link.notify()
    device.run()
    assert world.running == new.digest
    assert "forced" in device.control.names()
    assert cloud.ends()[-1].forced


def test_an_update_that_waits_may_be_forced(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    device.desk.holds_changed((hold("restart"),))
    new = world.image("1.1.0")
    release = cloud.release(new)
    device.link.notify()
    device.run()
    assert device.snapshot.phase is Phase.INSTALLING
    cloud.patch(release, forced=True)
    device.link.notify()
    device.run()
    assert world.running == new.digest
    assert len(cloud.attempts()) == 2  # the one before, and this: not begun again


def test_next_start_waits_for_the_application(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start(updates=UpdateSettings(install=InstallPolicy.NEXT_START))
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    assert (world.running, device.snapshot.phase) == (old.digest, Phase.INSTALLING)
    assert waits(device)["why"] == Wait.NEXT_START
    device.application.end_by_itself(restart_in_s=1.0)
    device.run()
    assert world.running == new.digest
    assert world.starts[-1] == new.digest
    assert world.starts == [old.digest, new.digest]


def test_next_start_is_any_moment_that_the_application_is_ready(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start(updates=UpdateSettings(install=InstallPolicy.NEXT_START))
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    device.desk.ready()
    device.run()
    assert world.running == new.digest


def test_what_is_downloaded_goes_before_the_application(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    policy = UpdateSettings(install=InstallPolicy.NEXT_START)
    device = start(updates=policy)
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    world.running = None  # the device was switched off, and is on again
    world.starts.clear()
    start(updates=policy, online=False, component=component(needs_broker=False)).run()
    assert world.starts == [new.digest]
    assert world.running == new.digest


def test_an_agent_that_starts_alone_is_no_start_of_the_application(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    policy = UpdateSettings(install=InstallPolicy.NEXT_START)
    device = start(updates=policy)
    device.run()
    cloud.release(world.image("1.1.0"))
    device.link.notify()
    device.run()
    device = start(updates=policy)
    device.run()
    assert world.running == old.digest
    assert waits(device)["why"] == Wait.NEXT_START


def component(**values: Any) -> ComponentSettings:
    health = HealthSettings(check=AliveCheck(), interval_s=1.0, timeout_s=1.0)
    return ComponentSettings(
        **{"name": "app", "command": ("app",), "health": health, "soak_s": 5.0, "prove_timeout_s": 20.0, **values}
    )


# A mandatory update goes before the application.


def test_a_known_mandatory_update_goes_first(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    device.desk.disable(world.time + 5, "")  # so that it is known, and not taken
    cloud.release(new, mandatory=True)
    device.link.notify()
    device.run(1.0)
    world.running = None
    world.time += 10
    world.starts.clear()
    start().run()
    assert world.starts == [new.digest]


def test_a_mandatory_update_is_waited_for_only_so_long(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    device.desk.disable(world.time + 5, "")
    cloud.release(world.image("1.1.0"), mandatory=True)
    device.link.notify()
    device.run(1.0)
    world.running = None
    world.time += 10
    began = world.time
    device = start(online=False)
    device.run(until=lambda: world.running is not None)
    assert world.running == old.digest
    assert 10 <= world.time - began <= 20


def test_news_are_waited_for_if_so_set(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    new = world.image("1.1.0")
    cloud.release(new, mandatory=True)
    world.running = None
    world.starts.clear()
    start(updates=UpdateSettings(startup_wait_s=30.0)).run()
    assert world.starts == [new.digest]


def test_a_device_alone_starts_its_application_at_once(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    world.running = None
    began = world.time
    device = start(online=False)
    device.run(until=lambda: world.running is not None)
    assert world.running == old.digest
    assert world.time - began < 0.1


# Falling back.


def test_a_version_that_failed_is_remembered(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    bad = world.image("2.0.0")
    world.unhealthy.add(bad.digest)
    release = cloud.release(bad)
    device = start()
    device.run()
    end = cloud.ends()[-1]
    assert (end.outcome, end.reason) == (Outcome.ROLLED_BACK, Reason.HEALTH_FAILED)
    assert world.running == old.digest
    assert waits(device)["why"] == Wait.FAILED_BEFORE
    assert cloud.states[-1].failed == (bad.digest,)
    assert device.control.events[-2:] == [
        {"event": "update_rolled_back", "component": "app", "version": "2.0.0", "reason": Reason.HEALTH_FAILED},
        {
            "event": "firmware_update_pending",
            "component": "app",
            "version": "2.0.0",
            "mandatory": False,
            "forced": False,
        },
    ]
    device.desk.check()
    device.run()
    start().run()
    assert len(cloud.ends()) == 2
    # Told to, it tries again.
    world.unhealthy.clear()
    cloud.otas.append(Ota(ota_id="o1", order=release.order + 1, firmware=bad))
    cloud.desired_seq += 1
    device = start()
    device.run()
    assert world.running == bad.digest
    assert device.journal.failed() == {}


def test_a_version_that_ends_by_itself(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    cloud.release(world.image("2.0.0"))
    device.link.notify()
    device.run(until=lambda: device.snapshot.phase is Phase.PROVING)
    world.time += 0.1
    device.application.end_by_itself()
    device.run()
    assert cloud.ends()[-1].reason is Reason.START_FAILED
    assert world.running == old.digest


def test_an_end_in_the_first_instant_counts(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("2.0.0")
    cloud.release(new)
    device.link.notify()
    device.run(until=lambda: world.running == new.digest)
    began = world.time
    world.time += 0.1
    device.application.end_by_itself()  # before the agent noted that it runs
    device.run(until=lambda: cloud.ends()[-1].version == "2.0.0")
    assert cloud.ends()[-1].reason is Reason.START_FAILED
    assert world.time - began < 1


def test_the_broker_has_to_be_reached_again(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("2.0.0")
    cloud.release(new)
    device.desk.holds_changed((hold("restart"),))
    device.link.notify()
    device.run()
    device.link.disconnect()
    device.run()
    device.desk.holds_changed(())
    device.run(until=lambda: world.running == new.digest)
    device.run()
    assert world.running == old.digest
    device.link.connect()
    device.run()
    assert cloud.ends()[-1].reason is Reason.BROKER_UNREACHED


@pytest.mark.parametrize("confirms", [True, False])
def test_a_trial_that_is_to_be_confirmed(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, *, confirms: bool
) -> None:
    device = start(component=component(confirm=True))
    device.run()
    device.desk.confirm()  # of the version before: it is not the trial's
    device.run()
    new = world.image("2.0.0")
    cloud.release(new)
    device.link.notify()
    device.run(until=lambda: world.running == new.digest)
    if confirms:
        world.time += 0.1
        device.desk.confirm()
    device.run()
    assert cloud.ends()[-1].reason is (None if confirms else Reason.NOT_CONFIRMED)


def test_what_could_not_be_had_backs_off(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.fetching.failure = Failed(Reason.DOWNLOAD_FAILED, "nothing came")
    device.link.notify()
    device.run(1.0)
    assert waits(device)["why"] == Wait.BACKING_OFF
    device.run(90.0)
    assert [end.reason for end in cloud.ends()[1:]] == [Reason.DOWNLOAD_FAILED] * 2  # at once, and after a minute
    device.fetching.failure = None
    device.desk.check()  # a person does not wait
    device.run()
    assert world.running == new.digest
    assert device.journal.back_off(new.digest) is None


def test_back_off_outlasts_a_restart(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.fetching.failure = Failed(Reason.TOO_LARGE, "no room")
    device.link.notify()
    device.run(1.0)
    device = start()
    device.run(30.0)
    assert waits(device)["why"] == Wait.BACKING_OFF
    device.run(90.0)
    assert world.running == new.digest


# The operator changes her mind.


def test_a_release_that_is_disabled_is_called_off(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    device.desk.holds_changed((hold("install"),))
    release = cloud.release(world.image("1.1.0"))
    device.link.notify()
    device.run()
    cloud.disable(release)
    device.link.notify()
    device.run()
    end = cloud.ends()[-1]
    assert (end.outcome, end.reason) == (Outcome.CANCELLED, Reason.WITHDRAWN)
    assert device.idle()
    assert device.status["pending"] is None


def test_nothing_is_called_off_once_it_is_tried(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    release = cloud.release(new)
    device.link.notify()
    device.run(until=lambda: device.snapshot.phase is Phase.PROVING)
    cloud.disable(release)
    device.link.notify()
    device.run(until=lambda: len(cloud.ends()) == 2)
    assert cloud.ends()[-1].outcome is Outcome.SUCCEEDED
    device.run()
    assert world.running == old.digest  # and then it goes to what is wanted


# Telling.


def test_a_session_begins_with_presence_and_hello(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    (topic, payload, retained), (hello_topic, _, _) = device.link.published[:2]
    assert (topic, payload, retained) == (TOPICS.up(DEVICE, "presence"), b'{"online":true,"session":2}', True)
    assert hello_topic == TOPICS.up(DEVICE, "hello")
    assert [hello.state.session for hello in cloud.hellos] == [1, 2]
    assert device.link.filters == {
        TOPICS.all_down(DEVICE),
        TOPICS.bundle(PRODUCT),
        TOPICS.notice(PRODUCT, "everyone", "+"),
    }
    assert device.runner.contact.will() == b'{"online":false,"session":2}'
    device.link.is_up = False
    assert device.runner.contact.will() == b'{"online":false,"session":3}'


def test_hello_is_said_again_until_it_is_answered(world: World, cloud: Cloud, start: Start) -> None:
    cloud.answers = False
    device = start()
    began = world.time
    said: list[float] = []

    def note() -> bool:
        hellos = sum(topic.endswith("hello") for topic, _, _ in device.link.published)
        said.extend([world.time - began] * (hellos - len(said)))
        return len(said) == 9

    device.run(2000.0, until=note)
    assert said == pytest.approx([0, 5, 15, 35, 75, 155, 315, 615, 915], abs=0.2)


def test_a_cloud_that_is_away_keeps_nobody_from_deciding(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    gradual = world.image("1.1.0")
    cloud.release(gradual, urgency=Urgency.GRADUAL)
    cloud.answers = False
    device = start()
    device.link.notify()  # the broker has it
    began = world.time
    device.run(60.0, until=lambda: world.running == gradual.digest)
    assert world.running == gradual.digest
    assert world.time - began < 15
    immediate = world.image("1.2.0")
    cloud.release(immediate)
    device.link.notify()
    device.run(60.0)
    assert world.running == immediate.digest
    newest = world.image("1.3.0")
    cloud.release(newest, urgency=Urgency.GRADUAL)
    cloud.answers = True  # and answers the next hello
    device.run(300.0)
    assert world.running == newest.digest


def test_a_notice_that_is_missing_is_asked_for(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    cloud.desired_seq += 1
    device.link.deliver("desired", cloud.desired(0))
    device.run(20.0)
    assert [(ask.what, ask.name) for ask in cloud.asks][:2] == [(Asked.NOTICE, "everyone/app")] * 2
    device.link.notify()
    device.run()
    assert world.running == new.digest


def test_reports_wait_for_the_cloud(world: World, cloud: Cloud, start: Start) -> None:
    image = world.image("1.0.0")
    cloud.release(image)
    device = start()
    device.run(until=lambda: device.snapshot.phase is Phase.PROVING)
    cloud.answers = False  # it is gone, and the broker is there
    device.run(60.0)
    assert world.running == image.digest
    assert device.journal.unacknowledged(10)
    cloud.answers = True
    device.run(60.0)
    assert device.journal.unacknowledged(10) == ()
    assert [entry.seq for entry in cloud.entries] == list(range(1, len(cloud.entries) + 1))


def test_a_cloud_that_lost_something_gets_it_again(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    whole = list(cloud.entries)
    assert len(whole) > 3
    del cloud.entries[2:]
    cloud.journals = dict.fromkeys(cloud.journals, 2)
    device = start()
    device.run()
    assert cloud.entries == whole


def test_a_forged_acknowledgement_loses_nothing(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    cloud.answers = False
    cloud.release(world.image("1.1.0"))
    device.link.notify()
    device.run()
    position = device.journal.position()
    device.link.deliver("ack", encode(Ack(journal_id=position.journal_id, through=position.next_seq - 1)))
    device.run(5.0)
    assert device.journal.unacknowledged(10) == ()
    cloud.answers = True
    device.desk.check()
    device.run()
    assert cloud.ends()[-1].version == "1.1.0"


def test_a_component_that_is_found_is_told(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    count = len(cloud.entries)
    start().run()
    assert len(cloud.entries) == count  # as the update left it: nothing to tell
    slot = world.directory / "components/app/current"
    changed = world.image("1.0.1")
    for name, content in (("image", world.images[changed.digest]), ("slot.json", record(slot, changed))):
        (slot / name).chmod(0o600)
        (slot / name).write_bytes(content)
    committed = world.directory / "components/app/committed.json"
    committed.write_bytes(committed.read_bytes().replace(old.digest.encode(), changed.digest.encode()))
    world.running = None
    start().run()
    found = [entry.installed for entry in cloud.entries[count:] if entry.installed]
    assert [(state.version, state.digest) for state in found] == [("1.0.1", changed.digest)]


def record(slot: Path, image: FirmwareRef) -> bytes:
    del slot
    return encode(
        {
            "component": "app",
            "version": image.version,
            "build": image.build,
            "digest": image.digest,
            "size_bytes": image.size_bytes,
        }
    )


# Bad input.


def test_bad_messages_are_counted_and_dropped(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    device = start()
    device.run()
    genuine = cloud.notice()
    cloud.release(world.image("1.1.0"), urgency=Urgency.GRADUAL)
    device.link.notify()
    newest = cloud.notice()
    device.link.notify(genuine)  # older than what was seen
    device.link.notify(newest)  # twice
    device.link.notify(newest.replace(b"1.1.0", b"6.6.6"))
    device.link.notify(b"{")
    device.link.notify(b'{"type":"x"}')
    cloud.releases = [dataclasses.replace(cloud.releases[0], percentage=1), *cloud.releases[1:]]
    device.link.notify(cloud.notice())  # the same number, and another content
    device.link.send(TOPICS.notice(PRODUCT, "everyone", "os"), newest)  # a component that is not there
    cloud.seq += 1
    device.link.notify(cloud.notice().replace(b"everyone", b"everybod"))
    device.link.deliver("ack", b'{"journal_id":"x"}')
    device.link.deliver("ack", b"\xff")
    device.link.deliver("desired", b"[]")
    device.link.deliver("meta", b"{}")
    device.link.send("fleetlift/v1/p/thermostat/meta", b"{}")
    device.link.send("something/else", b"")
    cloud.desired_seq = 0
    device.run()
    assert device.journal.refused() == {
        "stale_notice": 1,
        "bad_signature": 2,
        "bad_message": 7,
        "altered_notice": 1,
        "bad_identity": 1,
    }
    assert cloud.states[-1].refused == device.journal.refused()
    assert world.running == old.digest
    new = world.image("1.2.0")
    cloud.desired_seq, cloud.seq = 5, 50
    cloud.release(new)
    device.link.notify()
    device.run()
    assert world.running == new.digest  # and it lives


def test_a_stale_or_foreign_desired_is_refused(world: World, cloud: Cloud, old: FirmwareRef, start: Start) -> None:
    cloud.desired_seq = 7
    device = start()
    device.run()
    cloud.desired_seq = 6
    device.link.deliver("desired", cloud.desired(0))
    cloud.desired_seq = 7
    cloud.ota_enabled = False
    device.link.deliver("desired", cloud.desired(0))
    device.run()
    assert device.journal.refused() == {"stale_desired": 1, "altered_desired": 1}


def test_what_nobody_thought_of_does_not_end_the_loop(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    device = start()
    device.run()

    def stumble() -> None:
        raise ZeroDivisionError

    device.loop.post(stumble)
    device.run()
    assert device.journal.refused() == {"internal_error": 1}
    assert "ZeroDivisionError" in caplog.text
    device.journal._refused.clear()
    device.journal._uncounted.clear()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    assert world.running == new.digest


def test_a_journal_that_cannot_be_written_stops_a_forward_step_and_no_fall_back(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    bad = world.image("2.0.0")
    world.unhealthy.add(bad.digest)
    cloud.release(bad)
    device.link.notify()
    device.run(until=lambda: device.snapshot.phase is Phase.PROVING)
    writable(device, on=False)
    device.run(until=device.idle)
    assert world.running == old.digest  # back without a journal
    assert all(end.version != "2.0.0" for end in cloud.ends())
    device.run(10.0)
    writable(device, on=True)
    device.run(30.0)
    assert cloud.ends()[-1].reason is Reason.HEALTH_FAILED  # and told, when it writes again
    assert bad.digest in device.journal.failed()
    writable(device, on=False)
    cloud.release(world.image("2.1.0"))
    device.link.notify()
    device.run(30.0)
    assert device.idle()
    writable(device, on=True)
    device.desk.check()
    device.run(60.0)
    assert cloud.ends()[-1].version == "2.1.0"


@pytest.mark.parametrize("phase", [Phase.DOWNLOADING, Phase.INSTALLING, Phase.PROVING])
def test_a_forward_step_is_taken_when_the_journal_writes_again(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start, phase: Phase
) -> None:
    device = start()
    device.run()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run(until=lambda: device.snapshot.phase is phase)
    device.fetching.stalled = phase is Phase.DOWNLOADING
    writable(device, on=False)
    device.run(20.0)
    assert device.snapshot.phase is phase
    assert device.journal.refused().keys() <= {"not_stored"}
    writable(device, on=True)
    device.fetching.go_on()
    device.run(120.0)
    assert world.running == new.digest
    assert cloud.ends()[-1].outcome is Outcome.SUCCEEDED


def test_a_trial_does_not_wait_for_the_journal_for_ever(
    world: World, cloud: Cloud, old: FirmwareRef, start: Start
) -> None:
    device = start()
    device.run()
    cloud.release(world.image("1.1.0"))
    device.link.notify()
    device.run(until=lambda: device.snapshot.phase is Phase.PROVING)
    writable(device, on=False)
    device.run(120.0)
    assert device.idle()
    assert world.running == old.digest


def writable(device: Device, *, on: bool) -> None:
    """Let SQLite refuse every write, or none."""
    device.journal._database._connection.execute(f"PRAGMA query_only={'OFF' if on else 'ON'}")
