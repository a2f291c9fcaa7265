"""What takes long to count for a large fleet: a page shows what was counted last, and hears when it is counted anew.

Of a small fleet everything is counted each time. Of a large one the first page says that it is being counted.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from cloud.api.backend import Backend
from cloud.api.documents import ReleaseProgress
from cloud.api.firmware import show_running
from cloud.api.releases import progress_of, show_release
from cloud.api.rollouts import RolloutPage, show_rollout
from cloud.api.system import verify_audit
from cloud.auditing import Verdict
from cloud.store.errors import NotFoundError
from cloud.values import ProductView, ReleaseMetrics, ReleaseView, RunningView
from cloud.watching import MANY, SHARE, Watching

T = TypeVar("T")
SHOWN: Final = 100
"""Devices that a release's page names, the unwell first."""
MAX_KEPT: Final = 256
CALM_S: Final = 2.0
"""The youngest that what was counted is counted anew."""
_ONE_AT_A_TIME: Final = threading.Semaphore(1)
_log = logging.getLogger(__name__)


class Glances(Generic[T]):
    """Values by key that nobody waits for: what was made last is there, and is made anew by a thread when it is old."""

    def __init__(
        self, make: Callable[[str], T], told: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take what makes a value, and what is called whenever one was made anew."""
        self._make, self._told, self._clock = make, told, clock
        self._kept: dict[str, tuple[T, float, float]] = {}
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def get(self, key: str) -> T | None:
        """Return what was made last, or None before the first; it is made anew if it is old for what it took."""
        with self._lock:
            kept = self._kept.get(key)
            is_old = kept is None or self._clock() - kept[1] > max(CALM_S, kept[2] / SHARE)
            if is_old and key not in self._busy:
                self._busy.add(key)
                threading.Thread(target=self._work, args=(key,), name="counting", daemon=True).start()
        return kept[0] if kept else None

    def now(self, key: str) -> T:
        """Make a value at once."""
        return self._make(key)

    def _put(self, key: str, value: T, took_s: float) -> None:
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = (value, self._clock(), took_s)
            while len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]

    def _work(self, key: str) -> None:
        with _ONE_AT_A_TIME:  # whoever comes next finds this one over, told or logged
            try:
                began_s = self._clock()
                value = self._make(key)
                self._put(key, value, self._clock() - began_s)
            except NotFoundError:  # it was deleted meanwhile
                return
            except Exception:  # noqa: BLE001 - the page goes on without it, and asks again
                _log.warning("%s could not be counted", key, exc_info=True)
                return
            finally:
                with self._lock:
                    self._busy.discard(key)
        self._told()


class Counts:
    """The counts of releases, as the API tells them."""

    def __init__(self, server: Backend, watching: Watching) -> None:
        self._server = server
        told = server.changes.bump
        self._progress = Glances(lambda it: progress_of(server, watching, it, SHOWN), told)
        self._metrics = Glances(lambda it: show_release(server, it).metrics, told)
        self._running = Glances(lambda it: show_running(server, it), told)
        self._chain = Glances(lambda _: (verify_audit(server), int(time.time() * 1000)), told)
        self._rollouts = Glances(lambda it: show_rollout(server, it), told)

    @staticmethod
    def is_large(product: ProductView) -> bool:
        """Whether a product has so many devices that nobody waits for their count."""
        return product.devices > MANY

    def progress(self, release: ReleaseView, *, large: bool) -> ReleaseProgress | None:
        """Return how far a release is."""
        return self._progress.get(release.release_id) if large else self._progress.now(release.release_id)

    def metrics(self, release: ReleaseView, *, large: bool) -> ReleaseMetrics | None:
        """Return what became of a release."""
        return self._metrics.get(release.release_id) if large else self._metrics.now(release.release_id)

    def running(self, product: ProductView) -> tuple[RunningView, ...] | None:
        """Return how many devices of a product run which image."""
        return (self._running.get if self.is_large(product) else self._running.now)(product.product)

    def chain(self) -> tuple[Verdict, int] | None:
        """Return what the hashes of the record of decisions say, and when that was found."""
        return self._chain.get("")

    def rollout(self, release: ReleaseView, *, large: bool) -> RolloutPage | None:
        """Return where a release that has a plan stands with it; status and phase may be older than the release's."""
        return self._rollouts.get(release.release_id) if large else self._rollouts.now(release.release_id)
