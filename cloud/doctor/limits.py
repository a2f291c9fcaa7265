"""Checks what the broker carries and where it stops: what it states when a client comes in, and what it then does."""

import contextlib
import hashlib
import secrets
from typing import Final

from paho.mqtt.enums import MQTTProtocolVersion

from cloud.doctor.case import Case
from cloud.doctor.findings import Seen, fail, ok, unknown, warn
from cloud.doctor.visitor import FAILURE, SilentError, VisitError, Visitor
from protocol.chunks import CHUNK_BYTES

LARGEST_PAYLOAD: Final = 128 * 1024
"""What docs/protocol.md promises to stay below, headers included."""
MUCH: Final = 2_000_000
"""A packet limit above this is none worth the name."""
LONG_S: Final = 3600
MIN_QUEUE: Final = 128
"""A window of 64 chunks, and as much again for everything else."""
QUEUE_TRIED: Final = 1500
BATCH: Final = 16
MIN_IN_FLIGHT: Final = 10
SHARED: Final = 20
_SESSION_S: Final = 60
_MARK: Final = b"fleetlift doctor: mark"


def mqtt_5_is_spoken(case: Case) -> Seen:
    """Come in with MQTT 5."""
    if case.version is MQTTProtocolVersion.MQTTv5:
        return ok("MQTT 5: refusals have reason codes, sessions expire by themselves")
    return warn(
        "MQTT 3.1.1 only: a refused message looks as if it had been taken, and limits are not stated",
        "Use a broker with MQTT 5 (Mosquitto 2).",
    )


def what_is_needed_is_offered(case: Case) -> Seen:
    """Read what the broker says that it cannot: retained messages, wildcards, QoS 1."""
    welcome = _stated(case)
    if welcome is None:
        return unknown("an MQTT 3.1.1 broker does not say")
    missing = [
        what
        for what, name, least in (
            ("retained messages", "RetainAvailable", 1),
            ("wildcards", "WildcardSubscriptionAvailable", 1),
            ("QoS 1", "MaximumQoS", 1),
        )
        if welcome.get(name, least) < least
    ]
    if missing:
        return fail(
            f"the broker offers no {', '.join(missing)}", "Switch it on (Mosquitto: retain_available, max_qos)."
        )
    return ok("retained messages, wildcards, QoS 1")


def packets_have_a_limit(case: Case) -> Seen:
    """Send the largest message there is, and one that is too large."""
    welcome = _stated(case)
    stated = None if welcome is None else welcome.get("MaximumPacketSize")
    device = case.passes.device()
    topic = case.topics.chunks(hashlib.sha256(device.id.encode()).hexdigest(), device.id)
    with case.open_cloud() as cloud, case.open(device) as receiving:
        receiving.subscribe(topic)
        try:
            cloud.publish(topic, b"x" * (LARGEST_PAYLOAD - 128))
            receiving.until(topic)
        except VisitError as error:
            return fail(
                f"a message of {LARGEST_PAYLOAD} bytes does not come through: {error}", "max_packet_size 135168"
            )
    too_large = 1 + (1024 * 1024 if stated is None or stated > MUCH else stated)
    with case.open(device) as flooding:
        flooding.send(case.own(device), b"x" * too_large)
        try:
            was_taken = flooding.acknowledged(1)[0] < FAILURE
        except VisitError:
            was_taken = False
    if was_taken or (stated is not None and stated > MUCH):
        return warn(
            f"a packet of {too_large} bytes was taken (stated limit: {stated or 'none'})", "max_packet_size 135168"
        )
    return ok(f"{LARGEST_PAYLOAD} bytes come through, {too_large} do not (stated limit: {stated or 'none'})")


def silence_has_a_limit(case: Case) -> Seen:
    """Ask for the longest keepalive there is."""
    welcome = _stated(case, keepalive_s=65535)
    if welcome is None:
        return unknown("an MQTT 3.1.1 broker does not say")
    granted = welcome.get("ServerKeepAlive", 65535)
    if granted > LONG_S:
        return warn(f"a client may be silent for {granted} s before it counts as gone", "max_keepalive 1200")
    return ok(f"a client that asks for 65535 s of silence is given {granted} s")


def unacknowledged_messages_have_a_limit(case: Case) -> Seen:
    """Read how many messages a client may send before the first is acknowledged."""
    welcome = _stated(case)
    if welcome is None:
        return unknown("an MQTT 3.1.1 broker does not say")
    stated = welcome.get("ReceiveMaximum", 65535)
    if not MIN_IN_FLIGHT <= stated < 65535:
        return warn(f"{stated} messages of a client may be in flight", "max_inflight_messages 100")
    return ok(f"{stated} messages of a client may be in flight")


def waiting_messages_have_a_limit(case: Case) -> Seen:
    """Let small messages wait for a device that is away, and count what it finds when it comes back."""
    device = case.passes.device()
    topic = case.topics.down(device.id, "ack")
    away = case.visit(device, clean=False, session_expiry_s=_SESSION_S)
    with away.open() as subscribing:
        subscribing.subscribe(topic)
    try:
        with case.open_cloud() as cloud:
            for _ in range(0, QUEUE_TRIED, BATCH):
                for _ in range(BATCH):
                    cloud.send(topic, b"fleetlift doctor: waiting")
                cloud.acknowledged(BATCH)
            with away.open() as back:
                found = _count_until_mark(cloud, back, topic)
    finally:
        with contextlib.suppress(VisitError):
            case.open(device).close()  # a clean start forgets the session
    if found < MIN_QUEUE:
        return fail(
            f"{found} of {QUEUE_TRIED} messages waited for a device that was away; the others were dropped silently",
            f"max_queued_messages 1000: a device's window alone is {4 * 1024 * 1024 // CHUNK_BYTES} chunks.",
        )
    if found >= QUEUE_TRIED:
        return warn(
            f"all of {found} messages waited for a device that was away: no limit was met",
            "max_queued_messages 1000, max_queued_bytes 16777216: else one absent device can cost any memory.",
        )
    return ok(f"{found} of {QUEUE_TRIED} messages waited for a device that was away")


def _count_until_mark(cloud: Visitor, back: Visitor, topic: str) -> int:
    """Count what waited; the mark is repeated, because a queue that is still full drops it as well."""
    found = 0
    for _ in range(10):
        cloud.publish(topic, _MARK)
        try:
            return found + len(back.until(topic, _MARK, timeout_s=0.5))
        except SilentError as error:
            found += len(error.before)
    return found


def shared_subscriptions_deliver(case: Case) -> Seen:
    """Share one subscription between two sessions of the server, and count what both of them receive."""
    mend = "Needed only where several servers share the work; Mosquitto 2 has it."
    device = case.passes.device()
    topic, mark = case.own(device), case.topics.up(device.id, f"{secrets.token_hex(4)}")
    with case.open_cloud() as first, case.open_cloud() as second, case.open(device) as speaking:
        for member in (first, second):
            codes = member.subscribe(f"$share/{device.id}/{topic}", mark)
            if codes[0] >= FAILURE:
                return warn(f"$share is refused (0x{codes[0]:02x})", mend)
        for _ in range(SHARED):
            speaking.publish(topic, b"x")
        speaking.publish(mark, _MARK)
        received = [len(member.until(mark, _MARK)) for member in (first, second)]
    if sum(received) != SHARED:
        return warn(f"$share is granted, but {sum(received)} of {SHARED} messages were delivered", mend)
    return ok(f"$share is granted and delivers: {received[0]} + {received[1]} of {SHARED} messages")


def _stated(case: Case, *, keepalive_s: int = 30) -> dict[str, int] | None:
    """Return what the broker states to a device that comes in (MQTT 5, section 3.2.2.3); None if it is older."""
    with case.open(case.passes.device(), keepalive_s=keepalive_s) as device:
        if device.welcome is None:
            return None
        stated: dict[str, object] = device.welcome.json()  # type: ignore[no-untyped-call]
        return {name: value for name, value in stated.items() if isinstance(value, int)}
