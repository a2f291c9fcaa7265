"""A channel's releases as views and as a notice, and what follows when they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement
from sqlmodel import Session, col, select

from cloud.models import ChannelRow, FirmwareRow, ReleaseRow
from cloud.shadowing import TooManyReleasesError, notice_releases
from cloud.store.engine import Change
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.lookup import firmware_by_id, firmware_ref
from cloud.store.otas import close_overtaken
from cloud.store.outbox import mark
from cloud.store.situations import as_noticed, floors_of
from cloud.values import ChannelKey, OutboxKind, ReleaseView
from protocol.codec import MAX_MESSAGE_BYTES, encode, structure
from protocol.down import Notice
from protocol.errors import MessageError
from protocol.schedule import Terms
from protocol.values import Urgency

ENVELOPE_BYTES: Final = 8 * 1024
"""What an envelope's signatures and frame may add to a notice."""


def channel_key(row: ChannelRow | ReleaseRow) -> ChannelKey:
    """Return the channel of a row."""
    return ChannelKey(row.product, row.group_name, row.component)


def in_channel(channel: ChannelKey) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for a release to be of a channel."""
    return (
        col(ReleaseRow.product) == channel.product,
        col(ReleaseRow.group_name) == channel.group,
        col(ReleaseRow.component) == channel.component,
    )


def find_release(session: Session, channel: ChannelKey, label: int) -> ReleaseRow:
    """Return a channel's release by label; NotFoundError."""
    row = session.exec(select(ReleaseRow).where(*in_channel(channel), col(ReleaseRow.label) == label)).first()
    if row is None:
        raise NotFoundError(f"channel {channel} has no label v{label}; nothing was changed")
    return row


def live_release(session: Session, channel: ChannelKey) -> ReleaseRow | None:
    """Return the highest enabled label of a channel."""
    enabled = select(ReleaseRow).where(*in_channel(channel), col(ReleaseRow.enabled).is_(True))
    return session.exec(enabled.order_by(col(ReleaseRow.label).desc()).limit(1)).first()


def notice_of(session: Session, row: ChannelRow) -> Notice:
    """Return a channel's notice; raises TooManyReleasesError."""
    query = (
        select(ReleaseRow, FirmwareRow)
        .join(FirmwareRow, col(FirmwareRow.id) == col(ReleaseRow.firmware_id))
        .where(*in_channel(channel_key(row)), col(ReleaseRow.enabled).is_(True))
    )
    return Notice(
        product=row.product,
        group=row.group_name,
        component=row.component,
        seq=row.notice_seq,
        issued_at_ms=row.notice_issued_at_ms,
        releases=notice_releases([as_noticed(release, firmware) for release, firmware in session.exec(query)]),
    )


def changed(change: Change, channel: ChannelKey) -> None:
    """Give the channel's notice a new number, have it published, and close the OTAs that are overtaken now."""
    row = change.session.get_one(ChannelRow, (channel.product, channel.group, channel.component))
    row.notice_seq = max(row.notice_seq + 1, change.now_ms)
    row.notice_issued_at_ms = change.now_ms
    change.session.add(row)
    change.session.flush()
    try:
        payload = encode(notice_of(change.session, row)).decode()
        fits = len(encode({"payload": payload})) <= MAX_MESSAGE_BYTES - ENVELOPE_BYTES
    except TooManyReleasesError as error:
        raise ConflictError(f"{error}; nothing was changed") from None
    except MessageError:
        fits = False
    if not fits:
        raise ConflictError(
            f"the enabled releases of {channel} do not fit into one notice; disable old ones; nothing was changed"
        )
    mark(change, OutboxKind.NOTICE, [str(channel)])
    close_overtaken(change, channel.product, component=channel.component)


def check_floor(session: Session, firmware: FirmwareRow) -> None:
    """Raise ConflictError for firmware that release managers retired."""
    floor = floors_of(session, firmware.product).get(firmware.component, 0)
    if firmware.seq < floor:
        raise ConflictError(
            f"firmware {firmware.component} {firmware.version} (seq {firmware.seq}) is below the signed floor {floor}: "
            "release managers retired it, and no device would take it; nothing was changed"
        )


def release_views(session: Session, rows: Sequence[ReleaseRow], now_ms: int) -> tuple[ReleaseView, ...]:
    """Return releases as others see them, by channel, newest label first."""
    enabled = {channel: _enabled(session, channel) for channel in sorted({channel_key(row) for row in rows})}
    views = [_view(session, row, enabled[channel_key(row)], now_ms) for row in rows]
    return tuple(sorted(views, key=lambda view: (view.channel, -view.label)))


def _enabled(session: Session, channel: ChannelKey) -> dict[int, int]:
    """Return the channel's enabled labels, ascending, and when they were made."""
    query = select(ReleaseRow.label, ReleaseRow.created_at_ms).where(
        *in_channel(channel), col(ReleaseRow.enabled).is_(True)
    )
    return dict(sorted(session.exec(query).all()))


def _view(session: Session, row: ReleaseRow, enabled: dict[int, int], now_ms: int) -> ReleaseView:
    superseded_at_ms = next((at_ms for label, at_ms in enabled.items() if label > row.label), None)
    ended_at_ms = min(at for at in (superseded_at_ms, row.disabled_at_ms, now_ms) if at is not None)
    return ReleaseView(
        release_id=row.id,
        channel=channel_key(row),
        label=row.label,
        order=row.decision,
        firmware=firmware_ref(firmware_by_id(session, row.firmware_id)),
        percentage=row.percentage,
        mandatory=row.mandatory,
        forced=row.forced,
        urgency=Urgency(row.urgency),
        target_range=row.target_range,
        description=row.description,
        enabled=row.enabled,
        live=row.enabled and superseded_at_ms is None,
        references_label=row.references_label,
        promoted_from=row.promoted_from,
        created_at_ms=row.created_at_ms,
        created_by=row.created_by,
        superseded_at_ms=superseded_at_ms,
        disabled_at_ms=row.disabled_at_ms,
        duration_s=max(0, ended_at_ms - row.created_at_ms) // 1000,
        terms=structure(row.terms, Terms),
    )
