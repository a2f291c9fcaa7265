"""Checks that the broker heeds its revocation list, by revoking a throw-away device where the examiner may do that."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509

from cloud.broker_config import read_sections
from cloud.broker_files import CRL_FILE, BrokerFiles, BrokerFilesError, read_revocation_lists
from cloud.doctor.case import Case
from cloud.doctor.files import CONFIG_MEND, ELSEWHERE
from cloud.doctor.findings import Seen, fail, ok, unknown, warn
from cloud.doctor.visitor import RefusedError
from cloud.pki.authorities import Authorities, RevokedCertificate

TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.05
RELOAD_MEND: Final = (
    "Run server and broker as one user, or give [broker] reload_command in fleetlift.toml (deploy/ has an example)."
)


def the_broker_can_be_told(case: Case) -> Seen:
    """Find out whether the broker can be made to read its files again, without doing it."""
    if case.files is None:
        return unknown(ELSEWHERE)
    if case.files.reload_command:
        return ok(f"{case.files.reload_command[0]} tells the broker (not tried)")
    pid = case.files.pid()
    if pid is None:
        return warn("no running broker wrote its number beside these files", RELOAD_MEND)
    if not case.files.may_signal(pid):
        return fail(f"this user may not signal the broker (process {pid})", RELOAD_MEND)
    return ok(f"process {pid} can be signalled (SIGHUP)")


def revocations_are_heeded(case: Case) -> Seen:
    """Revoke a throw-away device and see it refused, where that is allowed; else look for the list."""
    if case.files is None or not case.files.directory.is_dir():
        return unknown(ELSEWHERE)
    lists = [door["crlfile"] for door in read_sections(case.files.config_file)[1:] if "crlfile" in door]
    authorities = case.passes.authorities
    if not case.may_revoke or authorities is None or not case.is_encrypted:
        if not lists:
            return fail(f"{case.files.config_file} names no crlfile: a stolen device stays in", CONFIG_MEND)
        return unknown(
            f"the configuration names {lists[0]}; whether the broker heeds it was not tried",
            "`fleetlift doctor --revoke` tries it: it revokes a throw-away device, and takes that back.",
        )
    try:
        return _revoke_one(case, case.files, authorities)
    except BrokerFilesError as error:
        return fail(str(error), RELOAD_MEND)


def _revoke_one(case: Case, files: BrokerFiles, authorities: Authorities) -> Seen:
    device = case.passes.device()
    assert device.issued is not None  # noqa: S101 - there are authorities
    case.open(device).close()
    began = time.monotonic()
    revoked = RevokedCertificate(device.issued.serial, device.issued.authority, int(time.time() * 1000))
    with _listed(files, authorities, revoked):
        while time.monotonic() < began + TIMEOUT_S:
            try:
                case.open(device).close()
            except RefusedError:
                return ok(f"a device was refused {time.monotonic() - began:.2f} s after it was revoked")
            time.sleep(POLL_S)
    return fail(
        f"a device was let in {TIMEOUT_S:g} s after it was revoked and the broker told",
        "crlfile below the devices' listener in mosquitto.conf, and a broker that reads it again on SIGHUP.",
    )


@contextlib.contextmanager
def _listed(files: BrokerFiles, authorities: Authorities, revoked: RevokedCertificate) -> Iterator[None]:
    """Have the broker read a list with one certificate more, and then again the one that it had."""
    path = files.directory / CRL_FILE
    try:
        before = path.read_bytes()
    except OSError as error:
        raise BrokerFilesError(f"{path} cannot be read: {error.strerror}") from error
    ours = authorities.crl([*_revoked(before, authorities), revoked])
    try:
        files.write_revocations(ours)
        if not files.reload():
            raise BrokerFilesError("no broker runs on these files, so none could be told")
        yield
    finally:
        if _read(path) == ours:  # unless the server has written a newer one
            files.write_revocations(before)
            files.reload()


def _revoked(crl: bytes, authorities: Authorities) -> Sequence[RevokedCertificate]:
    """Return what a file of lists revokes, with the authorities' own names."""
    trusted = x509.load_pem_x509_certificates(authorities.trusted("devices"))
    names = {it.subject: view.name for it, view in zip(trusted, authorities.views("devices"), strict=True)}
    return [
        RevokedCertificate(it.serial_number, names[one.issuer], int(it.revocation_date_utc.timestamp() * 1000))
        for one in read_revocation_lists(crl)
        if one.issuer in names
        for it in one
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
