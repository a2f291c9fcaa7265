"""What became of releases, derived by query from the devices' journals: never a counter, so never lost or doubled."""

from __future__ import annotations

from collections.abc import Mapping

from cloud.store.engine import Database
from cloud.values import ChannelKey, ReleaseMetrics


class Metrics:
    """Metrics of releases and of the fleet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def release(self, release_id: str) -> ReleaseMetrics:
        """Return one release's metrics; NotFoundError."""
        raise NotImplementedError

    def channel(self, channel: ChannelKey) -> Mapping[str, ReleaseMetrics]:
        """Return the metrics of a channel's releases by release id."""
        raise NotImplementedError

    def versions(self, product: str, component: str) -> Mapping[str, int]:
        """Return how many devices report each version of a component."""
        raise NotImplementedError

    def online(self) -> Mapping[str, tuple[int, int]]:
        """Return per product (devices online, devices)."""
        raise NotImplementedError
