"""The service over a real broker and a real store, spoken to by devices that are plain MQTT clients."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloud.broker import EmbeddedBroker
from cloud.fleet import AttemptFilter, DeviceFilter
from cloud.values import OutboxKind, ReleaseDraft, ReleasePatch
from protocol.chunks import ChunkList, describe, unpack_chunk
from protocol.codec import decode, encode
from protocol.down import Ack, Bundle, Metadata
from protocol.phases import Outcome, Phase, Reason
from protocol.up import Ask, Asked, Presence, Want
from tests.cloud.clouds import CHANNEL, TOPICS, Cloud, Device, device_on, report
from tests.cloud.homes import MODEL, PRODUCT, OpenHome, hello_of, open_home
from tests.support.processes import wait_until


@pytest.fixture
def home(tmp_path: Path) -> Iterator[OpenHome]:
    with open_home(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def cloud(home: OpenHome, mosquitto: EmbeddedBroker) -> Iterator[Cloud]:
    with Cloud(home, mosquitto.port) as running:
        yield running


@pytest.fixture
def device(cloud: Cloud, mosquitto: EmbeddedBroker) -> Iterator[Device]:
    with device_on(cloud, mosquitto) as joined:
        yield joined


def test_a_hello_is_answered_with_ack_and_a_signed_desired_of_its_session(cloud: Cloud, device: Device) -> None:
    device.say("hello", hello_of(session=7, journal_id="j9", next_seq=4))
    assert device.down("ack", Ack) == Ack(journal_id="j9", through=0)
    desired = device.desired()
    assert (desired.device_id, desired.session, desired.product, desired.groups) == ("pi-1", 7, PRODUCT, ("everyone",))
    assert desired.metadata_version == cloud.home.repository.version
    again = device.hello(session=7, journal_id="j9")
    assert again.seq > desired.seq or again == dataclasses.replace(desired, issued_at_ms=again.issued_at_ms)
    known = cloud.home.store.devices.device("pi-1")
    assert (known.hardware_model, known.session, known.online) == (MODEL, 7, True)


def test_a_hello_of_an_unknown_product_is_counted_and_not_answered(cloud: Cloud, device: Device) -> None:
    device.say("hello", hello_of(product="toaster"))
    # Waited for: a hello that is not handled yet gives way to the next one.
    wait_until(lambda: cloud.service.counts()["refused"] == {"hello_unknown_product": 1}, what="the refusal")
    device.hello()
    assert cloud.home.store.devices.count(DeviceFilter(product="toaster")) == 0


def test_an_unknown_device_is_not_let_in_when_joining_is_closed(home: OpenHome, mosquitto: EmbeddedBroker) -> None:
    home.store.devices.register("pi-2", product=PRODUCT, hardware_model=MODEL, by="test")
    with Cloud(home, mosquitto.port, open_joining=False) as cloud:
        with device_on(cloud, mosquitto, "pi-1") as stranger, device_on(cloud, mosquitto, "pi-2") as known:
            stranger.say("hello", hello_of())
            known.hello()
            wait_until(lambda: cloud.service.counts()["refused"], what="the refusal")
            assert cloud.service.counts()["refused"] == {"hello_unknown_device": 1}
        assert [item.device_id for item in home.store.devices.devices()] == ["pi-2"]


def test_reports_are_acknowledged_once_stored_repeated_or_not(cloud: Cloud, device: Device) -> None:
    device.hello()
    for sent, through in (((1, 2), 2), ((1, 2), 2), ((2, 3), 3), ((5, 6), 3), ((4, 5), 5)):
        device.say("report", report(*sent))
        assert device.down("ack", Ack) == Ack(journal_id="j1", through=through), sent
    (attempt,) = cloud.home.store.journal.history("pi-1")
    assert [step.seq for step in attempt.steps] == [1, 2, 3, 4, 5]
    device.say("report", report(1, journal_id="j2", attempt_id="b1"))
    assert device.down("ack", Ack) == Ack(journal_id="j2", through=1)
    assert len(cloud.home.store.journal.history("pi-1")) == 2


def test_state_and_presence_are_stored_newest_first(cloud: Cloud, device: Device) -> None:
    device.hello()
    state = hello_of().state
    device.say("state", dataclasses.replace(state, seq=9, phase=Phase.DOWNLOADING))
    wait_until(lambda: cloud.home.store.devices.device("pi-1").phase is Phase.DOWNLOADING, what="the newer state")
    device.say("state", dataclasses.replace(state, seq=3, phase=Phase.IDLE))
    device.say("presence", Presence(online=False, session=0))
    device.say("report", report(1))
    device.down("ack", Ack)
    view = cloud.home.store.devices.device("pi-1")
    assert (view.phase, view.online) == (Phase.DOWNLOADING, True)
    device.say("presence", Presence(online=False, session=1))
    wait_until(lambda: not cloud.home.store.devices.device("pi-1").online, what="the presence")


def test_a_release_reaches_the_group_as_one_retained_signed_message(cloud: Cloud, device: Device) -> None:
    cloud.home.publish("1.1.0")
    release_id = cloud.release("1.1.0", percentage=40)
    notice = device.notice()
    assert [(item.release_id, item.percentage) for item in notice.releases] == [(release_id, 40)]
    cloud.home.store.releases.patch(release_id, ReleasePatch(percentage=70), by="test")
    cloud.changes.bump()
    newer = device.notice()
    assert newer.seq > notice.seq
    assert newer.releases[0].percentage == 70
    desired = device.hello()
    assert desired.notices == {"everyone/app": newer.seq}
    wait_until(lambda: cloud.home.store.outbox.take() == (), what="the outbox")


def test_a_new_firmware_reaches_devices_in_the_bundle(cloud: Cloud, device: Device) -> None:
    before = decode(device.hear(TOPICS.bundle(PRODUCT)), Bundle)
    cloud.home.publish("1.1.0")
    cloud.changes.bump()
    after = decode(device.hear(TOPICS.bundle(PRODUCT)), Bundle)
    assert before.files != after.files
    role = next(text for name, text in after.files.items() if name.endswith(f".{PRODUCT}.json"))
    assert f"{PRODUCT}/app/1.1.0" in json.loads(role)["signed"]["targets"]
    cloud.home.intake.publish_role(PRODUCT, cloud.home.keyring.renew_role(PRODUCT, role.encode()), by="test")
    cloud.changes.bump()
    renewed = decode(device.hear(TOPICS.bundle(PRODUCT)), Bundle)
    assert renewed.files.keys() != after.files.keys()


def test_what_is_decided_for_one_device_is_told_while_it_is_online(cloud: Cloud, device: Device) -> None:
    cloud.home.publish("1.1.0")
    first = device.hello()
    cloud.home.store.devices.pin("pi-1", "app", "1.1.0", by="test")
    cloud.changes.bump()
    told = device.desired()
    assert (told.session, [pin.version for pin in told.pins]) == (0, ["1.1.0"])
    assert told.seq > first.seq
    device.say("presence", Presence(online=False, session=1))
    wait_until(lambda: not cloud.home.store.devices.device("pi-1").online, what="the presence")
    cloud.home.store.devices.unpin("pi-1", "app", by="test")
    cloud.changes.bump()
    wait_until(lambda: cloud.home.store.outbox.take() == (), what="the outbox")
    answer = device.hello(session=2)  # the first desired state that comes after that
    assert (answer.session, answer.pins) == (2, ())


def test_wanted_chunks_come_once_on_the_shared_topic(cloud: Cloud, device: Device) -> None:
    image = cloud.home.publish("1.1.0", bytes(range(256)) * 1000)
    ref, lists = describe([image])
    device.peer.subscribe(TOPICS.chunks(ref.lists[0]), qos=0)
    device.peer.subscribe(TOPICS.chunks(ref.digest), qos=0)
    device.say("want", Want(blob=ref.lists[0], ranges=((0, 1),)))
    _, content = unpack_chunk(device.hear(TOPICS.chunks(ref.lists[0])))
    chunk_list = ChunkList.trust(bytes(content), ref.lists[0], ref.size_bytes)
    assert lists[0] == chunk_list.digests
    device.say("want", Want(blob=ref.digest, ranges=((0, 2), (3, 1))))
    got = [unpack_chunk(device.hear(TOPICS.chunks(ref.digest))) for _ in range(3)]
    for index, data in got:
        chunk_list.verify(index, data)
    assert [index for index, _ in got] == [0, 1, 3]


def test_metadata_is_answered_by_name_and_its_absence_too(cloud: Cloud, device: Device) -> None:
    device.say("ask", Ask(request=5, what=Asked.METADATA, name="1.root.json"))
    answer = device.down("meta", Metadata)
    assert (answer.request, answer.name, answer.found) == (5, "1.root.json", True)
    assert answer.body is not None
    assert answer.body.encode() == cloud.home.repository.root_bytes
    device.say("ask", Ask(request=6, what=Asked.METADATA, name="2.root.json"))
    assert device.down("meta", Metadata) == Metadata(request=6, name="2.root.json", found=False)


def test_metadata_too_large_for_a_message_travels_as_a_blob(cloud: Cloud, device: Device) -> None:
    notes = "n" * 2000
    for number in range(70):
        cloud.home.publish(f"1.0.{number}", f"image {number}".encode(), notes=notes)
    name = f"{PRODUCT}.json"
    device.say("ask", Ask(request=1, what=Asked.METADATA, name=name))
    answer = device.down("meta", Metadata)
    assert (answer.found, answer.body) == (True, None)
    assert answer.blob is not None
    device.peer.subscribe(TOPICS.chunks(answer.blob.digest), qos=0)
    device.say("want", Want(blob=answer.blob.digest, ranges=((0, answer.blob.chunk_count),)))
    chunks = dict(unpack_chunk(device.hear(TOPICS.chunks(answer.blob.digest))) for _ in range(answer.blob.chunk_count))
    content = b"".join(bytes(chunks[index]) for index in range(answer.blob.chunk_count))
    assert content == cloud.home.repository.metadata(name)


def test_a_lost_notice_or_bundle_is_published_again_when_asked_for(cloud: Cloud, device: Device) -> None:
    def hear_bundle() -> None:
        """Wait for the current one; what was told when the cloud came up may be on its way still."""
        while decode(device.hear(TOPICS.bundle(PRODUCT)), Bundle) != cloud.home.repository.bundle(PRODUCT):
            pass  # `hear` fails where no other comes

    cloud.home.publish("1.1.0")
    hear_bundle()
    device.hello()
    cloud.release("1.1.0")
    notice = device.notice()
    device.peer.drain()
    device.say("ask", Ask(request=1, what=Asked.NOTICE, name="everyone/app"))
    assert device.notice() == notice
    device.say("ask", Ask(request=2, what=Asked.BUNDLE))
    hear_bundle()
    device.say("ask", Ask(request=3, what=Asked.NOTICE, name="nobody/app"))
    device.say("ask", Ask(request=4, what=Asked.NOTICE, name="no-channel"))
    device.hello()


MALFORMED: Mapping[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\xff\x00garbage",
    "truncated": b'{"product": "thermostat", "hardware',
    "a list": b"[]",
    "a key twice": b'{"session": 1, "session": 2}',
    "NaN": b'{"session": NaN}',
    "a huge integer": b'{"session": 99999999999999999999}',
    "too deep": b'{"a":' * 50 + b"1" + b"}" * 50,
    "too large": b'{"a": "' + b"x" * 131_000 + b'"}',
    "missing fields": b"{}",
    "wrong types": b'{"session": "1", "online": 1, "blob": 5, "what": 7, "entries": {}, "product": []}',
}


@pytest.mark.parametrize("kind", ["hello", "state", "report", "want", "ask", "presence"])
def test_malformed_messages_are_counted_and_survived(cloud: Cloud, device: Device, kind: str) -> None:
    for payload in MALFORMED.values():
        device.peer.publish(TOPICS.up("pi-1", kind), payload)
    device.hello()
    wait_until(
        lambda: sum(count for (of, _), count in cloud.link.refused().items() if of == kind) == len(MALFORMED),
        what="every refusal counted",
    )


def test_messages_that_are_late_strange_or_of_strangers_are_survived(cloud: Cloud, device: Device) -> None:
    stranger = "nobody-knows-me"
    for message, kind in (
        (report(1), "report"),
        (hello_of().state, "state"),
        (Presence(online=True, session=1), "presence"),
        (Ask(request=1, what=Asked.BUNDLE), "ask"),
        (Want(blob="a" * 64, ranges=((0, 5),)), "want"),
    ):
        device.peer.publish(TOPICS.up(stranger, kind), encode(message))
    unknown_fields = json.dumps({**json.loads(encode(hello_of(session=3))), "from_the_future": {"a": [1]}}).encode()
    device.say("hello", unknown_fields)
    assert device.desired().session == 3
    device.say("hello", hello_of(session=2))  # of a session before
    wait_until(lambda: cloud.service.counts()["refused"].get("hello_stale_hello") == 1, what="the refusal")
    assert device.hello(session=4).session == 4
    assert [item.device_id for item in cloud.home.store.devices.devices()] == ["pi-1"]
    told = {f"{item.kind} {item.code}" for item in cloud.refusals.of(stranger)}
    unknown = {"report unknown_device", "ask unknown_device", "state unknown_or_stale", "presence unknown_or_stale"}
    assert told == unknown | {"want unknown_blob"}


def test_a_store_that_fails_for_a_while_loses_nothing(
    cloud: Cloud, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.hello()

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as failing:
        failing.setattr(cloud.home.store.journal, "receive_report", broken)
        device.say("report", report(1))
        wait_until(lambda: ("report", "failed") in cloud.link.refused(), what="the failure")
    device.say("report", report(1))
    assert device.down("ack", Ack) == Ack(journal_id="j1", through=1)


def test_one_message_that_can_never_be_told_does_not_keep_the_others_waiting(cloud: Cloud, device: Device) -> None:
    cloud.home.publish("1.1.0")
    cloud.home.store.outbox.mark(OutboxKind.DESIRED, "never-heard-of")
    cloud.home.store.outbox.mark(OutboxKind.NOTICE, f"{PRODUCT}/nobody/app")
    cloud.home.store.outbox.mark(OutboxKind.BUNDLE, "toaster")
    cloud.release("1.1.0")
    assert device.notice().releases[0].firmware.version == "1.1.0"
    wait_until(lambda: cloud.home.store.outbox.take() == (), what="the outbox")


def test_what_is_decided_while_the_broker_is_away_is_told_when_it_is_back(
    home: OpenHome, mosquitto: EmbeddedBroker
) -> None:
    home.publish("1.1.0")
    with Cloud(home, mosquitto.port) as cloud:
        mosquitto.kill()
        wait_until(lambda: not cloud.link.is_connected, what="the loss noticed")
        cloud.release("1.1.0")
        mosquitto.start()
        cloud.wait_for_connection()
        with device_on(cloud, mosquitto) as device:
            assert device.notice().releases[0].firmware.version == "1.1.0"


def test_every_retained_message_is_published_again_to_a_broker_that_lost_them(
    home: OpenHome, mosquitto: EmbeddedBroker
) -> None:
    home.publish("1.1.0")
    with Cloud(home, mosquitto.port) as cloud:
        cloud.release("1.1.0")
        wait_until(lambda: home.store.outbox.take() == (), what="the outbox")
        mosquitto.kill()
        for path in mosquitto.data_dir.glob("*.db"):
            path.unlink()
        mosquitto.start()
        cloud.wait_for_connection()
        with device_on(cloud, mosquitto) as device:
            assert device.notice().releases[0].firmware.version == "1.1.0"
            assert decode(device.hear(TOPICS.bundle(PRODUCT)), Bundle).product == PRODUCT


def test_a_disk_that_fails_when_everything_is_told_again_only_delays_it(
    home: OpenHome, mosquitto: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.publish("1.1.0")
    channels, notices = home.store.releases.channels, home.store.releases.channel_notice
    failures = [OSError(5, "Input/output error") for _ in range(2)]

    def failing(once: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if failures:
                raise failures.pop()
            return once(*arguments)

        return call

    with Cloud(home, mosquitto.port) as cloud:
        cloud.release("1.1.0")
        wait_until(lambda: home.store.outbox.take() == (), what="the outbox")
        mosquitto.kill()
        for path in mosquitto.data_dir.glob("*.db"):
            path.unlink()
        wait_until(lambda: not cloud.link.is_connected, what="the loss noticed")
        monkeypatch.setattr(home.store.releases, "channels", failing(channels))
        monkeypatch.setattr(home.store.releases, "channel_notice", failing(notices))
        mosquitto.start()
        cloud.wait_for_connection()
        with device_on(cloud, mosquitto) as device:
            assert device.notice(timeout_s=20).releases[0].firmware.version == "1.1.0"
    assert failures == []


def test_a_cloud_that_starts_again_tells_what_lay_in_the_outbox(home: OpenHome, mosquitto: EmbeddedBroker) -> None:
    home.publish("1.1.0")
    home.store.releases.create(ReleaseDraft(channel=CHANNEL, version="1.1.0"), by="test")
    assert home.store.outbox.take()
    with Cloud(home, mosquitto.port) as cloud, device_on(cloud, mosquitto) as device:
        assert device.notice().releases[0].firmware.version == "1.1.0"
        wait_until(lambda: home.store.outbox.take() == (), what="the outbox")


def test_a_conversation_on_the_broker_of_a_machine_without_mosquitto(
    home: OpenHome, amqtt_broker: EmbeddedBroker
) -> None:
    image = home.publish("1.1.0")
    ref = describe([image])[0]
    with Cloud(home, amqtt_broker.port) as cloud, device_on(cloud, amqtt_broker) as device:
        assert device.hello(session=2).session == 2
        release_id = cloud.release("1.1.0")
        assert device.notice().releases[0].release_id == release_id
        device.peer.subscribe(TOPICS.chunks(ref.digest), qos=0)
        device.say("want", Want(blob=ref.digest, ranges=((0, 1),)))
        assert unpack_chunk(device.hear(TOPICS.chunks(ref.digest)))[1] == image
        device.say("report", report(1))
        assert device.down("ack", Ack) == Ack(journal_id="j1", through=1)


def test_a_device_that_rolled_back_is_in_the_attempts_with_its_reason(cloud: Cloud, device: Device) -> None:
    device.hello()
    device.say("report", report(1))
    device.down("ack", Ack)
    how = {"outcome": Outcome.ROLLED_BACK, "reason": Reason.HEALTH_FAILED, "phase": Phase.ROLLING_BACK}
    device.say("report", report(2, **how))
    device.down("ack", Ack)
    (attempt,) = cloud.home.store.journal.attempts(AttemptFilter(device_id="pi-1"))
    assert (attempt.outcome, attempt.reason) == (Outcome.ROLLED_BACK, Reason.HEALTH_FAILED)
