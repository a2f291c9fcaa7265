"""Tokens that let devices enrol: each use is counted in the transaction that makes the certificate, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import update
from sqlmodel import Session, col, or_, select

from cloud.credentials import CertificateView, DeviceDraft, EnrolmentTokenView, TokenDraft
from cloud.models import CertificateRow, DeviceRow, EnrolmentTokenRow
from cloud.store.audit import audit
from cloud.store.certificates import (
    BROKER,
    Issue,
    add_certificate,
    certificate_view,
    check_not_revoked,
    good_certificate,
    readmit,
    revoke_certificates,
)
from cloud.store.devices import register
from cloud.store.engine import Change, Database
from cloud.store.errors import ConflictError, InvalidError, NotFoundError, RefusedError
from cloud.store.groups import add_to_groups
from cloud.store.lookup import group_row, product_row
from cloud.store.outbox import mark
from cloud.values import OutboxKind
from protocol.manifest import ANY_HARDWARE


class Enrolment:
    """Enrolment tokens, and what devices do with them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, draft: TokenDraft, *, by: str) -> EnrolmentTokenView:
        """Record a token. The same one again changes nothing, so that an answer may be lost.

        Raises NotFoundError for a product or a group, InvalidError for a hardware model, ConflictError for a name or a
        token that is there with another meaning.
        """
        with self._database.changing() as change:
            return _view(add_token(change, draft, by=by), change.now_ms)

    def tokens(self) -> tuple[EnrolmentTokenView, ...]:
        """Return all tokens, newest first."""
        query = select(EnrolmentTokenRow).order_by(
            col(EnrolmentTokenRow.created_at_ms).desc(), col(EnrolmentTokenRow.name)
        )
        now_ms = self._database.now_ms()
        with self._database.reading() as session:
            return tuple(_view(row, now_ms) for row in session.exec(query))

    def token(self, name: str) -> EnrolmentTokenView:
        """Return one token; NotFoundError."""
        with self._database.reading() as session:
            return _view(_row(session, name), self._database.now_ms())

    def revoke(self, name: str, *, by: str) -> EnrolmentTokenView:
        """Take a token back; devices that it enrolled stay. Raises NotFoundError."""
        with self._database.changing() as change:
            row = _row(change.session, name)
            if row.revoked_at_ms is None:
                row.revoked_at_ms = change.now_ms
                change.session.add(row)
                audit(change, by, "enrolment_token.revoked", f"enrolment-token/{name}")
            return _view(row, change.now_ms)

    def enrol(
        self, token_sha256: str, device_id: str, hardware_model: str, key_sha256: str, issue: Issue
    ) -> CertificateView:
        """Use a token once: make the device known if it is new, and give it a certificate for its key.

        The same token, device and key are answered with the same certificate and cost no use, so that an answer may be
        lost. A token that is bound to the device enrols it again, and revokes what it had.

        Raises:
            RefusedError: unknown_token, token_revoked, token_expired, foreign_token (of another device, hardware
                model, or no hardware of the product), token_used, name_taken, revoked, key_taken,
                too_many_certificates.
            InvalidError: the id or the hardware model is not one.
            CertificateError: `issue` refused.
        """
        with self._database.changing() as change:
            row = change.session.exec(
                select(EnrolmentTokenRow).where(col(EnrolmentTokenRow.sha256) == token_sha256)
            ).first()
            if row is None:
                raise RefusedError("unknown_token", "This server does not know the token. Ask for another code.")
            device = change.session.get(DeviceRow, device_id)
            if row.revoked_at_ms is not None:
                raise RefusedError("token_revoked", "The token was taken back. Ask for another code.")
            _check_binding(change, row, device, device_id, hardware_model)
            if device is not None:
                check_not_revoked(device)
            there = good_certificate(change, device_id, key_sha256)
            if device is not None and there is not None and there.token == row.name:
                return certificate_view(device, there)
            if change.now_ms >= row.expires_at_ms:
                raise RefusedError("token_expired", "The token has expired. Ask for another code.")
            if device is not None and row.device_id != device_id:
                raise RefusedError(
                    "name_taken", f"There is a device {device_id} already, and the token is not for it alone."
                )
            _use(change, row)
            made = _certify(change, row, device, (device_id, hardware_model, key_sha256), issue)
            return certificate_view(change.session.get_one(DeviceRow, device_id), made)

    def prepare(
        self, product: str, devices: Sequence[DeviceDraft], *, lifetime_s: int, again: bool = False, by: str
    ) -> tuple[bool, ...]:
        """Make devices known, each with a token of its own where it has one: all of them, or none.

        Returns which of them are new. A device that is known is refused, unless it is to be enrolled `again` (one that
        was revoked is let in then), or this very token was made for it already: so an answer may be lost.

        Raises NotFoundError, InvalidError or ConflictError, which name the line of the draft at fault.
        """
        with self._database.changing() as change:
            known = product_row(change.session, product).hardware_models
            made = []
            for draft in devices:
                try:
                    check_hardware(known, draft.hardware_model, product)
                    made.append(_prepare(change, product, draft, lifetime_s=lifetime_s, again=again, by=by))
                except (NotFoundError, InvalidError, ConflictError) as error:
                    where = f"line {draft.line}: " if draft.line else ""
                    raise type(error)(f"{where}{error}") from None
            return tuple(made)


def add_token(change: Change, draft: TokenDraft, *, by: str) -> EnrolmentTokenRow:
    """Record a token within somebody else's transaction; raises as `Enrolment.add` does."""
    name = draft.chosen_name
    product = product_row(change.session, draft.product)
    if draft.hardware_model is not None:
        check_hardware(product.hardware_models, draft.hardware_model, draft.product)
    for group in draft.groups:
        group_row(change.session, draft.product, group)
    row = EnrolmentTokenRow(
        name=name,
        sha256=draft.sha256,
        product=draft.product,
        hardware_model=draft.hardware_model,
        device_id=draft.device_id,
        groups=list(dict.fromkeys(draft.groups)),
        uses_left=draft.uses,
        max_uses=draft.uses,
        expires_at_ms=change.now_ms + draft.lifetime_s * 1000,
        created_at_ms=change.now_ms,
        created_by=by,
    )
    same = or_(col(EnrolmentTokenRow.name) == name, col(EnrolmentTokenRow.sha256) == draft.sha256)
    there = change.session.exec(select(EnrolmentTokenRow).where(same)).first()
    if there is not None:
        if _meaning(there) == _meaning(row):
            return there
        raise ConflictError(f"an enrolment token {there.name} exists already; choose another name or make a new one")
    change.session.add(row)
    change.session.flush()
    after = {
        "product": row.product,
        "hardware_model": row.hardware_model,
        "device": row.device_id,
        "groups": row.groups,
        "uses": row.max_uses,
        "expires_at_ms": row.expires_at_ms,
    }
    audit(change, by, "enrolment_token.added", f"enrolment-token/{name}", after=after)
    return row


def _prepare(change: Change, product: str, draft: DeviceDraft, *, lifetime_s: int, again: bool, by: str) -> bool:
    """Make one device known and give it its token; return whether it is new."""
    device = change.session.get(DeviceRow, draft.device_id)
    token = None
    if draft.token_sha256 is not None:
        token = TokenDraft(
            sha256=draft.token_sha256,
            product=product,
            hardware_model=draft.hardware_model,
            device_id=draft.device_id,
            lifetime_s=lifetime_s,
        )
    repeated = token is not None and change.session.get(EnrolmentTokenRow, token.chosen_name) is not None
    if device is None:
        register(change, draft.device_id, product, draft.hardware_model, by=by)
        add_to_groups(change, product, draft.device_id, draft.groups)
    elif (device.product, device.hardware_model) != (product, draft.hardware_model):
        raise ConflictError(
            f"device {device.id} is a {device.hardware_model} of product {device.product}; nothing was changed"
        )
    elif not (again or repeated):
        raise ConflictError(f"device {device.id} is registered already; nothing was changed. --again enrols it again")
    elif again:
        readmit(change, device, by=by)
    if token is not None:
        add_token(change, token, by=by)
    return device is None


def check_hardware(known: Sequence[str], hardware_model: str, product: str) -> None:
    """Raise InvalidError for hardware that is none of a product's."""
    if ANY_HARDWARE not in known and hardware_model not in known:
        raise InvalidError(
            f"{product} has no hardware model {hardware_model!r:.80} (it has {', '.join(known)}); nothing was changed"
        )


def _check_binding(
    change: Change, row: EnrolmentTokenRow, device: DeviceRow | None, device_id: str, hardware_model: str
) -> None:
    if row.device_id is not None and row.device_id != device_id:
        raise RefusedError("foreign_token", "The token is for another device.")
    if row.hardware_model is not None and row.hardware_model != hardware_model:
        raise RefusedError("foreign_token", f"The token is for hardware model {row.hardware_model}.")
    if device is not None and row.device_id is not None and device.product != row.product:
        raise RefusedError("foreign_token", f"The token is for product {row.product}, and the device is of another.")
    try:
        check_hardware(product_row(change.session, row.product).hardware_models, hardware_model, row.product)
    except InvalidError as error:
        raise RefusedError("foreign_token", f"{error}.") from None


def _use(change: Change, row: EnrolmentTokenRow) -> None:
    """Count a use; the database itself sees to it that there are never more than were given."""
    left = col(EnrolmentTokenRow.uses_left)
    counted = (
        update(EnrolmentTokenRow)
        .where(col(EnrolmentTokenRow.name) == row.name, left > 0)
        .values(uses_left=left - 1)
        .returning(left)
    )
    if change.session.execute(counted).first() is None:
        raise RefusedError("token_used", "The token was used as often as it may be. Ask for another code.")


def _certify(
    change: Change, row: EnrolmentTokenRow, device: DeviceRow | None, wish: tuple[str, str, str], issue: Issue
) -> CertificateRow:
    device_id, hardware_model, key_sha256 = wish
    by, again = f"enrolment-token/{row.name}", device is not None
    if device is None:
        device = register(change, device_id, row.product, hardware_model, by=by)
        add_to_groups(change, row.product, device_id, row.groups)
    elif revoke_certificates(change, device_id):
        mark(change, OutboxKind.ACCESS, [BROKER])
    made = add_certificate(change, device, key_sha256, issue, token=row.name)
    after = {"serial": made.serial, "authority": made.authority, "again": again}
    audit(change, by, "device.enrolled", f"device/{device_id}", after=after)
    return made


def _meaning(row: EnrolmentTokenRow) -> tuple[object, ...]:
    return (row.name, row.sha256, row.product, row.hardware_model, row.device_id, sorted(row.groups), row.max_uses)


def _row(session: Session, name: str) -> EnrolmentTokenRow:
    row = session.get(EnrolmentTokenRow, name)
    if row is None:
        raise NotFoundError(f"there is no enrolment token named {name!r:.80}; nothing was changed")
    return row


def _view(row: EnrolmentTokenRow, now_ms: int) -> EnrolmentTokenView:
    good = row.revoked_at_ms is None and row.uses_left > 0 and now_ms < row.expires_at_ms
    return EnrolmentTokenView(
        name=row.name,
        product=row.product,
        hardware_model=row.hardware_model,
        device_id=row.device_id,
        groups=tuple(row.groups),
        uses_left=row.uses_left,
        max_uses=row.max_uses,
        expires_at_ms=row.expires_at_ms,
        created_at_ms=row.created_at_ms,
        created_by=row.created_by,
        revoked_at_ms=row.revoked_at_ms,
        good=good,
    )
