"""Devices' identities as tests see them, and make older: certificates become due, or end, without anybody waiting."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from cloud.cli.initialise import database_url
from cloud.config import Home, load_settings
from cloud.pki.authorities import Authorities, IssuedCertificate
from cloud.pki.requests import certified_key_sha256, read_certificate, read_request
from cloud.roles import utc_now
from cloud.store.store import Store
from device_agent.identity.keys import CryptographyKeys
from device_agent.identity.store import Identity, IdentityStore
from protocol.enrolment import Enrolled
from tests.support.devices import Device
from tests.support.fleet import Fleet

DUE = timedelta(days=62)
"""An age at which a certificate of 90 days is due for every device."""
LONG_ENDED = timedelta(days=100)


def identity_of(device: Device) -> Identity:
    """Who a device is now, from its disk."""
    found = IdentityStore(device.directory / "identity").load()
    assert found is not None
    return found


def serial_of(device: Device) -> str:
    """The serial number of the certificate that counts on a device."""
    return identity_of(device).certificate.removeprefix("device-").removesuffix(".pem")


def status(device: Device) -> dict[str, Any]:
    """What an agent says of itself; empty while it does not answer yet."""
    try:
        found: dict[str, Any] = device.control("status")["status"]
    except OSError:
        return {}
    return found


def problem(device: Device, place: str) -> str:
    """What is wrong with a device's `broker` or `identity`, as its agent says it; empty if it knows of nothing."""
    return (status(device).get(place) or {}).get("problem") or ""


def age(fleet: Fleet, device: Device, by: timedelta) -> Identity:
    """Give a device, whose agent does not run, a certificate that the server really issued so long ago.

    The server's own code issues and stores it, on a clock of that day.
    """
    home = Home(fleet.office.home)
    then = utc_now() - by
    authorities = Authorities(home.ca, now=lambda: then)
    files, keys = IdentityStore(device.directory / "identity"), CryptographyKeys()
    present = identity_of(device)
    request = keys.request(files.next_key(keys), device.device_id).encode()
    old = read_certificate(files.certificate_of(present).encode())

    def issue(device_id: str) -> IssuedCertificate:
        return authorities.issue_device(request, device_id)

    with Store.open(database_url(home, load_settings(home.settings_file)), then.timestamp) as store:
        made = store.certificates.renew(
            old.serial_number, certified_key_sha256(old), read_request(request).key_sha256, issue, grace_ms=0
        )
    answer = Enrolled(
        device_id=made.device_id,
        product=made.product,
        certificate=made.pem,
        ca=files.authorities(),
        broker_url=present.broker_url,
        topic_root=present.topic_root,
        not_before_ms=made.not_before_ms,
        not_after_ms=made.not_after_ms,
    )
    aged = files.adopt(answer, present.server, device_id=present.device_id, product=present.product)
    files.tidy(aged)
    return aged


def make_due(device: Device) -> None:
    """Have a device, whose agent does not run, take its certificate for one that is due, and its news for old."""
    directory = device.directory / "identity"
    days_ms = int(DUE.total_seconds()) * 1000
    _edit(
        directory / "identity.json", lambda it: {name: it[name] - days_ms for name in ("not_before_ms", "not_after_ms")}
    )
    (directory / "renewal.json").unlink(missing_ok=True)


def pause_is_over(device: Device) -> None:
    """Let the pause after a try that failed be over; the agent does not run."""
    path = device.directory / "identity" / "renewal.json"
    _edit(
        path,
        lambda it: {what: {**it[what], "tried_at_s": max(0, it[what]["tried_at_s"] - 86_400)} for what in it},
    )


def _edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | change(content)))
