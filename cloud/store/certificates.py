"""What devices are known by: their certificates, the next ones, and what is revoked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import func, update
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from cloud.credentials import CertificateView, Revocations
from cloud.models import CertificateRow, DeviceRow, EnrolmentTokenRow
from cloud.pki.authorities import IssuedCertificate, RevokedCertificate
from cloud.store.audit import audit
from cloud.store.engine import Change, Database
from cloud.store.errors import RefusedError
from cloud.store.lookup import device_row
from cloud.store.outbox import mark
from cloud.values import OutboxKind

BROKER: Final = "broker"
"""The key of OutboxKind.ACCESS."""
DAY_MS: Final = 24 * 3600 * 1000
MAX_A_DAY: Final = 8
"""How many certificates one device gets within a day: whoever asks for more is broken, or fills our disk."""

Issue = Callable[[str], IssuedCertificate]
"""Makes a certificate for a device's id; raises CertificateError."""


class Certificates:
    """Devices' certificates."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, device_id: str) -> tuple[CertificateView, ...]:
        """Return a device's certificates, newest first; NotFoundError."""
        query = select(CertificateRow).where(col(CertificateRow.device_id) == device_id)
        with self._database.reading() as session:
            device = device_row(session, device_id)
            rows = session.exec(query.order_by(col(CertificateRow.issued_at_ms).desc(), col(CertificateRow.serial)))
            return tuple(certificate_view(device, row) for row in rows)

    def renew(self, serial: int, present_key: str, new_key: str, issue: Issue, *, grace_ms: int) -> CertificateView:
        """Return the next certificate of a device that has proved that it has its present one's key.

        `present_key` and `new_key` are the SHA-256 of the keys' SubjectPublicKeyInfo. The same new key is answered with
        the same certificate, so that an answer may be lost. The present certificate stays good.

        Raises:
            RefusedError: unknown_certificate, revoked, certificate_expired (more than `grace_ms` ago), same_key (a
                renewal needs a new one), key_taken, too_many_certificates.
        """
        with self._database.changing() as change:
            row = change.session.get(CertificateRow, serial_text(serial))
            if row is None or row.key_sha256 != present_key:
                raise RefusedError("unknown_certificate", "This server has not issued this certificate. Enrol again.")
            device = device_row(change.session, row.device_id)
            check_not_revoked(device, row)
            if change.now_ms > row.not_after_ms + grace_ms:
                raise RefusedError("certificate_expired", "The certificate expired too long ago. Enrol again.")
            if new_key == present_key:
                raise RefusedError("same_key", "A renewal needs a new key, and this is the present one.")
            if there := good_certificate(change, device.id, new_key):
                return certificate_view(device, there)
            made = add_certificate(change, device, new_key, issue)
            after = {"serial": made.serial, "authority": made.authority, "before": row.serial}
            audit(change, f"device/{device.id}", "certificate.renewed", f"device/{device.id}", after=after)
            return certificate_view(device, made)

    def revoke_device(self, device_id: str, reason: str, *, by: str) -> int:
        """Shut a device out: all its certificates, its tokens and its name; return how many certificates were good.

        Nothing happens to one that is revoked already. Raises NotFoundError.
        """
        with self._database.changing() as change:
            device = device_row(change.session, device_id)
            if device.revoked_at_ms is not None:
                return 0
            count = revoke_devices(change, [device])
            after = {"reason": reason, "certificates": count}
            audit(change, by, "device.revoked", f"device/{device_id}", after=after)
            return count

    def readmit_device(self, device_id: str, *, by: str) -> bool:
        """Let a revoked device enrol again; what was revoked of it stays so. False if it was not revoked.

        Raises NotFoundError.
        """
        with self._database.changing() as change:
            return readmit(change, device_row(change.session, device_id), by=by)

    def revocations(self) -> Revocations:
        """Return what the broker is to refuse."""
        now_ms = self._database.now_ms()
        certificates = (
            select(CertificateRow.serial, CertificateRow.authority, CertificateRow.revoked_at_ms)
            .where(col(CertificateRow.revoked_at_ms).is_not(None), col(CertificateRow.not_after_ms) > now_ms - DAY_MS)
            .order_by(col(CertificateRow.serial))
        )
        devices = select(DeviceRow.id).where(col(DeviceRow.revoked_at_ms).is_not(None)).order_by(col(DeviceRow.id))
        with self._database.reading() as session:
            return Revocations(
                certificates=tuple(
                    RevokedCertificate(int(serial, 16), authority, revoked_at_ms or 0)
                    for serial, authority, revoked_at_ms in session.exec(certificates)
                ),
                device_ids=tuple(session.exec(devices)),
            )

    def is_revoked(self, device_id: str) -> bool:
        """Tell whether a device is shut out."""
        with self._database.reading() as session:
            device = session.get(DeviceRow, device_id)
            return device is not None and device.revoked_at_ms is not None

    def holders(self, authority: str) -> tuple[str, ...]:
        """Return the devices whose present certificate is of this authority, and good."""
        with self._database.reading() as session:
            query = self._present().where(col(CertificateRow.authority) == authority)
            return tuple(sorted(set(session.exec(query))))

    def informed_before(self, at_ms: int) -> tuple[str, ...]:
        """Return the devices whose present certificate is good and older than this: they know no later authority."""
        with self._database.reading() as session:
            query = self._present().where(col(CertificateRow.issued_at_ms) < at_ms)
            return tuple(sorted(set(session.exec(query))))

    def _present(self) -> SelectOfScalar[str]:
        return select(CertificateRow.device_id).where(
            col(CertificateRow.superseded_at_ms).is_(None),
            col(CertificateRow.revoked_at_ms).is_(None),
            col(CertificateRow.not_after_ms) > self._database.now_ms(),
        )


def readmit(change: Change, device: DeviceRow, *, by: str) -> bool:
    """Let a revoked device enrol again, within a transaction; False if it was not revoked."""
    if device.revoked_at_ms is None:
        return False
    audit(change, by, "device.readmitted", f"device/{device.id}", before={"revoked_at_ms": device.revoked_at_ms})
    device.revoked_at_ms = None
    change.session.add(device)
    mark(change, OutboxKind.ACCESS, [BROKER])
    return True


def serial_text(serial: int) -> str:
    """Return a serial number as it is stored and shown."""
    return format(serial, "x")


def check_not_revoked(device: DeviceRow, certificate: CertificateRow | None = None) -> None:
    """Raise RefusedError for what was revoked."""
    if device.revoked_at_ms is not None or (certificate is not None and certificate.revoked_at_ms is not None):
        raise RefusedError("revoked", "The device or its certificate was revoked. Its operator can let it in again.")


def good_certificate(change: Change, device_id: str, key_sha256: str) -> CertificateRow | None:
    """Return a device's certificate for a key, if it has one that is good; RefusedError if the key is another's."""
    query = select(CertificateRow).where(col(CertificateRow.key_sha256) == key_sha256)
    rows = change.session.exec(query.order_by(col(CertificateRow.issued_at_ms).desc())).all()
    if any(row.device_id != device_id for row in rows):
        raise RefusedError("key_taken", "Another device has this key. Every device makes its own.")
    good = (row for row in rows if row.revoked_at_ms is None and row.not_after_ms > change.now_ms)
    return next(good, None)


def add_certificate(
    change: Change, device: DeviceRow, key_sha256: str, issue: Issue, *, token: str | None = None
) -> CertificateRow:
    """Make, record and return a device's next certificate, which supersedes those before; within a transaction."""
    _check_pace(change, device.id)
    issued = issue(device.id)
    before = update(CertificateRow).where(
        col(CertificateRow.device_id) == device.id, col(CertificateRow.superseded_at_ms).is_(None)
    )
    change.session.execute(before.values(superseded_at_ms=change.now_ms))
    row = CertificateRow(
        serial=serial_text(issued.serial),
        device_id=device.id,
        authority=issued.authority,
        key_sha256=key_sha256,
        pem=issued.pem.decode("ascii"),
        token=token,
        not_before_ms=_ms(issued.not_before),
        not_after_ms=_ms(issued.not_after),
        issued_at_ms=change.now_ms,
    )
    change.session.add(row)
    change.session.flush()
    return row


def revoke_devices(change: Change, devices: Sequence[DeviceRow]) -> int:
    """Shut devices out and return how many of their certificates were good, within a transaction; audits nothing."""
    ids = [device.id for device in devices]
    for device in devices:
        device.revoked_at_ms, device.online = change.now_ms, False
        change.session.add(device)
    count = revoke_certificates(change, *ids)
    tokens = update(EnrolmentTokenRow).where(
        col(EnrolmentTokenRow.device_id).in_(ids), col(EnrolmentTokenRow.revoked_at_ms).is_(None)
    )
    change.session.execute(tokens.values(revoked_at_ms=change.now_ms))
    mark(change, OutboxKind.ACCESS, [BROKER])
    return count


def revoke_certificates(change: Change, *device_ids: str) -> int:
    """Revoke all certificates of devices and return how many were good, within a transaction."""
    query = select(CertificateRow).where(
        col(CertificateRow.device_id).in_(device_ids), col(CertificateRow.revoked_at_ms).is_(None)
    )
    rows: Sequence[CertificateRow] = change.session.exec(query).all()
    for row in rows:
        row.revoked_at_ms = change.now_ms
        change.session.add(row)
    change.session.flush()
    return sum(row.not_after_ms > change.now_ms for row in rows)


def certificate_view(device: DeviceRow, row: CertificateRow) -> CertificateView:
    """Return a certificate as others see it."""
    return CertificateView(
        serial=row.serial,
        device_id=row.device_id,
        product=device.product,
        authority=row.authority,
        key_sha256=row.key_sha256,
        token=row.token,
        not_before_ms=row.not_before_ms,
        not_after_ms=row.not_after_ms,
        issued_at_ms=row.issued_at_ms,
        superseded_at_ms=row.superseded_at_ms,
        revoked_at_ms=row.revoked_at_ms,
        pem=row.pem,
    )


def _check_pace(change: Change, device_id: str) -> None:
    recent = (
        select(func.count())
        .select_from(CertificateRow)
        .where(col(CertificateRow.device_id) == device_id, col(CertificateRow.issued_at_ms) > change.now_ms - DAY_MS)
    )
    if change.session.exec(recent).one() >= MAX_A_DAY:
        raise RefusedError(
            "too_many_certificates", f"The device got {MAX_A_DAY} certificates within a day. Try again tomorrow."
        )


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
