"""Twenty devices on one broker, each against all others: nobody hears, speaks for, or pushes off another."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from cloud.config import Home
from cloud.connection import Tls
from cloud.pki.issuing import DEVICE_LIFETIME, make_certificate
from cloud.roles import utc_now
from protocol.codec import encode
from protocol.up import Presence
from tests.attacks.attacker import PATIENCE_S, TOPICS, Intruder
from tests.attacks.identities import Identity, enrolled, new_key, token_for
from tests.cloud.homes import PRODUCT, hello_of
from tests.support.fleet import Fleet
from tests.support.processes import wait_until

CROWD = 20
UP = ("hello", "state", "report", "want", "ask", "presence")


class Rogue:
    """A device of the fleet, with its own certificate and another's client id, that tries everything."""

    def __init__(self, port: int, device_id: str, client_id: str, tls: ssl.SSLContext) -> None:
        self.device_id = device_id
        self.received: list[tuple[str, bytes]] = []
        self.denied = self.subscribed = 0
        self.connected, self.disconnections = threading.Event(), 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.tls_set_context(tls)
        self._client.max_inflight_messages_set(200)
        self._client.on_connect = lambda *_: self.connected.set()
        self._client.on_disconnect = self._disconnected
        self._client.on_message = lambda _client, _user, message: self.received.append(
            (message.topic, bytes(message.payload))
        )
        self._client.on_subscribe = self._subscribed
        self._client.on_publish = self._published
        self._client.connect("127.0.0.1", port, keepalive=60)
        self._client.loop_start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def want(self, *filters: str) -> None:
        self._client.subscribe([(name, 1) for name in filters])

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, 1, retain)

    def _disconnected(self, *_: Any) -> None:
        self.disconnections += 1

    def _subscribed(self, *_: Any) -> None:
        self.subscribed += 1

    def _published(self, _client: Any, _user: Any, _mid: int, code: Any, _more: Any) -> None:
        self.denied += code.is_failure


@pytest.fixture(scope="module")
def crowd(shared_fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tls]:
    """Twenty devices that enrolled with one counted token."""
    directory = tmp_path_factory.mktemp("crowd")
    token = token_for(shared_fleet, uses=CROWD)
    found = [enrolled(shared_fleet, f"crowd-{number}", token) for number in range(CROWD)]
    return {identity.device_id: identity.tls(shared_fleet, directory) for identity in found}


@pytest.fixture
def rogues(fleet: Fleet, crowd: dict[str, Tls]) -> Iterator[list[Rogue]]:
    """All of them, each under the client id of the next one."""
    names = list(crowd)
    with ExitStack() as stack:
        found = [
            stack.enter_context(Rogue(fleet.broker.port, name, names[(place + 1) % CROWD], crowd[name].context()))
            for place, name in enumerate(names)
        ]
        wait_until(lambda: all(rogue.connected.is_set() for rogue in found), PATIENCE_S, "twenty connections")
        yield found


def test_of_twenty_devices_none_hears_or_speaks_for_another_or_takes_its_session(
    fleet: Fleet, intruder: Intruder, rogues: list[Rogue]
) -> None:
    names = [rogue.device_id for rogue in rogues]
    rows = fleet.query("SELECT * FROM device WHERE id LIKE 'crowd-%' ORDER BY id")
    assert len(rows) == CROWD
    for rogue in rogues:
        rogue.want("#", "+/#", f"{TOPICS.root}/#", f"{TOPICS.root}/d/#", f"{TOPICS.root}/d/+/down/#", "$SYS/#")
        rogue.want(*(TOPICS.all_down(name) for name in names), f"$share/all/{TOPICS.root}/d/+/down/#", TOPICS.all_up())
    # What is said before the broker took a subscription is said to nobody: neither to its owner nor to a thief.
    wait_until(lambda: all(rogue.subscribed == 2 for rogue in rogues), PATIENCE_S, "every SUBACK")
    intruder.forget()
    for name in names:  # the cloud tells each something of its own
        intruder.say(TOPICS.down(name, "ack"), f"for {name}".encode())
    for rogue in rogues:  # and each speaks for all others, in every way there is
        for other in names:
            if other == rogue.device_id:
                continue
            for kind in UP:
                payload = {"hello": encode(hello_of(session=9)), "presence": encode(Presence(online=False, session=9))}
                rogue.say(TOPICS.up(other, kind), payload.get(kind, b"forged"), retain=kind == "presence")
            rogue.say(TOPICS.down(other, "desired"), b"forged")
        rogue.say(TOPICS.bundle(PRODUCT), b"forged", retain=True)
        rogue.say(TOPICS.notice(PRODUCT, "everyone", "app"), b"forged", retain=True)
        rogue.say(TOPICS.chunks("e" * 64), b"forged")
        rogue.say(TOPICS.up(rogue.device_id, "ask"), f"by {rogue.device_id}".encode())  # the last word, and allowed
    asks = [TOPICS.up(name, "ask") for name in names]
    wait_until(lambda: len(intruder.heard(*asks)) == CROWD, 30, "everybody's last word")
    forgeries = [message for message in intruder.history() if message.payload.startswith((b"forged", b'{"product'))]
    assert forgeries == [], "accepted"
    assert [message for message in intruder.history() if message.topic.endswith("/presence")] == []
    wait_until(lambda: all(rogue.denied >= 19 * 7 + 3 for rogue in rogues), PATIENCE_S, "every forgery refused")
    assert [rogue.denied for rogue in rogues] == [19 * 7 + 3] * CROWD
    for rogue in rogues:
        own = (TOPICS.down(rogue.device_id, "ack"), f"for {rogue.device_id}".encode())
        wait_until(lambda: own in rogue.received, PATIENCE_S, "its own message")  # noqa: B023
        foreign = [
            message for message in rogue.received if message != own and not message[0].startswith(f"{TOPICS.root}/p/")
        ]
        assert foreign == [], "received"
    assert [rogue.disconnections for rogue in rogues] == [0] * CROWD, "stolen"
    assert fleet.query("SELECT * FROM device WHERE id LIKE 'crowd-%' ORDER BY id") == rows, "believed"


def by_hand(fleet: Fleet, common_name: str) -> Identity:
    """A certificate that the server would never give out, by the stolen key of the devices' authority."""
    home = Home(fleet.office.home)
    ca = x509.load_pem_x509_certificate((home.ca / "devices-1.crt").read_bytes())
    ca_key: Any = load_pem_private_key((home.ca / "devices-1.key").read_bytes(), None)
    key = new_key()
    made = make_certificate(
        ca, ca_key, key.public_key(), common_name, names=(), server=False, now=utc_now(), lifetime=DEVICE_LIFETIME
    )
    return Identity(common_name, key, made.public_bytes(Encoding.PEM).decode())


@pytest.mark.parametrize("name", ["+", "#", "crowd-1/down", "crowd-1/#", "+/down", "crowd-1 ", "$SYS", "%u"])
def test_a_name_that_is_a_pattern_opens_nothing(
    fleet: Fleet, intruder: Intruder, crowd: dict[str, Tls], tmp_path: Path, name: str
) -> None:
    """Signed by hand with the stolen key of the authority: the server gives out no such names."""
    identity = by_hand(fleet, name)
    with Rogue(fleet.broker.port, name, "crowd-1", identity.tls(fleet, tmp_path).context()) as rogue:
        assert rogue.connected.wait(PATIENCE_S)  # answered: some are let in, and some are not
        rogue.want("#", f"{TOPICS.root}/d/+/down/#", TOPICS.all_down("crowd-1"))
        rogue.say(TOPICS.up("crowd-1", "ask"), b"forged")
        wants = 1
        if "#" not in name:
            rogue.want(TOPICS.all_down(name))
            wants = 2
        wait_until(
            lambda: rogue.subscribed == wants or rogue.disconnections,
            PATIENCE_S,
            "its SUBACKs, if it was let in",
        )
        with Rogue(fleet.broker.port, "crowd-1", "crowd-1", crowd["crowd-1"].context()) as honest:
            assert honest.connected.wait(PATIENCE_S)
            honest.want(TOPICS.all_down("crowd-1"))
            wait_until(lambda: honest.subscribed, PATIENCE_S, "its subscription")
            intruder.say(TOPICS.down("crowd-1", "ack"), b"secret")
            wait_until(lambda: honest.received, PATIENCE_S, "its message")
            assert honest.disconnections == 0
        assert [message for message in rogue.received if "/d/" in message[0]] == []
    assert b"forged" not in intruder.heard(TOPICS.up("crowd-1", "ask"))
