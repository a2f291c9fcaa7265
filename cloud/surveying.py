"""The fleet in numbers for everybody who looks: counted at once where that is quick, and beside them where it is not.

A large fleet's numbers are counted by a thread, for no more than a share of the time however many look; until they are
new, everybody is shown those from before, with the time at which they were counted.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from cloud.attention import MAX_NAMED, DeviceInNeed, Need, ProductNumbers, Survey, Trouble
from cloud.changes import Changes
from cloud.refusals import Refusals
from cloud.store.samples import Counts
from cloud.store.store import Store
from cloud.watching import MANY, SHARE

CALM_S: Final = 2.0
"""The youngest that a large fleet's numbers are counted anew."""
_log = logging.getLogger(__name__)


class Surveying:
    """The fleet in numbers, kept while they are young."""

    def __init__(
        self,
        store: Store,
        refusals: Refusals,
        changes: Changes,
        *,
        quiet_after_ms: int,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what is counted, and what is told whenever a large fleet was counted anew."""
        self._store, self._refusals, self._changes, self._quiet_after_ms = store, refusals, changes, quiet_after_ms
        self._now, self._clock = now, clock
        self._kept: Survey | None = None
        self._made_at_s = self._took_s = 0.0
        self._lock, self._one_at_a_time = threading.Lock(), threading.Lock()
        self._is_counting = False

    def get(self) -> Survey:
        """Return the fleet in numbers: of now if it is small, else of `counted_at_ms`; the first are waited for."""
        return self.glance() or self._first()

    def glance(self) -> Survey | None:
        """Return the same, or None before a large fleet was counted for the first time: nobody waits for that."""
        if self._store.devices.count() < MANY:
            return self._count()
        with self._lock:
            kept = self._kept
            is_old = kept is None or self._clock() - self._made_at_s > max(CALM_S, self._took_s / SHARE)
            if is_old and not self._is_counting:
                self._is_counting = True
                threading.Thread(target=self._count_anew, name="survey", daemon=True).start()
        return kept

    def _first(self) -> Survey:
        with self._one_at_a_time:
            return self._kept or self._keep()

    def _count_anew(self) -> None:
        try:
            with self._one_at_a_time:
                self._keep()
        except Exception:  # noqa: BLE001 - whoever asks next has it tried again
            _log.warning("the fleet could not be counted", exc_info=True)
        else:
            self._changes.bump()
        finally:
            with self._lock:
                self._is_counting = False

    def _keep(self) -> Survey:
        began_s = self._clock()
        found = self._count()
        with self._lock:
            self._kept, self._made_at_s = found, self._clock()
            self._took_s = self._made_at_s - began_s
        return found

    def _count(self) -> Survey:
        store, counted_at_ms = self._store, int(self._now() * 1000)
        counts, failures, failed = store.samples.count(), store.attention.failures(), store.attention.failed()
        needs = (*store.attention.needs(quiet_after_ms=self._quiet_after_ms), *self._refused(counted_at_ms))
        order = list(Trouble)
        quiet = {need.product: need.count for need in needs if need.trouble is Trouble.QUIET}
        return Survey(
            counted_at_ms=counted_at_ms,
            products={
                product: _numbers(
                    product, count, quiet.get(product, 0), failed.get(product, 0), failures.get(product, {})
                )
                for product, count in sorted(counts.items())
            },
            needs=tuple(sorted(needs, key=lambda it: (order.index(it.trouble), it.product))),
        )

    def _refused(self, now_ms: int) -> list[Need]:
        """Return whose messages were refused lately; who is not known here has no product, and an empty one."""
        said = self._refusals.lately(now_ms)
        known = self._store.attention.products_of(list(said))
        by_product: dict[str, list[DeviceInNeed]] = {}
        for who, last in sorted(said.items(), key=lambda it: -it[1].last_at_ms):
            product = known.get(who, "")
            detail = f"{last.kind} ({last.count} times): {last.sentence}"
            device = DeviceInNeed(device_id=who, product=product, at_ms=last.last_at_ms, detail=detail)
            by_product.setdefault(product, []).append(device)
        return [
            Need(trouble=Trouble.REFUSED, product=product, count=len(some), devices=tuple(some[:MAX_NAMED]))
            for product, some in by_product.items()
        ]


def _numbers(product: str, counts: Counts, quiet: int, failed: int, failures: Mapping[str, int]) -> ProductNumbers:
    devices, online = counts.get(("", ""), (0, 0))
    versions: dict[str, dict[str, tuple[int, int]]] = {}
    for (component, version), count in counts.items():
        if component:
            versions.setdefault(component, {})[version] = count
    return ProductNumbers(
        product=product,
        devices=devices,
        online=online,
        quiet=quiet,
        failed=failed,
        failures=failures,
        versions=versions,
    )
