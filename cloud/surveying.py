"""The fleet in numbers for everybody who looks: counted at once where that is quick, and beside them where it is not.

A large fleet's numbers are counted by a thread, for no more than a share of the time however many look; until they are
new, everybody is shown those from before, with the time at which they were counted.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

from cloud.attention import MAX_NAMED, DeviceInNeed, Need, ProductNumbers, Survey, Trouble
from cloud.changes import Changes
from cloud.refusals import Refusals
from cloud.sparing import MANY, Sparing
from cloud.store.samples import Counts
from cloud.store.store import Store

_FLEET: Final = "the fleet"


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
        self._store, self._refusals, self._quiet_after_ms, self._now = store, refusals, quiet_after_ms, now
        self._surveys = Sparing(lambda _: self._count(), told=changes.bump, clock=clock)

    def get(self) -> Survey:
        """Return the fleet in numbers: of now if it is small, else of `counted_at_ms`; the first are waited for."""
        return self._surveys.first(_FLEET) if self._is_large() else self._count()

    def glance(self) -> Survey | None:
        """Return the same, or None before a large fleet was counted for the first time: nobody waits for that."""
        return self._surveys.glance(_FLEET) if self._is_large() else self._count()

    def _is_large(self) -> bool:
        return self._store.devices.count() >= MANY

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
