"""A key drill: the server's key and a root key are replaced, and a hundred devices follow, one from five roots behind.

Real keyring, repository, broker and device trust. The devices share one link of an agent's, and a few threads: what is
tried is what they trust, not how many connections a broker has.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Self

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Metadata

from cloud.broker import EmbeddedBroker
from cloud.key_files import load_key
from cloud.keys.changes import ONLINE
from device_agent.asks import MetadataFiles
from device_agent.link import Link, LinkSettings
from device_agent.trust import DeviceTrust, Distrust, TrustError
from protocol.codec import decode, encode
from protocol.down import Bundle, Notice
from protocol.down import Metadata as MetadataAnswer
from protocol.signing import NOTICE_TYPE, Signature, seal, unseal
from protocol.topics import BundleTopic, DownTopic, Topics, UpTopic
from protocol.up import Ask
from tests.cloud.keys.holders import Holder, operator_of, publish
from tests.cloud.repositories import House
from tests.support.mqtt import Peer
from tests.support.processes import wait_until
from tests.support.simulated_device import no_fsync

DEVICES = 100
THREADS = 4
TOPICS = Topics()
PRODUCT = "thermostat"
FIRMWARE = "thermostat/app/1.0.0"


class Cloud:
    """Answers for a repository over the broker; `forged` are files that somebody on the way has put in their place."""

    def __init__(self, port: int, house: House) -> None:
        self.house = house
        self.forged: dict[str, bytes] = {}
        self._peer = Peer(port, "cloud")
        self._peer._client.on_message = lambda _client, _user, message: self._answer(
            message.topic, bytes(message.payload)
        )

    def __enter__(self) -> Self:
        self._peer.connect()
        self._peer.subscribe(TOPICS.all_up())
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.close()

    def publish(self, bundle: Bundle) -> None:
        self._peer.publish(TOPICS.bundle(PRODUCT), encode(bundle), retain=True)

    def _answer(self, topic_text: str, payload: bytes) -> None:
        topic = TOPICS.parse(topic_text)
        if isinstance(topic, UpTopic) and topic.kind == "ask":
            ask = decode(payload, Ask)
            content = self.forged.get(ask.name) or self.house.repository.metadata(ask.name)
            body = None if content is None else content.decode()
            answer = MetadataAnswer(request=ask.request, name=ask.name, found=content is not None, body=body)
            self._peer._client.publish(TOPICS.down(topic.device_id, "meta"), encode(answer), 1)


class Fleet:
    """The devices' trust, by id; the bundle that was heard last is offered to whoever is awake."""

    def __init__(self, url: str, house: House, directory: Path) -> None:
        self.heard: Bundle | None = None
        self._up = Event()
        self._link = Link(
            LinkSettings(url=url, device_id="drill", max_queued=4 * DEVICES),
            TOPICS,
            will=lambda: b"{}",
            on_up=lambda _session_present: self._up.set(),
            on_down=lambda _why: None,
            on_message=self._message,
        )
        ids = [f"dev-{number}" for number in range(DEVICES)]
        self._files = {device_id: MetadataFiles(self._link, TOPICS, device_id) for device_id in ids}
        root = house.keyring.roots()[0]
        self.devices = {
            device_id: DeviceTrust(
                directory / device_id,
                root,
                PRODUCT,
                ask=self._files[device_id].file,
                now=lambda: house.clock().timestamp(),
            )
            for device_id in ids
        }
        self._link.subscribe({f"{TOPICS.root}/d/+/down/#": 1, TOPICS.bundle(PRODUCT): 1})
        self._link.start()
        assert self._up.wait(20), self._link.problem
        self._pool = ThreadPoolExecutor(THREADS)

    def close(self) -> None:
        self._pool.shutdown()
        self._link.stop()

    def hears(self, bundle: Bundle) -> None:
        wait_until(lambda: self.heard == bundle, what="the bundle")

    def each(self, call: Callable[[DeviceTrust], object], *asleep: str) -> list[object]:
        """Call for each device that is awake, a few at a time, and return what came of it."""
        awake = [trust for device_id, trust in self.devices.items() if device_id not in asleep]
        return list(self._pool.map(call, awake))

    def follow(self, trust: DeviceTrust) -> int:
        assert self.heard is not None
        trust.offer_bundle(self.heard)
        trust.refresh()
        assert trust.signed_firmware(FIRMWARE).manifest.seq == 1
        return trust.root_version

    def _message(self, topic_text: str, payload: bytes) -> None:
        match TOPICS.parse(topic_text):
            case DownTopic(device_id, "meta"):
                self._files[device_id].answer(decode(payload, MetadataAnswer))
            case BundleTopic():
                self.heard = decode(payload, Bundle)


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path / "house")
    house.add_product(PRODUCT)
    house.publish("1.0.0", 1)
    return house


@pytest.fixture
def cloud(mosquitto: EmbeddedBroker, house: House) -> Iterator[Cloud]:
    with Cloud(mosquitto.port, house) as cloud:
        yield cloud


@pytest.fixture
def fleet(mosquitto: EmbeddedBroker, house: House, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(mosquitto.url, house, tmp_path / "devices")
    yield fleet
    fleet.close()


def change(house: House, operator: Holder, what: str) -> None:
    """Make the next root: `renew` it, let the server's next key sign beside the old, drop the old, or a root key."""
    changes = operator.changes()
    match what:
        case "renew":
            changes.renew("root")
        case "add the next online key":
            changes.add_key(ONLINE, house.repository.prepare_online_key())
        case "drop the old online key":
            for keyid in set(changes.holders(ONLINE)) - {house.repository.prepare_online_key().keyid}:
                changes.revoke_key(ONLINE, keyid)
        case "replace a root key":
            new = operator.keyring.keys.create("root-new").key
            assert new is not None
            changes.replace_key("root", load_key(operator.directory / "root-1.pem").public_key.keyid, new)
    publish(house, operator.sign(changes.draft()))
    operator.follow()


def notice(sign: Callable[[bytes], tuple[Signature, ...]]) -> bytes:
    message = Notice(product=PRODUCT, group="everyone", component="app", seq=1, issued_at_ms=0, releases=())
    return seal(message, NOTICE_TYPE, sign)


def signed_by(signer: CryptoSigner) -> Callable[[bytes], tuple[Signature, ...]]:
    def sign(data: bytes) -> tuple[Signature, ...]:
        made = signer.sign(data)
        return (Signature(keyid=made.keyid, sig=made.signature),)

    return sign


def refusal(call: Callable[[], object]) -> Distrust | None:
    try:
        call()
    except TrustError as error:
        return error.code
    return None


def forged_timestamp(bundle: Bundle, thief: CryptoSigner) -> Bundle:
    forged = Metadata.from_bytes(bundle.files["timestamp.json"].encode())
    forged.signed.version += 1000
    forged.sign(thief)
    return Bundle(
        product=PRODUCT,
        root_version=bundle.root_version,
        files={**bundle.files, "timestamp.json": forged.to_bytes().decode()},
    )


@pytest.mark.broker
def test_a_hundred_devices_follow_new_keys_and_refuse_the_old_ones(
    house: House, cloud: Cloud, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", no_fsync)
    operator, late = operator_of(house), "dev-99"
    operator.follow()
    stolen_online = load_key(house.directory / "cloud" / "online.pem")
    stolen_root = load_key(operator.directory / "root-1.pem")

    def tell() -> Bundle:
        bundle = house.repository.bundle(PRODUCT)
        cloud.publish(bundle)
        fleet.hears(bundle)
        return bundle

    tell()
    assert set(fleet.each(fleet.follow)) == {1}
    for step in ("renew", "renew", "add the next online key"):
        change(house, operator, step)
    tell()
    assert set(fleet.each(fleet.follow, late)) == {4}
    change(house, operator, "drop the old online key")
    change(house, operator, "replace a root key")
    bundle = tell()
    assert fleet.devices[late].root_version == 1
    assert fleet.each(fleet.follow) == [6] * DEVICES

    good, old = notice(house.repository.sign), notice(signed_by(stolen_online))
    assert (
        fleet.each(lambda trust: refusal(lambda: unseal(good, NOTICE_TYPE, Notice, trust.verify))) == [None] * DEVICES
    )
    refused = fleet.each(lambda trust: refusal(lambda: unseal(old, NOTICE_TYPE, Notice, trust.verify)))
    assert refused == [Distrust.BAD_SIGNATURE] * DEVICES

    forged = forged_timestamp(bundle, stolen_online)
    cloud.publish(forged)
    fleet.hears(forged)
    assert fleet.each(fleet.follow) == [6] * DEVICES, "the cloud itself is asked, and the forged bundle forgotten"
    cloud.forged["timestamp.json"] = forged.files["timestamp.json"].encode()
    fleet.each(lambda trust: trust.offer_bundle(forged))
    assert fleet.each(lambda trust: refusal(trust.refresh)) == [Distrust.BAD_SIGNATURE] * DEVICES

    next_root = Metadata.from_bytes(house.repository.root_bytes)
    next_root.signed.version += 1
    next_root.sign(stolen_root)
    next_root.sign(load_key(operator.directory / "root-2.pem"), append=True)
    cloud.forged = {"7.root.json": next_root.to_bytes()}
    assert fleet.each(lambda trust: refusal(lambda: _refresh_by_asking(trust, bundle))) == [None] * DEVICES
    fleet.each(lambda trust: trust.offer_bundle(Bundle(product=PRODUCT, root_version=7, files=bundle.files)))
    assert fleet.each(lambda trust: refusal(trust.refresh)) == [Distrust.BAD_SIGNATURE] * DEVICES
    assert fleet.each(lambda trust: trust.root_version) == [6] * DEVICES


def _refresh_by_asking(trust: DeviceTrust, bundle: Bundle) -> None:
    trust.offer_bundle(bundle)
    trust.refresh()
