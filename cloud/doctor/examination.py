"""The examination: every check in its order, none of which keeps the others from being made."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final

from paho.mqtt.enums import MQTTProtocolVersion

from cloud.connection import TlsError
from cloud.doctor import access, doors, files, limits, revocation, versions
from cloud.doctor.case import Case
from cloud.doctor.findings import Finding, Seen, Verdict, unknown
from cloud.doctor.visitor import VisitError
from protocol.errors import FleetliftError

Check = Callable[[Case], Seen]

REACH: Final = "reach"
CONVERSATION: Final = "conversation"
CHECKS: Final[dict[str, Check]] = {
    REACH: doors.the_broker_is_reached,
    "tls-versions": doors.only_new_tls_is_offered,
    "broker-certificate": doors.its_certificate_is_good,
    "plain-mqtt": doors.plain_mqtt_is_refused,
    "device-session": doors.devices_are_let_in,
    "server-session": doors.the_server_is_let_in,
    CONVERSATION: doors.both_are_heard,
    "no-certificate": doors.strangers_are_refused,
    "foreign-certificate": doors.foreign_certificates_are_refused,
    "expired-certificate": doors.expired_certificates_are_refused,
    "wrong-door": doors.each_door_is_for_its_own,
    "revocation": revocation.revocations_are_heeded,
    "reading": access.nothing_foreign_is_heard,
    "publishing": access.nothing_is_said_for_others,
    "retained": access.nothing_forged_is_retained,
    "last-will": access.no_will_speaks_for_others,
    "client-id": access.no_session_is_stolen,
    "broker-version": versions.its_version_is_sound,
    "mqtt-version": limits.mqtt_5_is_spoken,
    "features": limits.what_is_needed_is_offered,
    "packet-size": limits.packets_have_a_limit,
    "keepalive": limits.silence_has_a_limit,
    "in-flight": limits.unacknowledged_messages_have_a_limit,
    "queue": limits.waiting_messages_have_a_limit,
    "shared-subscriptions": limits.shared_subscriptions_deliver,
    "files": files.files_are_private,
    "expiry": files.certificates_last,
    "access-rules": files.rules_are_ours,
    "configuration": files.configuration_is_ours,
    "connections": files.connections_fit,
    "reload": revocation.the_broker_can_be_told,
}
"""Name to check; the first line of its docstring says what it looks at."""
_UNTRUSTED_TOO: Final = frozenset({"broker-certificate", "device-session", "server-session"})
"""What is seen with the eyes of a real device and the real server, who insist on the broker's name."""


_BY_CONVERSATION: Final = frozenset(
    {"reading", "publishing", "retained", "last-will", "client-id", "packet-size", "queue", "shared-subscriptions"}
)
"""What is concluded from one thing that is heard and another that is not."""
_WITHOUT_THE_BROKER: Final = frozenset(
    {REACH, "files", "expiry", "access-rules", "configuration", "connections", "reload"}
)


def examine(case: Case) -> Iterator[Finding]:
    """Make every check and yield what it found, one after the other."""
    case = _with_version(case)
    lenient = case if _is_trusted(case) else case.unverified()
    verdicts: dict[str, Verdict] = {}
    for name, check in CHECKS.items():
        if name not in _WITHOUT_THE_BROKER and verdicts[REACH] is not Verdict.OK:
            seen = unknown("the broker is not reached")
        elif name in _BY_CONVERSATION and verdicts[CONVERSATION] is not Verdict.OK:
            seen = unknown("a device and the server do not hear each other: what is not heard says nothing")
        else:
            seen = _made(check, case if name in _UNTRUSTED_TOO else lenient)
        verdicts[name] = seen.verdict
        looked_at = (check.__doc__ or "").splitlines()[0].removesuffix(".")
        yield Finding(check=name, looked_at=looked_at, seen=seen)


def _made(check: Check, case: Case) -> Seen:
    try:
        return check(case)
    except (VisitError, TlsError) as error:
        return unknown(f"could not be looked at: {error}")
    except OSError as error:
        return unknown(f"could not be looked at: {error.strerror or error}")
    except FleetliftError as error:
        return unknown(f"could not be looked at: {error}")


def _is_trusted(case: Case) -> bool:
    """Whether the broker's certificate is what devices and the server insist on; if not, the rest is seen without."""
    try:
        case.open(case.passes.device()).close()
        case.open_cloud().close()
    except VisitError as error:
        return "not trusted" not in str(error)
    return True


def _with_version(case: Case) -> Case:
    """Return the case with the MQTT version that the broker takes: 5 where it does."""
    for version in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
        tried = replace(case.unverified(), version=version)
        with suppress(VisitError):
            tried.open(tried.passes.device()).close()
            return replace(case, version=version)
    return case
