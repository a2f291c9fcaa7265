"""The embedded amqtt broker's own process: `python -m cloud.broker_amqtt PORT`, on loopback, until SIGTERM.

amqtt 0.12 needs four things to carry Fleetlift's traffic:
- it keeps QoS 1 messages for absent *named* clients only, so each client is named by its client id;
- it sends a connecting client the retained messages of everybody's subscriptions, and drops the connection when
  somebody subscribes meanwhile, so the broker here keeps to the client's own subscriptions, over a copy;
- it reads packets of any size, so readers here refuse what Mosquitto's `max_packet_size` refuses;
- it neither speaks MQTT 5 nor refuses it, so it is refused here, and the client tries 3.1.1.
It gives no access control: anybody on this machine may publish. What devices install is signed all the same.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from typing import Any

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.errors import BrokerError
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

MAX_PACKET_BYTES = 135_168
MAX_CONNECTIONS = 1000
HEAD_BYTES = 12
"""A CONNECT packet's type (1 byte), length (1 to 4), protocol name (6) and protocol level (1)."""
MQTT_5 = b"\x00\x04MQTT\x05"
UNSUPPORTED_VERSION = b"\x20\x03\x00\x84\x00"
"""CONNACK of MQTT 5, reason code 0x84 (MQTT 5.0, section 3.2.2.2)."""
SESSION_EXPIRY_S = 30 * 24 * 3600


class NamedClients(BaseAuthPlugin):
    """Lets everybody in, named by user name or client id (an anonymous client gets no queue while it is away)."""

    async def authenticate(self, *, session: Session) -> bool:
        """Accept, with a name."""
        session.username = session.username or session.client_id
        return True


class CappedReader(StreamReaderAdapter):
    """Refuses packets larger than `MAX_PACKET_BYTES`, and MQTT 5; the broker then closes that connection.

    amqtt reads the CONNECT of an MQTT 5 client as if it were one of MQTT 3.1.1, and waits for more of it for ever.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader)
        self._head = b""
        self._peer = writer

    async def read(self, n: int = -1) -> bytes:
        """Read exactly `n` bytes, or refuse."""
        if n > MAX_PACKET_BYTES:
            raise ConnectionAbortedError(f"a packet of {n} bytes is over the limit of {MAX_PACKET_BYTES}")
        data = await super().read(n)
        if len(self._head) < HEAD_BYTES:
            self._head += data[:HEAD_BYTES]
            if MQTT_5 in self._head:
                self._peer.write(UNSUPPORTED_VERSION)
                self._peer.close()  # amqtt leaves it to the garbage collector
                raise ConnectionAbortedError("a client of MQTT 5; it may try again with 3.1.1")
        return data


class Subscriptions(dict[str, list[tuple[Session, int]]]):
    """Topic filter to subscribers, iterated over a copy: amqtt awaits inside its loops while others subscribe."""

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self.keys()))

    def items(self) -> Any:
        """Items of a copy."""
        return dict(super().items()).items()


class LoopbackBroker(Broker):
    """amqtt's broker with the repairs named above."""

    def __init__(self, port: int) -> None:
        """Listen on loopback at `port` once `start()` is awaited."""
        super().__init__(
            {
                "listeners": {
                    "default": {"type": "tcp", "bind": f"127.0.0.1:{port}", "max_connections": MAX_CONNECTIONS}
                },
                "session_expiry_interval": SESSION_EXPIRY_S,
                "plugins": {"cloud.broker_amqtt.NamedClients": {}},
            }
        )
        self._subscriptions = Subscriptions()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Serve one connection, with packets capped."""
        await self._client_connected(listener_name, CappedReader(reader, writer), StreamWriterAdapter(writer))

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """Send retained messages for a filter to those who subscribed to it; amqtt also asks for everybody else's."""
        subscribers = self._subscriptions.get(subscription[0], ())
        if any(subscriber.client_id == session.client_id for subscriber, _ in subscribers):
            await super()._publish_retained_messages_for_subscription(subscription, session)


async def serve(port: int) -> None:
    """Serve until SIGTERM or SIGINT; the line `amqtt listening` on the log says that clients may come."""
    broker = LoopbackBroker(port)
    await broker.start()
    logging.getLogger(__name__).warning("amqtt listening on 127.0.0.1:%d", port)
    ended = asyncio.Event()
    for end in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(end, ended.set)
    await ended.wait()
    await broker.shutdown()


def main() -> None:
    """Run the broker; an address in use is one line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("amqtt.broker").addFilter(lambda record: record.msg != "Broker startup failed")  # said below
    try:
        asyncio.run(serve(int(sys.argv[1])))
    except BrokerError as error:
        sys.exit(f"amqtt did not start: {error}")


if __name__ == "__main__":
    main()
