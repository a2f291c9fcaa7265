"""Before anything moves: what a release would do, in numbers that an operator can hold the world to.

A preflight is a forecast (`cloud.planner`), its bytes, when it is likely to be done, and a hash over all that was
decided and over each device's verdict. The release's id follows from what is asked, because a device's place depends on
it: who asks for the same again gets the same id, and, while the world is as it was, the same hash.

When it is likely to be done, in three steps:

1. Covered: the last phase of a plan, or its ramp, covers everybody at a time that follows from the plan alone.
2. There: a device that is online is there now. One that is not has been away for a time already; how much longer is
   read off past absences: the gaps between two signs of life of the same product's devices, of those that lasted at
   least as long. Where none did, nobody can say.
3. Done: a device is done at the later of the two. Windows, holds, gates and the download's own time are not in it.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloud.guard.policy import Policy
from cloud.planner import Forecast

MAX_AWAY: Final = 2_000
"""How many devices that are away are looked at one by one; of more, as many evenly spread stand for all."""
QUANTILES: Final = (50, 90, 99)
HOUR_S: Final = 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """What would be sent: `over_the_air_bytes` to all devices together, `from_cloud_bytes` by the cloud, once for all.

    `full`, `patch` and `reuse` count devices by how they get the image. There are no patches in this version, and what
    a device holds of an image is not known before it asks: `full` is all of them, as an upper bound.
    """

    full: int
    patch: int
    reuse: int
    each_bytes: int
    over_the_air_bytes: int
    from_cloud_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """When it is likely to be done: `at_ms` maps per cent of the devices reached to a time, or null: nobody can say.

    `unknown` counts devices that are away for longer than any absence that was ever seen to end.
    """

    begins_at_ms: int
    covered_at_ms: int
    online: int
    away: int
    unknown: int
    past_absences: int
    at_ms: Mapping[str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What a release would do; `counts` are verdicts: `takes`, and the planner's reasons."""

    release_id: str
    plan_hash: str
    sentence: str
    counts: Mapping[str, int]
    bytes: Bytes
    finish: Finish


def release_id_of(asked: Mapping[str, Any]) -> str:
    """Return the id that a release asked for in these words has."""
    return f"rel-{_digest(asked)[:12]}"


def preflight(
    asked: Mapping[str, Any],
    size_bytes: int,
    told: Forecast,
    *,
    policy: Policy | None,
    absences_ms: Sequence[int],
    now_ms: int,
) -> Preflight:
    """Return what a release would do; `asked` is JSON values, with the label that comes next; `absences_ms` ascend."""
    counts = ({"takes": told.reach} if told.reach else {}) | {why.value: n for why, n in told.counts.items()}
    return Preflight(
        release_id=release_id_of(asked),
        plan_hash=plan_hash(asked, told),
        sentence=told.sentence,
        counts=counts,
        bytes=Bytes(
            full=told.reach,
            patch=0,
            reuse=0,
            each_bytes=size_bytes,
            over_the_air_bytes=told.reach * size_bytes,
            from_cloud_bytes=size_bytes if told.reach else 0,
        ),
        finish=_finish(asked, told, policy, absences_ms, now_ms),
    )


def plan_hash(asked: Mapping[str, Any], told: Forecast) -> str:
    """Return the SHA-256 of the canonical JSON of what is asked, and of each device's verdict."""
    ids = told.fleet.device_ids
    verdicts: dict[str, list[str]] = {}
    for fate in told.fates:
        verdicts.setdefault(fate.verdict, []).extend(ids[position] for position in fate.alike.positions)
    return _digest(
        {
            "asked": asked,
            "verdicts": {verdict: sorted(of) for verdict, of in verdicts.items()},
        }
    )


def what_changed(
    before: Mapping[str, Any], after: Mapping[str, Any], was: Mapping[str, int], is_now: Mapping[str, int]
) -> str:
    """Return, as a sentence's end, what is not as it was planned: what is asked, or the counts of verdicts."""
    other = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    parts = [f"{name} was {_shown(before.get(name))} and is {_shown(after.get(name))}" for name in other]
    parts += [
        f"{verdict.replace('_', ' ')} was {was.get(verdict, 0)} and is {is_now.get(verdict, 0)}"
        for verdict in sorted(was.keys() | is_now.keys())
        if was.get(verdict, 0) != is_now.get(verdict, 0)
    ]
    return "; ".join(parts) or "as many devices have each verdict as before, but they are others"


def covered_at_ms(policy: Policy | None, devices: int, begins_at_ms: int) -> int:
    """Return when the last phase of a plan covers everybody whom it ever does, if nothing stops it."""
    if policy is None:
        return begins_at_ms
    seconds, covered = 0, 0
    for number, phase in enumerate(policy.phases):
        to = covered if phase.percentage is None else phase.percentage
        more = devices * (to - covered) // 100
        seconds += max(phase.ramp_s, -(-more * HOUR_S // policy.pace_per_hour) if policy.pace_per_hour else 0)
        covered = to
        if policy.hold_back or number < len(policy.phases) - 1:
            seconds += phase.soak_s
    return begins_at_ms + 1000 * seconds


def _finish(
    asked: Mapping[str, Any], told: Forecast, policy: Policy | None, absences_ms: Sequence[int], now_ms: int
) -> Finish:
    begins = max(now_ms, int(asked.get("terms", {}).get("not_before_ms", 0)))
    covered = covered_at_ms(policy, told.reach, begins)
    online, away = 0, []
    for fate in told.fates:
        if fate.why is None and fate.alike.kind.online:
            online += len(fate.alike.positions)
        elif fate.why is None:
            away += [told.fleet.last_seen_at_ms(position) for position in fate.alike.positions]
    back = _Return(absences_ms, [None if seen is None else max(0, now_ms - seen) for seen in away])
    at_ms = {}
    for percent in QUANTILES:
        wanted = -(-told.reach * percent // 100) - online
        in_ms = back.within_ms(wanted)
        at_ms[str(percent)] = None if in_ms is None or not told.reach else max(covered, now_ms + in_ms)
    return Finish(
        begins_at_ms=begins,
        covered_at_ms=covered,
        online=online,
        away=len(away),
        unknown=back.unknown,
        past_absences=len(absences_ms),
        at_ms=at_ms,
    )


class _Return:
    """How many of the devices that are away are expected back within a time."""

    def __init__(self, absences_ms: Sequence[int], away_ms: Sequence[int | None]) -> None:
        self._absences_ms = absences_ms
        step = max(1, len(away_ms) // MAX_AWAY)
        some = away_ms[::step]
        self._weight = len(away_ms) / len(some) if some else 0.0
        longer = [(it, len(absences_ms) - bisect_right(absences_ms, it)) for it in some if it is not None]
        self._known = [(it, there) for it, there in longer if there]
        self.unknown = round((len(some) - len(self._known)) * self._weight)

    def expected(self, in_ms: int) -> float:
        """Return how many are expected back in that time: for each, the share of longer absences that had ended."""
        at = self._absences_ms
        ended = (
            (bisect_right(at, away_ms + in_ms) - bisect_right(at, away_ms)) / there for away_ms, there in self._known
        )
        return self._weight * sum(ended)

    def within_ms(self, wanted: int) -> int | None:
        """Return the time in which so many are expected back; None if that many never are."""
        if wanted <= 0:
            return 0
        low, high = 0, self._absences_ms[-1] if self._absences_ms else 0
        if self.expected(high) < wanted - 1e-6:
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.expected(middle) >= wanted - 1e-6 else (middle + 1, high)
        return low


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _shown(value: object) -> str:
    return "nothing" if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)[:80]
