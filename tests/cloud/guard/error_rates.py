"""How often the gates err, by simulation with a fixed seed: `python -m tests.cloud.guard.error_rates` prints it.

A release is simulated as the guard sees it: looks at a fleet of devices that begin, fail, succeed and go quiet, by a
plan of three phases. Failures are told at once and successes later, as in life: that must stop no good release.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from cloud.guard.evidence import (
    Arm,
    Evidence,
    Fingerprint,
    HealthEvidence,
    Silence,
    Standing,
    Status,
    StratumEvidence,
)
from cloud.guard.gates import hear, judge_health, judge_silence, remember
from cloud.guard.guarding import begin, coverage, guard
from cloud.guard.policy import Gates, HealthGate, Phase, Policy, SilenceGate
from protocol.schedule import Stratum

T = TypeVar("T")
SEED: Final = 7
FIVE_DAYS: Final = 5 * 24
MINUTE_MS = 60_000
SOAK_MINUTES, TAKE_MINUTES = 30, 5
KINDS = tuple(
    Stratum(hardware_model=model, from_version=version) for model in ("pi3", "pi4") for version in ("1.0.0", "1.1.0")
)
PLAN = Policy(
    phases=tuple(Phase(percentage=percentage, soak_s=60 * SOAK_MINUTES) for percentage in (5, 25, 100)),
    gates=Gates(silence=None),
)


@dataclass
class Told:
    """A device that began: when, its kind, whether it fails, and when that is told."""

    kind: Stratum
    begun: int
    fails: bool
    settles: int


@dataclass(frozen=True)
class Course:
    """How a rollout went: whether a gate stopped all of it, or strata, and how many devices failed until then."""

    stopped: bool
    strata: tuple[Stratum, ...]
    failed: int
    began: int
    completed: bool


def run(chance: random.Random, devices: int, failing: Callable[[Stratum], float], policy: Policy = PLAN) -> Course:
    """Roll a release out to a fleet; each device fails with the probability of its kind."""
    kinds = [chance.choice(KINDS) for _ in range(devices)]
    told: list[Told] = []
    standing, minute = begin(policy, 0, devices), 0
    while standing.status is Status.RUNNING and minute < 600:
        covered = devices * coverage(policy, standing).percentage // 100
        for kind in kinds[len(told) : covered]:
            fails = chance.random() < failing(kind) and not any(
                it.contains(kind.hardware_model or "", kind.from_version) for it in standing.memory.stopped
            )
            takes = chance.randrange(1, TAKE_MINUTES) if fails else TAKE_MINUTES + chance.randrange(TAKE_MINUTES)
            told.append(Told(kind, minute, fails, minute + takes))
        minute += 1
        standing = guard(policy, standing, evidence(told, devices, standing, minute), minute * MINUTE_MS).standing
    return Course(
        stopped=standing.status is Status.STOPPED_BY_GATE,
        strata=standing.memory.stopped,
        failed=sum(it.fails and it.settles <= minute for it in told),
        began=len(told),
        completed=standing.status is Status.COMPLETED,
    )


def evidence(told: list[Told], devices: int, standing: Standing, minute: int) -> Evidence:
    """What is known of a simulated fleet at one time."""
    opened, watched = (at // MINUTE_MS for at in (standing.memory.opened_at_ms, standing.memory.watched_from_ms))
    numbers: dict[Stratum, Counter[str]] = {kind: Counter() for kind in KINDS}
    fresh: Counter[str] = Counter()
    for it in told:
        what = "under_way" if it.settles > minute else "failed" if it.fails else "succeeded"
        if what == "succeeded" and it.settles + SOAK_MINUTES > minute:
            what = "proven"
        numbers[it.kind][what] += 1
        numbers[it.kind]["started"] += 1
        is_new = it.begun >= watched
        numbers[it.kind]["fresh_started"] += is_new
        numbers[it.kind]["fresh_failed"] += is_new and what == "failed"
        fresh[what] += it.settles >= opened
    strata = tuple(
        StratumEvidence(
            stratum=kind,
            failures={Fingerprint("proving", "health_failed"): found["failed"]} if found["failed"] else {},
            **{name: count for name, count in found.items() if name != "failed"},
        )
        for kind, found in numbers.items()
    )
    return Evidence(
        devices=devices,
        strata=strata,
        kinds=len(KINDS),
        fresh_succeeded=fresh["succeeded"],
        fresh_failed=fresh["failed"],
    )


def silent(
    chance: random.Random, devices: int, ratio: float, *, nights: bool, begins: int = 0, looks: int = 200
) -> int | None:
    """Return at which look the gate stops, or None. Devices go quiet and come back; `ratio` as often if they took it.

    They do from look `begins` on. At night, every 24th look, half of all are switched off, whether they took it or not.
    """
    gate = SilenceGate()
    memory, took, other = begin(PLAN, 0, devices).memory, devices // 10, devices - devices // 10
    for look in range(1, looks + 1):
        hazard = 0.5 if nights and look % 24 == 0 else 0.002
        gone = sum(
            chance.random() < min(1.0, hazard * (ratio if hazard < 0.5 and look > begins else 1.0)) for _ in range(took)
        )
        others_gone = sum(chance.random() < hazard for _ in range(other))
        seen = Silence(
            through_ms=look, took=Arm(at_risk=took, went_quiet=gone), control=Arm(at_risk=other, went_quiet=others_gone)
        )
        memory = hear(Gates(silence=gate), memory, Evidence(silence=seen))
        if judge_silence(gate, memory, Evidence(silence=seen)) is not None:
            return look
    return None


def unhealthy(chance: random.Random, devices: int, share: float) -> bool:
    """Tell whether a health gate stops a release with such a share of devices beyond its bound, one after the other."""
    gate, beyond = HealthGate(at_most=2), 0
    for reporting in range(1, devices + 1):
        beyond += chance.random() < share
        health = HealthEvidence(reporting=reporting, beyond=beyond, control_reporting=devices)
        if judge_health(gate, HealthEvidence(), health) is not None:
            return True
    return False


def alike(chance: random.Random, devices: int, share: float) -> bool:
    """Tell whether a health gate stops a release that changes nothing: such a share is beyond its bound on both."""
    gates = Gates(health=(HealthGate(at_most=2),))
    beyond, memory = [chance.random() < share for _ in range(devices)], begin(PLAN, 0, devices).memory
    for took in range(devices + 1):
        counts = HealthEvidence(
            reporting=took,
            beyond=sum(beyond[:took]),
            control_reporting=devices - took,
            control_beyond=sum(beyond[took:]),
        )
        memory = remember(gates, memory, Evidence(health=(counts,)))
        if judge_health(gates.health[0], HealthEvidence(), counts, memory.health_others[0]) is not None:
            return True
    return False


def table(runs: int) -> Iterator[str]:
    """Return the lines of the table in docs/rollouts.md."""
    for name, rate in (("1 %", 0.01), ("2 %", 0.02), ("10 %", 0.1), ("20 %", 0.2), ("100 %", 1.0)):
        chance = random.Random(SEED)
        courses = [run(chance, 1000, lambda _: rate) for _ in range(runs)]  # noqa: B023
        stopped = _share(courses, lambda it: it.stopped or bool(it.strata))
        first = _share(courses, lambda it: it.stopped and it.began <= 50)
        failed = sorted(it.failed for it in courses)
        broke = f"failed {failed[runs // 2]} (at most {failed[-1]})"
        yield f"{name} fail: stopped {stopped}, in the first phase {first}, {broke}"
    chance = random.Random(SEED)
    one = [run(chance, 1000, lambda kind: 0.6 if kind == KINDS[0] else 0.01) for _ in range(runs)]
    alone, all_ = (
        _share(one, lambda it: it.strata == (KINDS[0],) and not it.stopped),
        _share(one, lambda it: it.stopped),
    )
    yield f"60 % of one kind of four fail, 1 % of the others: it alone is stopped {alone}, all are {all_}"
    for ratio, nights in ((1.0, False), (1.0, True), (3.0, False), (10.0, False), (10.0, True)):
        chance, begins = random.Random(SEED), FIVE_DAYS if nights else 0
        looks = [silent(chance, 500, ratio, nights=nights, begins=begins) for _ in range(runs)]
        found = sorted(it - begins for it in looks if it is not None)
        median = found[len(found) // 2] if found else "-"
        stopped = _share(looks, lambda it: it is not None)
        yield f"quiet {ratio:g} times as often, nights {nights}: stopped {stopped}, look {median} of the trouble"
    for share in (0.02, 0.1, 0.2):
        chance = random.Random(SEED)
        stopped = _share([unhealthy(chance, 300, share) for _ in range(runs)], bool)
        yield f"{share:.0%} beyond a bound: stopped {stopped}"
    for share in (0.1, 0.3, 0.7):
        chance = random.Random(SEED)
        stopped = _share([alike(chance, 100, share) for _ in range(runs)], bool)
        yield f"{share:.0%} beyond a bound, on old and new alike: stopped {stopped}"


def _share(found: Sequence[T], which: Callable[[T], bool]) -> str:
    return f"{100 * sum(which(it) for it in found) / len(found):.1f} %"


if __name__ == "__main__":
    for line in table(int(sys.argv[1]) if sys.argv[1:] else 500):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
