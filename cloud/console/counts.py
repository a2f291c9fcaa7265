"""What takes long to count for a large fleet: a page shows what was counted last, and hears when it is counted anew.

Of a small fleet everything is counted each time. Of a large one the first page says that it is being counted.
"""

import time
from typing import Final

from cloud.api.backend import Backend
from cloud.api.documents import ReleaseProgress
from cloud.api.firmware import show_running
from cloud.api.releases import progress_of, show_release
from cloud.api.rollouts import RolloutPage, show_rollout
from cloud.api.system import verify_audit
from cloud.auditing import Verdict
from cloud.sparing import MANY, Sparing
from cloud.values import ProductView, ReleaseMetrics, ReleaseView, RunningView
from cloud.watching import Watching

SHOWN: Final = 100
"""Devices that a release's page names, the unwell first."""


class Counts:
    """The counts of releases, as the API tells them."""

    def __init__(self, server: Backend, watching: Watching) -> None:
        self._server = server
        told = server.changes.bump
        self._progress = Sparing(lambda it: progress_of(server, watching, it, SHOWN), told=told)
        self._metrics = Sparing(lambda it: show_release(server, it).metrics, told=told)
        self._running = Sparing(lambda it: show_running(server, it), told=told)
        self._chain = Sparing(lambda _: (verify_audit(server), int(time.time() * 1000)), told=told)
        self._rollouts = Sparing(lambda it: show_rollout(server, it), told=told)

    @staticmethod
    def is_large(product: ProductView) -> bool:
        """Whether a product has so many devices that nobody waits for their count."""
        return product.devices > MANY

    def progress(self, release: ReleaseView, *, large: bool) -> ReleaseProgress | None:
        """Return how far a release is."""
        return self._progress.glance(release.release_id) if large else self._progress.now(release.release_id)

    def metrics(self, release: ReleaseView, *, large: bool) -> ReleaseMetrics | None:
        """Return what became of a release."""
        return self._metrics.glance(release.release_id) if large else self._metrics.now(release.release_id)

    def running(self, product: ProductView) -> tuple[RunningView, ...] | None:
        """Return how many devices of a product run which image."""
        return (self._running.glance if self.is_large(product) else self._running.now)(product.product)

    def chain(self) -> tuple[Verdict, int] | None:
        """Return what the hashes of the record of decisions say, and when that was found."""
        return self._chain.glance("")

    def rollout(self, release: ReleaseView, *, large: bool) -> RolloutPage | None:
        """Return where a release that has a plan stands with it; status and phase may be older than the release's."""
        return self._rollouts.glance(release.release_id) if large else self._rollouts.now(release.release_id)
