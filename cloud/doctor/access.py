"""Checks who may read and say what: between two throw-away devices, with the server's own eyes as the witness.

Nothing is concluded from a time in which nothing came. After what must not come the server publishes a message that
must; brokers keep the order of what one client publishes to one subscriber.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Final

from cloud.doctor.case import KIND, Case, Device
from cloud.doctor.findings import Seen, fail, ok
from cloud.doctor.visitor import FAILURE, VisitError, Visitor
from protocol.topics import DOWN_KINDS

ACL_MEND: Final = (
    "Give the broker the access rules of docs/protocol.md: acl_file in mosquitto.conf, with the acl that the server "
    "writes beside it, and no allow_anonymous."
)
SESSION_MEND: Final = (
    "Tie the session to the certificate: use_username_as_clientid true below the devices' listener in mosquitto.conf."
)
_SECRET: Final = b"fleetlift doctor: secret"
_FORGED: Final = b"fleetlift doctor: forged"
_CANARY: Final = b"fleetlift doctor: canary"
_SESSION_S: Final = 60
_MAX_NAMED: Final = 3


def nothing_foreign_is_heard(case: Case) -> Seen:
    """Subscribe to what is another's, and to everything, while secrets are published."""
    thief, other = case.passes.device(), case.passes.device()
    root, topics = case.topics.root, case.topics
    levels = "/".join("+" * (root.count("/") + 1))
    filters = (
        topics.all_down(other.id),
        topics.up(other.id, KIND),
        f"{root}/d/#",
        f"{levels}/d/+/down/+",
        "#",
        "+/#",
        "$SYS/#",
        f"$share/{thief.id}/{root}/d/{other.id}/down/#",
    )
    heard: set[str] = set()
    granted = 0
    with case.open_cloud() as cloud, case.open(other) as speaking, _retained(cloud, topics.down(other.id, "desired")):
        for foreign in filters:
            was_granted, leaked = _listen(case, thief, foreign, cloud, (other, speaking))
            granted += was_granted
            heard |= leaked
    if heard:
        return fail(f"a device received {_named(heard)}, which are not for it", ACL_MEND)
    return ok(
        f"0 foreign messages by {len(filters)} filters of another's topics and wildcards ({granted} looked granted)"
    )


def _listen(
    case: Case, thief: Device, foreign: str, cloud: Visitor, other: tuple[Device, Visitor]
) -> tuple[bool, set[str]]:
    device, speaking = other
    with case.open(thief) as listening:
        try:
            (code,) = listening.subscribe(foreign)
        except VisitError:  # some answer a forbidden subscription by closing the connection
            return False, set()
        own = case.topics.down(thief.id, "ack")
        listening.subscribe(own)
        for kind in sorted(DOWN_KINDS):
            cloud.publish(case.topics.down(device.id, kind), _SECRET)
        speaking.publish(case.own(device), _SECRET)
        cloud.publish(own, _CANARY)
        before = listening.until(own, _CANARY)
    root = case.topics.root
    allowed = (f"{root}/d/{thief.id}/down/", f"{root}/p/", f"{root}/b/")
    return code < FAILURE, {message.topic for message in before if not message.topic.startswith(allowed)}


def nothing_is_said_for_others(case: Case) -> Seen:
    """Publish as another device and as the server, where a real device cannot hear it."""
    forger, other = case.passes.device(), case.passes.device()
    topics, product, blob = case.topics, forger.id, hashlib.sha256(forger.id.encode()).hexdigest()
    targets = (
        topics.up(other.id, KIND),
        topics.down(other.id, "ack"),
        topics.down(forger.id, "ack"),
        f"{case.own(forger)}/deeper",
        topics.notice(product, "everyone", "app"),
        topics.bundle(product),
        topics.chunks(blob),
    )
    refused = 0
    with case.open_cloud() as cloud:
        cloud.subscribe(*targets, case.own(forger))
        for topic in targets:
            try:
                with case.open(forger) as forging:
                    refused += forging.publish(topic, _FORGED) >= FAILURE
            except VisitError:  # refused by closing the connection
                refused += 1
        with case.open(forger) as forging:
            forging.publish(case.own(forger), _CANARY)
        leaked = {message.topic for message in cloud.until(case.own(forger), _CANARY)}
    if leaked:
        return fail(f"a device's forgeries were published: {_named(leaked)}", ACL_MEND)
    return ok(f"0 of {len(targets)} forged messages came through, {refused} were refused with a word")


def nothing_forged_is_retained(case: Case) -> Seen:
    """Leave a message behind for another device to find."""
    forger, other = case.passes.device(), case.passes.device()
    topic = case.topics.down(other.id, "desired")
    with contextlib.suppress(VisitError), case.open(forger) as forging:
        forging.publish(topic, _FORGED, retain=True)
    own = case.topics.down(other.id, "ack")
    with case.open_cloud() as cloud, case.open(other) as finding:
        finding.subscribe(topic, own)
        cloud.publish(own, _CANARY)
        found = [message for message in finding.until(own, _CANARY) if message.topic == topic]
        if not found:
            return ok("what a device left behind for another was not there")
        cloud.publish(topic, b"", retain=True)
    return fail(f"a device left a retained message for another on {topic}; it was removed again", ACL_MEND)


def no_will_speaks_for_others(case: Case) -> Seen:
    """Die with a last will in another's name."""
    forger, other = case.passes.device(), case.passes.device()
    topic, refused = case.topics.up(other.id, KIND), False
    with case.open_cloud() as cloud:
        cloud.subscribe(topic, case.own(forger))
        try:
            case.open(forger, will=(topic, _FORGED)).vanish()
        except VisitError:
            refused = True
        with case.open(forger) as again:  # the broker has dealt with the first connection by now
            again.publish(case.own(forger), _CANARY)
        leaked = cloud.until(case.own(forger), _CANARY)
    if leaked:
        return fail(f"a device's last will was published on {topic}", ACL_MEND)
    return ok(
        "a last will in another's name " + ("was refused with the connection" if refused else "was not published")
    )


def no_session_is_stolen(case: Case) -> Seen:
    """Come in with one's own certificate under another device's name, while that is there and while it is not."""
    victim, thief = case.passes.device(), case.passes.device()
    topic = case.topics.down(victim.id, "ack")
    kept = case.visit(victim, clean=False, session_expiry_s=_SESSION_S)
    try:
        with kept.open() as connected:
            connected.subscribe(topic)
            _come_as(case, thief, victim)
            try:
                connected.publish(case.own(victim), _CANARY)
            except VisitError:
                return fail("a device that called itself like another ended that one's session", SESSION_MEND)
        with case.open_cloud() as cloud:
            cloud.publish(topic, _SECRET)
            _come_as(case, thief, victim)
            with kept.open() as back:
                back.subscribe(topic)
                cloud.publish(topic, _CANARY)
                if not any(message.payload == _SECRET for message in back.until(topic, _CANARY)):
                    return fail("a device that called itself like another destroyed what waited for it", SESSION_MEND)
    finally:
        with contextlib.suppress(VisitError):
            case.open(victim).close()  # a clean start forgets the session
    return ok("under another's name a device neither ended its session nor touched what waited for it")


def _come_as(case: Case, thief: Device, victim: Device) -> None:
    with contextlib.suppress(VisitError), case.visit(thief, victim.id).open() as stealing:
        stealing.publish(case.own(thief), _CANARY)


@contextlib.contextmanager
def _retained(cloud: Visitor, topic: str) -> Iterator[None]:
    """Leave a secret on a topic for as long as it is looked for."""
    cloud.publish(topic, _SECRET, retain=True)
    try:
        yield
    finally:
        cloud.publish(topic, b"", retain=True)


def _named(topics: set[str]) -> str:
    few = sorted(topics)[:_MAX_NAMED]
    return ", ".join(few) + (f" and {len(topics) - len(few)} more" if len(topics) > len(few) else "")
