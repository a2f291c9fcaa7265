"""Watching releases without loading the cloud: what is dear is worked out for all who watch, and not all the time.

For a release to many devices the counts come from the database, and who has yet to begin from the selection, asked
about each of them. Both are kept while they are young, measured by what they took: neither is worked on for more than
a share of the time, however many watch. For few devices both are worked out each time.
"""

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloud.progress import DeviceProgress, Rollout, Stage, Verdict, verdict_of
from cloud.sparing import MANY, SHARE, Sparing
from cloud.store.overview import FleetNumbers
from cloud.store.standings import Begun, Unbegun
from cloud.store.store import Store
from cloud.values import ReleaseMetrics, ReleaseView

SHARE_AT_THE_END: Final = 0.25
"""When all seems to have settled, which has to be certain."""
MAX_KEPT: Final = 64
MAX_SHOWN: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseStanding:
    """How far a release is: how many devices are in each stage, and some of them; `left_out` are the others."""

    release: ReleaseView
    metrics: ReleaseMetrics
    stages: dict[Stage, int]
    devices: tuple[DeviceProgress, ...]
    left_out: int
    rollout: Rollout | None
    verdict: Verdict


_Summed = tuple[Begun, Unbegun, int, dict[Stage, int], tuple[DeviceProgress, ...]]


class Watching:
    """How far releases are, for many who ask."""

    def __init__(
        self, store: Store, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._now = store, now
        self._unbegun = Sparing(
            store.standings.unbegun, is_dear=lambda it: it.looked_at >= MANY, clock=clock, max_kept=MAX_KEPT
        )
        self._summed: dict[str, _Summed] = {}
        self._numbers = Sparing(
            lambda key: store.overview.numbers(quiet_after_ms=int(key)),
            is_dear=lambda it: sum(it.attempts.values()) + sum(it.running.values()) >= MANY,
            clock=clock,
        )
        self._begun: Sparing[tuple[Begun, ReleaseMetrics]] = Sparing(
            self._count, is_dear=lambda it: sum(it[0].stages.values()) >= MANY, clock=clock, max_kept=MAX_KEPT
        )

    def standing(self, release_id: str, *, limit: int) -> ReleaseStanding:
        """Return how far a release is, showing `limit` devices at most, the unwell first; NotFoundError."""
        release = self._store.releases.release(release_id)
        unbegun, is_new = self._unbegun.get(release_id, share=SHARE)
        found = self._put_together(release, unbegun, limit)
        if found.verdict is not Verdict.OPEN and not is_new and release.enabled:
            unbegun, is_new = self._unbegun.get(release_id, share=SHARE_AT_THE_END)
            found = self._put_together(release, unbegun, limit, certain=is_new)
        return found

    def numbers(self, *, quiet_after_ms: int) -> tuple[FleetNumbers, dict[str, bool]]:
        """Return the fleet in numbers, and which webhooks are enabled."""
        enabled = {hook.name: hook.enabled for hook in self._store.webhooks.webhooks()}
        return self._numbers.get(str(quiet_after_ms), share=SHARE)[0], enabled

    def _put_together(
        self, release: ReleaseView, unbegun: Unbegun, limit: int, *, certain: bool = True
    ) -> ReleaseStanding:
        (begun, metrics), _ = self._begun.get(f"{release.release_id} {unbegun.last_attempt}", share=SHARE)
        stages, devices = self._sum_up(release.release_id, begun, unbegun, limit)
        verdict = verdict_of(
            *(stages,),
            enabled=release.enabled,
            terms=release.terms,
            rollout=begun.rollout,
            now_ms=int(self._now() * 1000),
        )
        return ReleaseStanding(
            release=release,
            metrics=metrics,
            stages=stages,
            devices=devices,
            left_out=sum(stages.values()) - len(devices),
            rollout=begun.rollout,
            verdict=verdict if certain else Verdict.OPEN,
        )

    def _sum_up(
        self, release_id: str, begun: Begun, unbegun: Unbegun, limit: int
    ) -> tuple[dict[Stage, int], tuple[DeviceProgress, ...]]:
        """Return how many devices are in each stage, and some; worked out once of what was worked out once."""
        last = self._summed.get(release_id)
        if last is not None and last[0] is begun and last[1] is unbegun and last[2] == limit:
            return last[3], last[4]
        rest = [it for device_id, it in unbegun.devices.items() if device_id not in begun.since]
        stages = dict(begun.stages)
        for device in rest:
            stages[device.stage] = stages.get(device.stage, 0) + 1
        some = heapq.nsmallest(limit, (*begun.shown, *rest), key=_unwell_first)
        devices = tuple(sorted(some, key=lambda it: it.device_id))
        if len(self._summed) >= MAX_KEPT:
            self._summed.clear()
        self._summed[release_id] = (begun, unbegun, limit, stages, devices)
        return stages, devices

    def _count(self, key: str) -> tuple[Begun, ReleaseMetrics]:
        release_id, _, after = key.partition(" ")
        begun = self._store.standings.begun(release_id, after=int(after), limit=MAX_SHOWN)
        return begun, self._store.metrics.release(release_id)


_ORDER: Final = (
    *(Stage.UNDER_WAY, Stage.ROLLED_BACK, Stage.FAILED, Stage.BLOCKED, Stage.CANCELLED),
    *(Stage.WAITING, Stage.SUCCEEDED, Stage.ALREADY),
)


def _unwell_first(device: DeviceProgress) -> tuple[int, str]:
    return _ORDER.index(device.stage), device.device_id
