"""The cloud's connections over TLS: to the broker that its authority vouches for, and to no other."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from cloud.broker import HOST, EmbeddedBroker, Secured
from cloud.connection import Backoff, BrokerAccess, Tls, TlsError
from cloud.link import Link, UpMessage
from cloud.pki.issuing import new_key
from cloud.publisher import Publisher
from protocol.codec import encode
from protocol.topics import Topics
from protocol.up import Presence
from tests.support.certificates import Fleet
from tests.support.mqtt import Peer
from tests.support.processes import wait_until

TOPICS = Topics()
TIMEOUT_S = 20.0
PRESENCE = Presence(online=True, session=1)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.fixture
def secured(fleet: Fleet) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(fleet.files.directory, secured=Secured(tls=fleet.cloud), kind="mosquitto") as broker:
        yield broker


@pytest.mark.broker
def test_the_link_hears_a_device_and_comes_back_with_a_renewed_certificate(
    fleet: Fleet, secured: EmbeddedBroker
) -> None:
    async def story() -> None:
        heard: asyncio.Queue[tuple[str, UpMessage]] = asyncio.Queue()
        ups: asyncio.Queue[None] = asyncio.Queue()

        async def handle(device_id: str, message: UpMessage) -> None:
            heard.put_nowait((device_id, message))

        access = BrokerAccess(host=HOST, port=secured.cloud_port, tls=fleet.cloud)
        assert str(access) == secured.cloud_url
        link = Link(access, TOPICS, handle, on_up=lambda: ups.put_nowait(None), backoff=Backoff(longest_s=0.2))
        running = asyncio.create_task(link.run())
        try:
            for _ in range(2):
                await asyncio.wait_for(ups.get(), TIMEOUT_S)
                opened = link._client._client.socket() if link._client else None
                assert isinstance(opened, ssl.SSLSocket)
                assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                with Peer(secured.port, "pi-1", tls=fleet.context(fleet.device("pi-1"))) as device:
                    await asyncio.to_thread(device.publish, TOPICS.up("pi-1", "presence"), encode(PRESENCE))
                    assert await asyncio.wait_for(heard.get(), TIMEOUT_S) == ("pi-1", PRESENCE)
                await link.publish(TOPICS.down("pi-1", "desired"), b"x" * 128 * 1024, retain=True)
                await asyncio.to_thread(secured.kill)
                assert fleet.cloud.certificate is not None
                fleet.cloud.certificate.write_bytes(
                    fleet.authorities.issue_service("fleetlift.cloud", (), server=False)
                )
                await asyncio.to_thread(secured.start)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())


@pytest.mark.broker
def test_chunks_are_published_as_fast_as_the_broker_takes_them(fleet: Fleet, secured: EmbeddedBroker) -> None:
    publisher = Publisher(BrokerAccess(host=HOST, port=secured.cloud_port, tls=fleet.cloud), "fleetlift.streams")
    wake, waker = socket.socketpair()
    with wake, waker, Peer(secured.port, "pi-1", tls=fleet.context(fleet.device("pi-1"))) as device:
        device.subscribe(TOPICS.chunks("ab" * 32))
        _tend(publisher, wake, lambda: publisher.is_ready)
        opened = publisher._client.socket() if publisher._client else None
        assert isinstance(opened, ssl.SSLSocket)
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for number in range(200):
            while not publisher.is_ready:
                publisher.wait(1.0, wake)
            publisher.publish(TOPICS.chunks("ab" * 32), number.to_bytes(4, "big") + b"x" * 65_536)
        publisher.close()
        assert [device.receive()[1][:4] for _ in range(200)] == [number.to_bytes(4, "big") for number in range(200)]


@pytest.mark.broker
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("foreign authority", "certificate verify failed"),
        ("another's name", "IP address mismatch"),
        ("expired", "certificate has expired"),
        ("no certificate", "the broker hung up"),
    ],
)
def test_a_broker_that_is_not_ours_is_not_spoken_to(
    fleet: Fleet, secured: EmbeddedBroker, wrong: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    tls = fleet.cloud
    match wrong:
        case "foreign authority":
            (fleet.directory / "foreign").mkdir()
            tls = Tls(ca=Fleet(fleet.directory / "foreign").ca, certificate=fleet.cloud.certificate)
        case "another's name":
            fleet.renew_server(["broker.test"])
        case "expired":
            fleet.expire_server()
        case _:
            tls = Tls(ca=fleet.ca)
    fleet.files.reload()
    if wrong in {"another's name", "expired"}:
        wait_until(lambda: "Reloading" in secured.log_tail())
    publisher = Publisher(BrokerAccess(host=HOST, port=secured.cloud_port, tls=tls), "fleetlift.streams")
    wake, waker = socket.socketpair()
    with wake, waker, caplog.at_level(logging.WARNING):
        _tend(publisher, wake, lambda: caplog.records)
        assert not publisher.is_up
        assert why in caplog.records[0].getMessage()
        publisher.close()


def test_files_that_cannot_be_used_are_named_and_tried_again(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nothing, protected = tmp_path / "nothing", tmp_path / "protected.pem"
    key = new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase"))
    protected.write_bytes(key + fleet.device("pi-1").issued.pem)
    (tmp_path / "empty").touch()
    for tls, why in (
        (Tls(ca=nothing), "No such file"),
        (Tls(ca=tmp_path / "empty"), "cannot be used"),
        (Tls(ca=fleet.ca, certificate=nothing), "No such file"),
        (Tls(ca=fleet.ca, certificate=fleet.ca), "cannot be used"),
        (Tls(ca=fleet.ca, certificate=protected), "passphrase"),
    ):
        with pytest.raises(TlsError, match=why):
            tls.context()
    publisher = Publisher(BrokerAccess(host=HOST, port=1, tls=Tls(ca=nothing)), "fleetlift.streams")
    wake, waker = socket.socketpair()
    with wake, waker:
        publisher.wait(0.01, wake)
    assert [f"{nothing} cannot be used for TLS: No such file" in record.getMessage() for record in caplog.records] == [
        True
    ]


def test_the_address_says_whether_it_is_tls(fleet: Fleet) -> None:
    assert str(BrokerAccess(host="broker.test", port=8884, tls=fleet.cloud)) == "mqtts://broker.test:8884"


def _tend(publisher: Publisher, wake: socket.socket, until: Callable[[], object]) -> None:
    def tended() -> object:
        publisher.wait(0.05, wake)
        return until()

    wait_until(tended)
