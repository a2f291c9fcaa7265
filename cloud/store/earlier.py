"""What an earlier release is good for: whether it succeeded anywhere, and whom going back to it reaches."""

from __future__ import annotations

from sqlmodel import Session, col, select

from cloud.models import AttemptRow, FirmwareRow, ReleaseRow
from cloud.shadowing import rollback_range
from cloud.store.channels import channel_key, find_release, in_channel, live_release
from cloud.store.errors import ConflictError
from cloud.store.lookup import firmware_by_id
from cloud.store.situations import as_noticed
from cloud.values import ChannelKey, ReleaseDraft
from protocol.phases import Outcome
from protocol.values import Urgency


def rollback_draft(session: Session, channel: ChannelKey, label: int) -> ReleaseDraft:
    """Return what a roll-back to a label releases; ConflictError if it succeeded on no device, or is Live already."""
    earlier = find_release(session, channel, label)
    live = live_release(session, channel)
    if live is not None and live.id == earlier.id:
        raise ConflictError(f"v{label} of {channel} is Live already; nothing was changed")
    check_succeeded(session, earlier, "rolled back to")
    firmware = firmware_by_id(session, earlier.firmware_id)
    return ReleaseDraft(
        channel=channel,
        version=firmware.version,
        mandatory=earlier.mandatory,
        urgency=Urgency.GRADUAL,
        target_range=_rollback_range(session, earlier, firmware),
        description=f"rollback to v{label}",
    )


def check_succeeded(session: Session, row: ReleaseRow, doing: str) -> None:
    """Raise ConflictError unless a device took this release, or one that it references, and the success stands."""
    channel, ids, earlier = channel_key(row), [row.id], row
    while earlier.references_label is not None:
        earlier = find_release(session, channel, earlier.references_label)
        ids.append(earlier.id)
    success = select(AttemptRow.id).where(
        col(AttemptRow.source_id).in_(ids),
        col(AttemptRow.outcome) == Outcome.SUCCEEDED.value,
        col(AttemptRow.taken_back_at_ms).is_(None),
    )
    if session.exec(success.limit(1)).first() is None:
        raise ConflictError(
            f"v{row.label} of {channel} succeeded on no device, so it cannot be {doing}; nothing was changed. "
            "Release its firmware anew if that is what you want"
        )


def _rollback_range(session: Session, earlier: ReleaseRow, firmware: FirmwareRow) -> str:
    query = (
        select(ReleaseRow, FirmwareRow)
        .join(FirmwareRow, col(FirmwareRow.id) == col(ReleaseRow.firmware_id))
        .where(*in_channel(channel_key(earlier)), col(ReleaseRow.label) > earlier.label)
        .order_by(col(ReleaseRow.label))
    )
    later = [as_noticed(release, of) for release, of in session.exec(query)]
    return rollback_range(as_noticed(earlier, firmware), later)
