"""Releases: labels per channel, patches, rollback, promotion, and the notice that tells a channel's devices."""

from __future__ import annotations

from cloud.planner import Forecast
from cloud.store.engine import Database
from cloud.values import ChannelKey, ReleaseDraft, ReleasePatch, ReleaseView
from protocol.down import Notice


class Releases:
    """Releases and channels."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, draft: ReleaseDraft, *, by: str) -> ReleaseView:
        """Release a published firmware on a channel under its next label.

        NotFoundError without such a product, group or firmware; ConflictError if the firmware is not published, is
        below the signed floor, or the channel has too many releases that still reach somebody.
        """
        raise NotImplementedError

    def forecast(self, draft: ReleaseDraft) -> Forecast:
        """Tell which devices would take this draft now, and why each other one would not; changes nothing.

        Make the draft with `release_id=new_release_id()` and create that same draft, and the forecast holds for it.
        """
        raise NotImplementedError

    def patch(self, release_id: str, patch: ReleasePatch, *, by: str) -> ReleaseView:
        """Change a release for the devices that it has not reached yet.

        ConflictError for a percentage that falls, and for any patch of a disabled release but one that enables it.
        """
        raise NotImplementedError

    def rollback(self, channel: ChannelKey, label: int, *, by: str, description: str = "") -> ReleaseView:
        """Make an earlier successful label Live again, as a new label that references it, for everyone (100 %).

        ConflictError if that label succeeded on no device, is Live already, or its firmware is below the floor.
        """
        raise NotImplementedError

    def promote(
        self,
        release_id: str,
        to_group: str,
        *,
        by: str,
        percentage: int = 100,
        mandatory: bool | None = None,
        description: str | None = None,
    ) -> ReleaseView:
        """Release what succeeded there to `to_group` (or to a new label of its own channel).

        Target range, urgency and, unless given, mandatory and description are those of the release promoted.
        ConflictError if it succeeded on no device.
        """
        raise NotImplementedError

    def releases(
        self,
        *,
        product: str | None = None,
        group: str | None = None,
        component: str | None = None,
        enabled: bool | None = None,
    ) -> tuple[ReleaseView, ...]:
        """Return releases by channel, newest label first."""
        raise NotImplementedError

    def release(self, release_id: str) -> ReleaseView:
        """Return one release; NotFoundError."""
        raise NotImplementedError

    def find(self, channel: ChannelKey, label: int) -> ReleaseView:
        """Return a channel's release by label; NotFoundError."""
        raise NotImplementedError

    def channels(self, product: str | None = None) -> tuple[ChannelKey, ...]:
        """Return every channel that ever had a release: what has a notice."""
        raise NotImplementedError

    def channel_notice(self, channel: ChannelKey) -> Notice:
        """Return the channel's notice, to be signed; the same bytes for the same `seq`. NotFoundError."""
        raise NotImplementedError


def new_release_id() -> str:
    """Return an unused release id."""
    raise NotImplementedError
