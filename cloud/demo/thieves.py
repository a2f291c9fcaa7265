"""A stolen device: its key opens nothing of another device's, and is worth nothing once it is revoked."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from cloud.connection import Tls
from cloud.demo.observing import read_only
from cloud.demo.operating import check_now
from cloud.demo.releasing import Story
from cloud.demo.telling import wait_for
from cloud.demo.world import Device, World
from protocol.codec import encode
from protocol.topics import DEFAULT_ROOT, Topics
from protocol.up import Presence

STOLEN, NEIGHBOUR = "pi-6", "pi-5"
TIMEOUT_S: Final = 10.0
SILENCED_WITHIN_S: Final = 5.0
PAUSE_S: Final = 0.05
TOPICS: Final = Topics(DEFAULT_ROOT)


class Thief:
    """Somebody with a device's key and certificate, who calls himself what he likes."""

    def __init__(self, url: str, tls: Tls, client_id: str) -> None:
        """Take the broker's address for devices, the stolen files, and whose session to ask for."""
        self._address = urlsplit(url)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.tls_set_context(tls.context())
        self._client.on_connect = self._connected
        self._client.on_message = lambda _client, _data, message: self.heard.append(message.topic)
        self._client.on_publish = self._published
        self._answered = threading.Event()
        self._client.on_connect_fail = self._client.on_disconnect = lambda *_: self._answered.set()
        self._answers: dict[int, bool] = {}
        self.heard: list[str] = []
        """The topics of all that he was sent."""

    @property
    def is_in(self) -> bool:
        """Whether the broker has let him in."""
        return self._client.is_connected()

    @contextmanager
    def trying(self) -> Iterator[Self]:
        """Keep trying to be in, while the block runs."""
        self._client.connect_async(self._address.hostname or "", self._address.port or 0)
        self._client.reconnect_delay_set(1, 1)
        self._client.loop_start()
        self._answered.wait(TIMEOUT_S)
        try:
            yield self
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    def says(self, topic: str, payload: bytes) -> bool:
        """Publish, and tell whether the broker took it."""
        said = self._client.publish(topic, payload, qos=1)
        wait_for(lambda: said.mid in self._answers or not self.is_in, TIMEOUT_S, PAUSE_S)
        return self._answers.get(said.mid, False)

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, code: Any, _more: Any) -> None:
        if not code.is_failure:
            client.subscribe([("#", 1), (f"{DEFAULT_ROOT}/d/+/#", 1), (TOPICS.all_down(NEIGHBOUR), 1)])
            self._answered.set()

    def _published(self, _client: paho.Client, _data: Any, mid: int, code: Any, _more: Any) -> None:
        self._answers[mid] = not code.is_failure


def stolen_device(story: Story) -> None:
    """Let the key of one device try what is another's; then shut that device out."""
    teller, world = story.teller, story.world
    if not world.tls:
        teller.say(f"{world.kind} speaks no TLS here: devices are not known by certificates, and this act is left out")
        return
    stolen, neighbour = world.devices[STOLEN], world.devices[NEIGHBOUR]
    stolen.process.stop()
    teller.say(f"{STOLEN} is stolen: somebody else has its key now, and calls himself {NEIGHBOUR}")
    session = _session(story, neighbour)
    with Thief(world.broker.url, _files(world, stolen), NEIGHBOUR).trying() as thief:
        teller.expect("the key still lets him in", thief.is_in)
        forged = thief.says(TOPICS.up(NEIGHBOUR, "presence"), encode(Presence(online=False, session=session)))
        teller.expect(f"what he says in the name of {NEIGHBOUR} is not taken", not forged)
        before = _numbers(story, neighbour)
        check_now(neighbour)
        wait_for(lambda: _numbers(story, neighbour) != before, TIMEOUT_S)
        others = [topic for topic in thief.heard if f"/d/{STOLEN}/" not in topic and "/d/" in topic]
        teller.expect(f"he hears nothing that the cloud and {NEIGHBOUR} say to each other", not others, str(others))
        teller.expect(f"{NEIGHBOUR} keeps its session", _session(story, neighbour) == session)
        _revoked(story, thief)


def _revoked(story: Story, thief: Thief) -> None:
    teller, own = story.teller, TOPICS.up(STOLEN, "presence")
    began = time.monotonic()
    story.operator.run("device", "revoke", STOLEN, "--reason", "stolen", "--yes")
    silenced = wait_for(lambda: not thief.says(own, b"{}"), SILENCED_WITHIN_S, PAUSE_S)
    took_s = time.monotonic() - began
    claim = f"revoked, {STOLEN} is silenced in a session that it has, in {took_s:.1f} s (at most {SILENCED_WITHIN_S:g})"
    teller.expect(claim, silenced and took_s <= SILENCED_WITHIN_S)
    with Thief(story.world.broker.url, _files(story.world, story.world.devices[STOLEN]), STOLEN).trying() as again:
        teller.expect("and the next one is refused", not again.is_in)


def _files(world: World, device: Device) -> Tls:
    return Tls(ca=world.home / "operator" / "ca.crt", certificate=device.identity)


def _session(story: Story, device: Device) -> int:
    return int(_row(story, device)["session"])


def _numbers(story: Story, device: Device) -> tuple[int, int]:
    row = _row(story, device)
    return int(row["desired_seq"]), int(row["state_seq"])


def _row(story: Story, device: Device) -> dict[str, Any]:
    with read_only(story.world.database) as database:
        return dict(database.execute("SELECT * FROM device WHERE id = ?", (device.device_id,)).fetchone())
