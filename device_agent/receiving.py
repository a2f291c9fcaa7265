"""paho's client, but the bulk of what comes, chunks, is handed on where it lies: half of paho's work is spared.

paho (2.2) copies a payload five times and makes a table of all MQTT 5 properties for each message: as much work as to
hash it. It has no public way around that, so one private method is overridden, and a test fails when it is not called.

Nothing is subscribed at QoS 2, so nothing of it may come: paho would keep each message until the broker releases it,
65,535 of them, as large as they may be. The connection ends instead, and so it does with a broker that has us answer
and does not read the answers: each costs a few bytes there, and some hundred here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion

MAX_UNSENT: Final = 4096
"""How many packets may wait for the broker to read; a few dozen do when it is well."""
OnBulk = Callable[[str, memoryview], bool]
"""Is offered a message of QoS 0 by topic and payload; False if it is to take the usual way. It must not raise."""


class Receiver(paho.Client):
    """A client that offers what comes without acknowledgement, and without properties, to `on_bulk` first."""

    on_bulk: OnBulk | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._has_properties = options.get("protocol") is MQTTProtocolVersion.MQTTv5

    def _packet_handle(self) -> MQTTErrorCode:
        if len(self._out_packet) > MAX_UNSENT:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return super()._packet_handle()

    def _handle_publish(self) -> MQTTErrorCode:
        if self._in_packet["command"] & 0b0100:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        if self.on_bulk is not None and not self._in_packet["command"] & 0b0110:
            # Section 3.3.2: two bytes, the topic, then (MQTT 5) the length of the properties. What is not just like
            # that is paho's to judge.
            packet = self._in_packet["packet"]
            end = 2 + int.from_bytes(packet[:2], "big")
            begin = end + self._has_properties
            if len(packet) >= begin and not any(packet[end:begin]):
                topic = packet[2:end].decode(errors="replace")
                if self.on_bulk(topic, memoryview(packet)[begin:]):
                    return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super()._handle_publish()
