"""Notices, desired states, acknowledgements and answers: forged, stale, replayed, altered, or another device's."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from protocol.codec import encode
from protocol.down import Ack, Metadata
from protocol.identity import MAX_INTEGER
from tests.attacks.attacker import TOPICS, desired, notice
from tests.attacks.evidence import fingerprint, refused
from tests.attacks.scene import Scene
from tests.support.processes import wait_until


def altered(envelope: bytes, **changes: object) -> bytes:
    """Another payload under the old signatures."""
    fields = json.loads(envelope)
    payload = json.loads(fields["payload"]) | changes
    return json.dumps(fields | {"payload": json.dumps(payload)}).encode()


def resigned(envelope: bytes, signatures: list[dict[str, str]]) -> bytes:
    """The same payload under other signatures."""
    return json.dumps(json.loads(envelope) | {"signatures": signatures}).encode()


def last(scene: Scene, topic: str) -> bytes:
    return scene.intruder.hear(topic)[-1]


def with_hold(scene: Scene) -> dict[str, Any]:
    """What would keep the device from ever being updated, if it were believed."""
    return {"seq": scene.desired().seq + 10**6, "ota_enabled": False}


def test_a_notice_with_another_payload_under_the_old_signatures_is_refused(scene: Scene) -> None:
    forged = altered(last(scene, scene.channel_topic), seq=scene.notice().seq + 1, releases=[])
    with scene.refusing("bad_signature"):
        scene.intruder.say(scene.channel_topic, forged, retain=True)


def test_a_desired_with_another_payload_under_the_old_signatures_is_refused(scene: Scene) -> None:
    with scene.refusing("bad_signature"):
        scene.intruder.say(scene.topic("desired"), altered(last(scene, scene.topic("desired")), **with_hold(scene)))


def test_messages_of_the_intruders_own_key_are_refused(scene: Scene) -> None:
    key = CryptoSigner.generate_ed25519()
    evil = scene.offer(scene.reference(scene.next_image()))
    with scene.refusing("bad_signature"):
        counted = refused(scene.device)
        scene.intruder.say(scene.channel_topic, notice(evil, key), retain=True)
        scene.intruder.say(
            scene.topic("desired"), desired(dataclasses.replace(scene.desired(), **with_hold(scene)), key)
        )
        scene.expect_refused("bad_signature", 2, counted)


def test_messages_of_every_offline_key_are_refused(scene: Scene) -> None:
    """A key may sign what it is for and nothing else: not even the root keys sign notices."""
    evil = scene.offer(scene.reference(scene.next_image()))
    keys = [scene.key(name) for name in ("root-1", "root-2", "root-3", "targets", "product-thermostat")]
    with scene.refusing("bad_signature"):
        counted = refused(scene.device)
        for signers in (*([key] for key in keys), keys):
            scene.intruder.say(scene.channel_topic, notice(evil, *signers), retain=True)
        scene.expect_refused("bad_signature", len(keys) + 1, counted)


Signatures = list[dict[str, str]]
BAD_SIGNATURES: dict[str, tuple[Callable[[Signatures], Signatures], str]] = {
    "none": (lambda _good: [], "bad_message"),
    "the same twice": (lambda good: [good[0], good[0]], "bad_message"),
    "an empty one": (lambda good: [{**good[0], "sig": ""}], "bad_message"),
    "one byte": (lambda good: [{**good[0], "sig": "00"}], "bad_signature"),
    "cut short": (lambda good: [{**good[0], "sig": good[0]["sig"][:-2]}], "bad_signature"),
    "of an unknown key": (lambda good: [{**good[0], "keyid": "0" * 64}], "bad_signature"),
    "in upper case": (lambda good: [{**good[0], "sig": "AB" * 64}], "bad_message"),
    "nine": (lambda good: [{**good[0], "keyid": f"{n:064x}"} for n in range(9)], "bad_message"),
}


@pytest.mark.parametrize("kind", ["notice", "desired"])
def test_no_empty_duplicate_and_foreign_signatures_are_refused(scene: Scene, kind: str) -> None:
    topic = scene.channel_topic if kind == "notice" else scene.topic("desired")
    change: dict[str, Any] = {"seq": scene.notice().seq + 1} if kind == "notice" else with_hold(scene)
    forged = altered(last(scene, topic), **change)
    good = json.loads(forged)["signatures"]
    with scene.refusing():
        for what, (signatures, code) in BAD_SIGNATURES.items():
            counted = refused(scene.device)
            scene.intruder.say(topic, resigned(forged, signatures(good)))
            scene.expect_refused(code, 1, counted)
            assert sum(refused(scene.device).values()) == sum(counted.values()) + 1, what


def test_an_old_notice_is_refused(scene: Scene) -> None:
    scene.takes_the_next_good_release()
    old = scene.intruder.hear(scene.channel_topic, 2)
    with scene.refusing("stale_notice"):
        scene.intruder.say(scene.channel_topic, old[-2], retain=True)


def test_an_old_desired_is_refused(scene: Scene) -> None:
    scene.fleet.settle(scene.device)
    old = scene.intruder.hear(scene.topic("desired"), 2)
    with scene.refusing("stale_desired"):
        scene.intruder.say(scene.topic("desired"), old[0])


def test_everything_that_was_ever_said_said_again_changes_nothing(scene: Scene) -> None:
    """A recording of all that the cloud ever told this device, and all devices, played back in order."""
    scene.takes_the_next_good_release()  # so that there are older notices than the newest
    told = {scene.channel_topic, TOPICS.bundle(scene.product)} | {
        scene.topic(kind) for kind in ("desired", "ack", "meta")
    }
    recording = [message for message in scene.intruder.history() if message.topic in told][-500:]
    assert {TOPICS.bundle(scene.product), scene.channel_topic, scene.topic("desired"), scene.topic("ack")} <= {
        message.topic for message in recording
    }
    with scene.refusing("stale_desired", "stale_notice"):
        for message in recording:
            if message.payload != b"a fence":
                scene.intruder.say(message.topic, message.payload, retain=message.topic == scene.channel_topic)


@pytest.mark.parametrize("kind", ["notice", "desired"])
def test_another_content_under_a_number_that_was_used_is_refused(scene: Scene, kind: str) -> None:
    """Only the stolen online key can do that, and even it cannot make two devices believe two things of one number."""
    key = scene.key("online")
    if kind == "notice":
        scene.fleet.settle(scene.device)
        evil = dataclasses.replace(scene.notice(), releases=())
        topic, payload = scene.channel_topic, notice(evil, key)
    else:
        scene.fleet.settle(scene.device)
        topic, payload = scene.topic("desired"), desired(dataclasses.replace(scene.desired(), ota_enabled=False), key)
    with scene.refusing(f"altered_{kind}"):
        scene.intruder.say(topic, payload, retain=kind == "notice")


def test_what_was_signed_for_another_device_is_refused(scene: Scene) -> None:
    with scene.fleet.stand_in("neighbour"):
        theirs = scene.intruder.hear(TOPICS.down("neighbour", "desired"))[-1]
    with scene.refusing("foreign_desired"):
        scene.intruder.say(scene.topic("desired"), theirs)


def test_what_was_signed_for_another_group_or_component_is_refused(scene: Scene) -> None:
    other = scene.fleet.group("elsewhere")
    scene.fleet.push(scene.next_image(), "--group", other, "--immediate")
    theirs = scene.intruder.hear(TOPICS.notice(scene.product, other, "app"))[-1]
    with scene.refusing("foreign_notice"):
        scene.intruder.say(scene.channel_topic, theirs, retain=True)


def test_a_signed_message_of_one_kind_is_none_of_another(scene: Scene) -> None:
    a_notice, a_desired = last(scene, scene.channel_topic), last(scene, scene.topic("desired"))
    with scene.refusing("bad_message"):
        counted = refused(scene.device)
        scene.intruder.say(scene.topic("desired"), a_notice)
        scene.intruder.say(scene.channel_topic, a_desired, retain=True)
        kinds = json.loads(a_desired)["type"]
        scene.intruder.say(scene.topic("desired"), json.dumps(json.loads(a_notice) | {"type": kinds}).encode())
        scene.expect_refused("bad_message", 2, counted)
        scene.expect_refused("bad_signature", 1, counted)


def test_a_notice_on_a_topic_that_nobody_subscribed_to_is_not_heard(scene: Scene) -> None:
    """Also where the broker delivers it all the same, as one that was taken over can."""
    good = last(scene, scene.channel_topic)
    with scene.refusing():
        for topic in (
            TOPICS.notice(scene.product, "elsewhere", "app"),
            TOPICS.notice("boiler", scene.group, "app"),
            TOPICS.down("neighbour", "desired"),
            f"{TOPICS.root}/d/{scene.device.device_id}/down/command",
            f"{TOPICS.root}/d/{scene.device.device_id}/down/desired/more",
        ):
            scene.intruder.say(topic, good)


@pytest.mark.parametrize(
    ("journal_id", "through"),
    [("0123456789ab", 0), ("0123456789ab", MAX_INTEGER), (None, 0), (None, 1)],
    ids=["another-journal", "another-journal-all", "nothing", "less"],
)
def test_a_forged_acknowledgement_loses_nothing(scene: Scene, journal_id: str | None, through: int) -> None:
    own = json.loads(last(scene, scene.topic("ack")))["journal_id"]
    with scene.refusing():
        forged = encode(Ack(journal_id=journal_id or own, through=through))
        for _ in range(20):
            scene.intruder.say(scene.topic("ack"), forged)
        scene.fleet.expect_told(scene.device)


def test_an_acknowledgement_of_what_was_never_written_does_not_begin_journal_after_journal(scene: Scene) -> None:
    own = json.loads(last(scene, scene.topic("ack")))["journal_id"]
    with scene.refusing():
        scene.intruder.fence(scene.device)
        for beyond in range(50):
            scene.intruder.say(scene.topic("ack"), encode(Ack(journal_id=own, through=MAX_INTEGER - beyond)))


def test_a_hello_in_a_devices_name_does_not_shut_it_out(scene: Scene) -> None:
    """Of a session that no device reaches: the device's own hellos are before it for ever, in this journal."""
    hello = json.loads(scene.intruder.hear(TOPICS.up(scene.group, "hello"))[-1])
    hello["state"] |= {"session": MAX_INTEGER}
    scene.intruder.say(TOPICS.up(scene.group, "hello"), json.dumps(hello).encode())
    scene.fleet.until(lambda: scene.fleet.row(scene.device)["session"] == MAX_INTEGER, "the forgery believed")
    answered, before = scene.fleet.row(scene.device)["desired_seq"], scene.rough().journal["facts"]["journal_id"]
    scene.device.check()
    wait_until(lambda: scene.rough().journal["facts"]["journal_id"] != before, what="a new journal")
    scene.device.check()  # it would by itself, in a few seconds
    scene.fleet.until(lambda: scene.fleet.row(scene.device)["desired_seq"] > answered, "an answer to the device itself")
    scene.takes_the_next_good_release()


def test_answers_that_nobody_asked_for_are_dropped(scene: Scene) -> None:
    with scene.refusing():
        for request in range(64):
            scene.intruder.say(
                scene.topic("meta"), encode(Metadata(request=request, name="2.root.json", found=True, body="{}"))
            )


GARBAGE = {
    "empty": b"",
    "not-json": b"{",
    "not-utf-8": b"\xff\xfe{}",
    "an-array": b"[]",
    "deep": b'{"type":' * 5000 + b"1" + b"}" * 5000,
    "deep-arrays": b"[" * 100_000,
    "duplicate-keys": b'{"type":"a","type":"b","payload":"{}","signatures":[]}',
    "nan": b'{"type":"a","payload":NaN,"signatures":[]}',
    "a-huge-integer": b'{"request":' + b"9" * 5000 + b',"name":"a.json","found":false}',
    "half-a-character": b'{"type":"\\ud800","payload":"{}","signatures":[]}',
    "over-long": b'{"type":"' + b"x" * 131_000 + b'"}',
    "nulls": b"\0" * 1000,
}


def test_garbage_on_every_topic_is_counted_and_dropped(scene: Scene) -> None:
    topics = [scene.topic(kind) for kind in ("desired", "ack", "meta")]
    topics += [scene.channel_topic, TOPICS.bundle(scene.product)]
    with scene.refusing():
        for what, garbage in GARBAGE.items():
            counted = refused(scene.device)
            for topic in topics:
                scene.intruder.say(topic, garbage)
            scene.expect_refused("bad_message", len(topics), counted)
            assert refused(scene.device)["bad_message"] == counted.get("bad_message", 0) + len(topics), what


def test_a_false_retained_notice_is_put_right_by_the_next_release(scene: Scene) -> None:
    """Who deletes or replaces what is retained delays devices, until they ask and the cloud says it again."""
    seen = fingerprint(scene.device).journal["seen"]
    with scene.refusing("bad_message"):
        scene.intruder.say(scene.channel_topic, b"", retain=True)
        scene.intruder.say(scene.channel_topic, b"gone", retain=True)
        scene.intruder.say(TOPICS.bundle(scene.product), b"", retain=True)
        scene.device.check()
        wait_until(lambda: fingerprint(scene.device).journal["seen"] == seen, what="what was accepted is still there")
