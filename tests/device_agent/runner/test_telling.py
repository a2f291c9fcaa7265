"""What a device tells its cloud, and what becomes of bad messages."""

import dataclasses
from pathlib import Path

import pytest

from protocol.codec import encode
from protocol.down import Ack
from protocol.phases import Phase
from protocol.up import Asked
from protocol.values import FirmwareRef, Urgency
from tests.device_agent.runner.playing import Start
from tests.support.simulated_cloud import DEVICE, PRODUCT, TOPICS, Cloud
from tests.support.simulated_world import World


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

    for _ in range(50):
        device.loop.post(stumble)
    device.run()
    assert device.journal.refused() == {"internal_error": 50}
    assert "in stumble" in caplog.text
    assert sum("not thought of" in message for message in caplog.messages) == 1
    device.journal._refused.clear()
    device.journal._uncounted.clear()
    new = world.image("1.1.0")
    cloud.release(new)
    device.link.notify()
    device.run()
    assert world.running == new.digest
