"""Checks who gets in: TLS versions, the broker's certificate, and every kind of visitor that must stay outside."""

import socket
import ssl
from collections.abc import Container, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from cloud.broker_config import Listener, read_listeners
from cloud.doctor.case import Case, Device, Door
from cloud.doctor.findings import Seen, fail, ok, unknown, warn
from cloud.doctor.hello import VERSIONS, offers
from cloud.doctor.visitor import RefusedError, VisitError
from cloud.roles import utc_now

TIMEOUT_S: Final = 5.0
SOON: Final = timedelta(days=30)
NO_TLS: Final = "the broker is not spoken to over TLS"
REQUIRE_MEND: Final = (
    "Below each listener in mosquitto.conf: require_certificate true, cafile with the one authority that this door is "
    "for, use_identity_as_username true."
)
_ANYWHERE: Final = ("", "0.0.0.0", "::", "*")  # noqa: S104 - an address to recognise
_OLD: Final = ("TLS 1.0", "TLS 1.1")


def the_broker_is_reached(case: Case) -> Seen:
    """Connect to both doors."""
    for door in _doors(case):
        try:
            socket.create_connection((door.host, door.port), timeout=TIMEOUT_S).close()
        except OSError as error:
            return fail(
                f"{door} is not reached: {error.strerror or error}",
                "Does the broker run, and listen there? Otherwise name it with --broker and --cloud-broker.",
            )
    return ok(f"{' and '.join(str(door) for door in _doors(case))} are reached")


def devices_are_let_in(case: Case) -> Seen:
    """Come in as a device with a good certificate."""
    try:
        case.open(case.passes.device()).close()
    except VisitError as error:
        return fail(
            f"a device with a good certificate is not let in at {case.devices}: {error}",
            "See the broker's log for why. Does its devices-ca.crt hold the authorities of the home's ca, and "
            "revoked.crl a list of each?",
        )
    return ok(f"a device with a good certificate is let in at {case.devices}")


def the_server_is_let_in(case: Case) -> Seen:
    """Come in as the server does."""
    try:
        case.open_cloud().close()
    except VisitError as error:
        return fail(
            f"the server is not let in at {case.cloud}: {error}",
            "Name the cloud's listener in [broker] url, and have the broker's services-ca.crt hold the authority of "
            "the server's certificate.",
        )
    return ok(f"the server is let in at {case.cloud}")


def both_are_heard(case: Case) -> Seen:
    """Have a device and the server tell each other something."""
    device = case.passes.device()
    up, down = case.own(device), case.topics.down(device.id, "ack")
    try:
        with case.open_cloud() as cloud, case.open(device) as known:
            cloud.subscribe(up)
            known.subscribe(down)
            codes = known.publish(up, b"up"), cloud.publish(down, b"down")
            cloud.until(up, b"up")
            known.until(down, b"down")
    except VisitError as error:
        return fail(
            f"a device and the server do not hear each other: {error}",
            "Does the broker's acl name the topic root of fleetlift.toml, and the server as fleetlift.cloud? "
            "use_identity_as_username true below both listeners.",
        )
    return ok(f"a device and the server hear each other (reason codes {codes[0]} and {codes[1]})")


def only_new_tls_is_offered(case: Case) -> Seen:
    """Ask both doors for every version of TLS."""
    if not case.is_encrypted:
        return fail(
            f"{case.devices} speaks no TLS: anybody on the way reads and writes along",
            "Make a home with certificates (`fleetlift init` with Mosquitto on this machine, or a broker at mqtts://).",
        )
    seen = []
    for door in _doors(case):
        offered = [
            name for name, version in VERSIONS.items() if offers(door.host, door.port, version, timeout_s=TIMEOUT_S)
        ]
        seen.append(f"{door}: {', '.join(offered) or 'none'}")
        if any(old in offered for old in _OLD):
            return fail(seen[-1], "tls_version tlsv1.2 below each listener in mosquitto.conf (1.2 and newer).")
        if not offered:
            return fail(f"{door} answers no TLS", "Does a listener with certfile and keyfile run on that port?")
    return ok("; ".join(seen))


def its_certificate_is_good(case: Case) -> Seen:
    """Check the name, the authority and the end of the certificate that each door shows."""
    if not case.is_encrypted:
        return unknown(NO_TLS)
    seen = []
    for door in _doors(case):
        try:
            shown = _certificate(door, verified=True)
        except ssl.SSLCertVerificationError as error:
            return _explain_untrusted(door, error)
        left = shown.not_valid_after_utc - utc_now()
        seen.append(f"{door}: {_names(shown)}, good for {left.days} days")
        if left < SOON:
            return warn(seen[-1], "`fleetlift serve` renews the broker's server.pem; does it run, and write there?")
    return ok("; ".join(seen))


def plain_mqtt_is_refused(case: Case) -> Seen:
    """Speak MQTT without TLS to both doors, to the usual port and to the listeners that mosquitto.conf names."""
    if not case.is_encrypted:
        return fail(f"{case.devices} is plain MQTT", "Serve devices over TLS alone.")
    ports = {(door.host, door.port) for door in _doors(case)}
    ports |= {(case.devices.host, port) for port in case.plain_ports}
    own = set() if case.files is None else set(read_listeners(case.files.config_file))
    ports |= own
    open_doors = [f"{host}:{port}" for host, port in sorted(ports) if _is_open(case, host, port, own)]
    if open_doors:
        return fail(
            f"MQTT without TLS and without a certificate at {', '.join(open_doors)}",
            "Remove the listener from the broker's configuration, or bind it nowhere.",
        )
    return ok(
        f"{len(ports)} ports take no plain MQTT for this broker: {', '.join(str(port) for _, port in sorted(ports))}"
    )


def strangers_are_refused(case: Case) -> Seen:
    """Come in without a certificate."""
    return _none_is_let_in(case, [(str(door), door, None) for door in _doors(case)], "without a certificate")


def foreign_certificates_are_refused(case: Case) -> Seen:
    """Come in with a certificate of an authority that nobody knows."""
    foreign = case.passes.device(foreign=True)
    return _none_is_let_in(
        case, [(str(door), door, foreign) for door in _doors(case)], "certified by a foreign authority"
    )


def expired_certificates_are_refused(case: Case) -> Seen:
    """Come in as a device whose certificate ended a minute ago."""
    expired = case.passes.device(lifetime=timedelta(minutes=-1))
    return _none_is_let_in(case, [("the devices' door", case.devices, expired)], "with an expired certificate")


def each_door_is_for_its_own(case: Case) -> Seen:
    """Come in as a device at the server's door, and as the server at the devices'."""
    if case.cloud == case.devices:
        return warn(
            f"devices and server come in by one door, {case.devices}",
            "Give the server a listener of its own, with the other authority: there a device's key is worth nothing.",
        )
    server = Device("fleetlift.doctor", case.cloud_certificate)
    tries: list[tuple[str, Door, Device | None]] = [("a device at the server's door", case.cloud, case.passes.device())]
    if case.cloud_certificate is not None:
        tries.append(("the server at the devices' door", case.devices, server))
    return _none_is_let_in(case, tries, "by the wrong door")


def _none_is_let_in(case: Case, tries: Sequence[tuple[str, Door, Device | None]], how: str) -> Seen:
    if not case.is_encrypted:
        return unknown(NO_TLS)
    for door in {door for _, door, _ in tries}:
        if not _lets_in_its_own(case, door):
            return unknown(f"nobody is let in at {door}: that says nothing")
    tried = []
    for where, door, device in tries:
        name, certificate = (device.id, device.certificate) if device is not None else (case.passes.device().id, None)
        try:
            door.visit(name, certificate, version=case.version).open().close()
        except RefusedError:
            tried.append(where)
        else:
            return fail(f"let in {how}: {where}", REQUIRE_MEND)
    return ok(f"not let in {how}: {', '.join(tried)}")


def _lets_in_its_own(case: Case, door: Door) -> bool:
    try:
        (case.open(case.passes.device()) if door == case.devices else case.open_cloud()).close()
    except VisitError:
        return False
    return True


def _is_open(case: Case, host: str, port: int, own: Container[Listener]) -> bool:
    """Whether a port takes plain, nameless MQTT, and is one of this broker's.

    That shows when a visitor there who calls himself like a throw-away device ends that one's session, or hears it.
    """
    device = case.passes.device()
    door = Door(case.devices.host if host in _ANYWHERE else host, port, None)
    try:
        with case.open(device) as known, door.visit(device.id, None).open() as plain:
            if (host, port) in own:
                return True
            plain.subscribe(case.own(device))
            try:
                known.publish(case.own(device), b"x")
            except VisitError:
                return True
            plain.until(case.own(device), timeout_s=1.0)
    except VisitError:
        return False
    return True


def _doors(case: Case) -> list[Door]:
    return list(dict.fromkeys((case.devices, case.cloud)))


def _certificate(door: Door, *, verified: bool) -> x509.Certificate:
    """Return what a door shows to a visitor without a certificate; raises OSError."""
    context = Door(door.host, door.port, door.ca, verified).context(None)
    assert context is not None  # noqa: S101 - asked for doors with TLS only
    with (
        socket.create_connection((door.host, door.port), timeout=TIMEOUT_S) as opened,
        context.wrap_socket(opened, server_hostname=door.host) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown or b"")


def _explain_untrusted(door: Door, error: ssl.SSLCertVerificationError) -> Seen:
    shown = _certificate(door, verified=False)
    names, end = _names(shown), shown.not_valid_after_utc
    if end < datetime.now(UTC):
        return fail(
            f"{door}: the certificate of {names} expired on {end:%Y-%m-%d}",
            "Run `fleetlift serve`, which renews the broker's server.pem, and have the broker read it (SIGHUP).",
        )
    return fail(
        f"{door}: the certificate of {names} is not trusted: {error.verify_message}",
        f"It must bear the name {door.host} ([server] names) and be signed by the services authority in "
        f"{_shown(door.ca)}.",
    )


def _names(certificate: x509.Certificate) -> str:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "no name"
    return ", ".join(str(name.value) for name in found) or "no name"


def _shown(path: Path | None) -> str:
    return "-" if path is None else str(path)
