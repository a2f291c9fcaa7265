"""What the cloud told this device: its Desired and its channels' notices, each verified, in order, and kept.

1. Signatures are checked over the received bytes before anything inside them is decoded (`protocol.signing`).
2. Sequence numbers only grow, over restarts too: what was accepted is in the journal before it counts. A lower number
   is refused as stale; the same number with another content as altered; the same with the same is a repetition.
3. A message that speaks of another device, product, group or component than its topic is refused as foreign.
4. A number counts for as long as its message's signature does, so messages are kept as they came. Whoever steals the
   online key can use up all numbers; when root names another key, what was signed with the old one is in nobody's way.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol, TypeVar

from protocol.codec import decode
from protocol.down import Desired, Notice, NoticeRelease
from protocol.errors import FleetliftError, ProtocolError
from protocol.identity import EVERYONE
from protocol.selection import Assignment
from protocol.signing import DESIRED_TYPE, NOTICE_TYPE, Envelope, Signature, pae, unseal
from protocol.topics import NoticeTopic

DESIRED: Final = "desired"
Verify = Callable[[bytes, tuple[Signature, ...]], None]
T = TypeVar("T", Desired, Notice)
_LOG = logging.getLogger(__name__)


class RefusedError(ProtocolError):
    """A message that was well made and signed, and is not to be followed; `code` says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Seen(Protocol):
    """A message as it was kept."""

    @property
    def payload(self) -> bytes:
        """Its bytes."""


class Keeper(Protocol):
    """Where accepted messages are kept, durably."""

    def all_seen(self) -> Mapping[str, Seen]:
        """Return the newest of each channel."""

    def keep_seen(self, channel: str, seq: int, payload: bytes) -> None:
        """Keep a channel's newest."""


class Told:
    """The newest Desired and notices; what was accepted before is there from the start."""

    def __init__(self, device_id: str, product: str, components: Iterable[str], *, keeper: Keeper) -> None:
        self._device_id = device_id
        self._product = product
        self._components = frozenset(components)
        self._keeper = keeper
        self.desired: Desired | None = None
        self._notices: dict[tuple[str, str], Notice] = {}
        self._envelopes: dict[str, bytes] = {}
        for channel, seen in keeper.all_seen().items():
            self._recall(channel, seen.payload)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the device is in as far as it knows, in rank order."""
        return self.desired.groups if self.desired else (EVERYONE,)

    @property
    def assignment(self) -> Assignment | None:
        """What the operator decided for this device; None if the cloud never said."""
        if self.desired is None:
            return None
        desired = self.desired
        return Assignment(
            groups=desired.groups,
            pins=desired.pins,
            otas=desired.otas,
            ota_enabled=desired.ota_enabled,
            base_only=desired.base_only,
            takes_turns=desired.takes_turns,
            turn=desired.turn,
        )

    @property
    def channels(self) -> Mapping[tuple[str, str], tuple[NoticeRelease, ...]]:
        """The releases of each channel of the device's groups, newest label first."""
        return {channel: notice.releases for channel, notice in self._notices.items() if channel[0] in self.groups}

    def missing(self) -> tuple[str, ...]:
        """Return the channels whose current notice has not arrived, as `<group>/<component>`."""
        wanted = self.desired.notices if self.desired else {}
        lacking = []
        for name, seq in wanted.items():
            group, _, component = name.partition("/")
            notice = self._notices.get((group, component))
            if component in self._components and group in self.groups and (notice is None or notice.seq < seq):
                lacking.append(name)
        return tuple(lacking)

    def accept_desired(self, payload: bytes, verify: Verify) -> Desired:
        """Follow a Desired; raises ProtocolError, or what `verify` raises."""
        desired = unseal(payload, DESIRED_TYPE, Desired, verify)
        if desired.device_id != self._device_id or desired.product != self._product:
            raise RefusedError("foreign_desired", f"a Desired of {desired.device_id} ({desired.product})")
        before = self.desired
        if before is not None:
            same = _decision(before) == _decision(desired)
            self._check_order(DESIRED, before, desired, same=same, verify=verify)
        if desired != before:
            self._keep(DESIRED, desired.seq, payload)
        self.desired = desired
        return desired

    def accept_notice(self, topic: NoticeTopic, payload: bytes, verify: Verify) -> bool:
        """Follow a notice, and tell whether it is news; raises ProtocolError, or what `verify` raises."""
        if topic.product != self._product or topic.group not in self.groups or topic.component not in self._components:
            return False  # some brokers send what nobody asked for
        notice = unseal(payload, NOTICE_TYPE, Notice, verify)
        if (notice.product, notice.group, notice.component) != (topic.product, topic.group, topic.component):
            raise RefusedError("foreign_notice", f"a notice of {notice.product}/{notice.group}/{notice.component}")
        channel = f"{notice.group}/{notice.component}"
        before = self._notices.get((notice.group, notice.component))
        if before is not None:
            self._check_order(channel, before, notice, same=before == notice, verify=verify)
            if before == notice:
                return False
        self._keep(channel, notice.seq, payload)
        self._notices[notice.group, notice.component] = notice
        return True

    def _keep(self, channel: str, seq: int, envelope: bytes) -> None:
        self._keeper.keep_seen(channel, seq, envelope)
        self._envelopes[channel] = envelope

    def _check_order(self, channel: str, before: T, after: T, *, same: bool, verify: Verify) -> None:
        what = "desired" if channel == DESIRED else "notice"
        if after.seq < before.seq:
            error = RefusedError(f"stale_{what}", f"number {after.seq} after {before.seq}")
        elif after.seq == before.seq and not same:
            error = RefusedError(f"altered_{what}", f"another content under the number {after.seq}")
        else:
            return
        if self._counts(channel, verify):
            raise error
        self._forget_what_counts_no_more(verify)

    def _counts(self, channel: str, verify: Verify) -> bool:
        """Tell whether what was accepted on a channel would be accepted now, by its signatures."""
        try:
            envelope = decode(self._envelopes[channel], Envelope)
            verify(pae(envelope.type, envelope.payload.encode()), envelope.signatures)
        except FleetliftError:
            return False
        return True

    def _forget_what_counts_no_more(self, verify: Verify) -> None:
        """Have what was signed by keys that root does not name any more asked for again."""
        for group, component in list(self._notices):
            if not self._counts(f"{group}/{component}", verify):
                del self._notices[group, component]

    def _recall(self, channel: str, kept: bytes) -> None:
        try:
            payload = decode(kept, Envelope).payload
            if channel == DESIRED:
                desired = decode(payload, Desired)
                self.desired = desired if desired.device_id == self._device_id else None
            else:
                notice = decode(payload, Notice)
                self._notices[notice.group, notice.component] = notice
            self._envelopes[channel] = kept
        except ProtocolError as error:
            _LOG.warning("what was kept of %s is not understood, and is asked for again: %s", channel, error)


def _decision(desired: Desired) -> Desired:
    """Return what stays the same when the same decision is said again (docs/protocol.md, section 4)."""
    return dataclasses.replace(desired, session=0, issued_at_ms=0, notices={}, metadata_version=0)
