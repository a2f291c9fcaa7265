"""Gates: what of the evidence stops a rollout, and whom; each finding is a sentence with the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cloud.guard.evidence import Evidence, Fingerprint, HealthEvidence, Memory, Standing, StratumEvidence
from cloud.guard.policy import FailureGate, Gates, HealthGate, Response, SilenceGate
from cloud.guard.sequential import (
    MILLION,
    add_silence,
    begins_at,
    log_bound,
    more_log_e,
    rate_log_e,
    silence_evidence,
    silence_log_e,
    to_millionths,
)
from protocol.schedule import MAX_STRATA, Stratum

ADVANCE_MS: Final = 5 * 60_000
"""How much time without anybody's going quiet is remembered at once."""
MAX_CREDIT: Final = 1000
MAX_NAMED: Final = 3
MIN_OTHERS: Final = 20
"""How many others there have to be, or half of those there were, to be held against now and not as remembered."""
_NONE: Final = HealthEvidence()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a gate found. `strata` are those to be stopped; none if it is the whole rollout."""

    gate: str
    then: Response
    why: str
    strata: tuple[Stratum, ...] = ()


@dataclass(frozen=True, slots=True)
class _Count:
    """Devices that began, and those that failed, of one stratum or of several."""

    started: int = 0
    failed: int = 0
    good: int = 0

    def log_e(self, gate: FailureGate) -> float:
        return rate_log_e(self.started, self.failed, gate.tolerable_permille, gate.intolerable_permille)


def find(gates: Gates, standing: Standing, evidence: Evidence) -> tuple[Finding, ...]:
    """Return what the gates find now; the standing's memory has heard what `evidence.silence` tells (`hear`)."""
    memory = standing.memory
    found = [
        judge_failures(gates.failures, standing, evidence),
        judge_silence(gates.silence, memory, evidence) if gates.silence else None,
        *(judge_health(*it) for it in _health(gates, memory, evidence)),
    ]
    return tuple(finding for finding in found if finding is not None)


def hear(gates: Gates, memory: Memory, evidence: Evidence) -> Memory:
    """Return the memory with what `evidence.silence` adds to it."""
    gate, silence = gates.silence, evidence.silence
    if gate is None or silence is None or silence.through_ms <= memory.heard_through_ms:
        return memory
    took, control = silence.took, silence.control
    if not took.went_quiet and not control.went_quiet:
        long_ago = silence.through_ms - memory.heard_through_ms >= ADVANCE_MS
        return replace(memory, heard_through_ms=silence.through_ms) if long_ago else memory
    increment = silence_log_e(took, control, gate.intolerable_ratio_percent)
    before = memory.silence_log_e / MILLION if memory.silence_looks else None
    log_a = add_silence(before, memory.silence_looks, increment)
    is_fresh = before is None or before < begins_at(memory.silence_looks)
    return replace(
        memory,
        heard_through_ms=silence.through_ms,
        silence_log_e=max(to_millionths(log_a), -MAX_CREDIT * MILLION),
        silence_looks=memory.silence_looks + 1,
        took_quiet=took.went_quiet + (0 if is_fresh else memory.took_quiet),
        control_quiet=control.went_quiet + (0 if is_fresh else memory.control_quiet),
    )


def judge_failures(gate: FailureGate, standing: Standing, evidence: Evidence) -> Finding | None:
    """Return a finding for the strata that fail while the others are content, or for all.

    Three families of tests share the probability of a false stop: half of it has that of all devices, a quarter those
    of the strata, and a quarter those of the devices of each later phase: what went well before is no credit for them.
    What begins after the last phase is as one phase more.
    """
    memory = standing.memory
    going = [it for it in evidence.strata if not any(_within(it.stratum, stopped) for stopped in memory.stopped)]
    counts = {it.stratum: _count(it, memory) for it in going}
    total = _sum(counts.values())
    bound = log_bound(gate.false_stop_permille, 2)
    picked = _pick(gate, counts, evidence.kinds) if evidence.kinds > 1 else ()
    rest = _sum(count for stratum, count in counts.items() if not any(_within(stratum, it) for it in picked))
    can_stop = len(memory.stopped) + len(picked) <= MAX_STRATA
    if picked and can_stop and _is_content(gate, rest, total.failed - rest.failed) and not _is_over_cap(gate, rest):
        why = "; ".join(
            f"{stratum}: {_said(gate, [it for it in going if _within(it.stratum, stratum)], memory)}"
            for stratum in picked
        )
        others = f"of the others {rest.failed} of {rest.started} failed, so they go on"
        return Finding(gate="failures", then=gate.then, why=f"{why}; {others}", strata=picked)
    if picked or total.log_e(gate) >= bound:
        return Finding(gate="failures", then=gate.then, why=_said(gate, going, memory))
    fresh = _Count(started=sum(it.fresh_started for it in going), failed=sum(it.fresh_failed for it in going))
    later = standing.phase + standing.ran_its_course
    if later and fresh.log_e(gate) >= log_bound(gate.false_stop_permille, 4 * later * (later + 1)):
        since = "after its last phase" if standing.ran_its_course else f"in phase {later + 1}"
        count = f"{fresh.failed} of {fresh.started} devices that began it {since} failed"
        return Finding(gate="failures", then=gate.then, why=f"{count}{_reasons(going, fresh)}; {_rates(gate)}")
    if _is_over_cap(gate, total):
        count = f"{total.failed} of {total.started} devices that began it failed{_reasons(going, total)}"
        why = f"{count}, at most {gate.max_failures} may"
        return Finding(gate="failures", then=gate.then, why=why)
    return None


def judge_silence(gate: SilenceGate, memory: Memory, evidence: Evidence) -> Finding | None:
    """Return a finding if those that took it go quiet more often than those that did not, or are too many."""
    quiet = evidence.quiet - memory.quiet_seen
    if gate.max_quiet is not None and quiet > gate.max_quiet:
        why = f"{quiet} devices took it and were not heard of for {gate.quiet_after_s} s, at most {gate.max_quiet} may"
        return Finding(gate="silence", then=gate.then, why=why)
    log_e = silence_evidence(memory.silence_log_e / MILLION, memory.silence_looks)
    if log_e < log_bound(gate.false_stop_permille):
        return None
    why = (
        f"{memory.took_quiet} devices that took it went quiet for more than {gate.quiet_after_s} s, and "
        f"{memory.control_quiet} of those that did not"
    )
    silence = evidence.silence
    if silence is not None:
        why += f" (of {silence.took.at_risk} and {silence.control.at_risk} that were there last)"
    return Finding(gate="silence", then=gate.then, why=why)


def remember(gates: Gates, memory: Memory, evidence: Evidence) -> Memory:
    """Return the memory with the most others that ever reported what each health gate asks for."""
    known = (*memory.health_others, *(HealthEvidence() for _ in gates.health))
    most = tuple(
        HealthEvidence(control_reporting=it.control_reporting, control_beyond=it.control_beyond)
        if it.control_reporting > before.control_reporting
        else before
        for before, it in zip(known, evidence.health, strict=False)
    )
    return memory if most in (memory.health_others, known[: len(most)]) else replace(memory, health_others=most)


def judge_health(
    gate: HealthGate, seen: HealthEvidence, health: HealthEvidence, remembered: HealthEvidence = _NONE
) -> Finding | None:
    """Return a finding if too many that run it are beyond the bound, and more than of the others.

    When few others are left, `remembered` are held against: the most that there ever were. Others of whom none ever was
    beyond the bound cast no doubt on it; where some are, the release has to be worse than they.
    """
    reporting, beyond = max(0, health.reporting - seen.reporting), max(0, health.beyond - seen.beyond)
    log_e = rate_log_e(reporting, min(beyond, reporting), gate.tolerable_permille, gate.intolerable_permille)
    is_few = health.control_reporting < min(MIN_OTHERS, -(-remembered.control_reporting // 2))
    held = remembered if is_few else health
    others, others_beyond = held.control_reporting, held.control_beyond
    bound = log_bound(gate.false_stop_permille)
    worse = more_log_e(reporting, min(beyond, reporting), others, others_beyond)
    is_doubted = others_beyond > 0 or remembered.control_beyond > 0
    if log_e < bound or (is_doubted and worse < bound):
        return None
    why = (
        f"{beyond} of {reporting} devices that run it report {gate}, and {others_beyond} of {others} others"
        f"{' before they took it' if is_few else ''}; {_rates(gate)}"
    )
    return Finding(gate=f"health {gate.gauge or 'crashes'}", then=gate.then, why=why)


def _health(
    gates: Gates, memory: Memory, evidence: Evidence
) -> Iterable[tuple[HealthGate, HealthEvidence, HealthEvidence, HealthEvidence]]:
    none = tuple(HealthEvidence() for _ in gates.health)
    seen, others = (*memory.health_seen, *none), (*memory.health_others, *none)
    return zip(gates.health, seen, evidence.health, others, strict=False)


def _pick(gate: FailureGate, counts: dict[Stratum, _Count], kinds: int) -> tuple[Stratum, ...]:
    """Return the strata whose own test stops, the strongest first, each without those before it.

    A stratum may be one model on one version, all of a model, or all on a version: three tests for each kind at most,
    which share a quarter of the probability of a false stop.
    """
    bound = log_bound(gate.false_stop_permille, 4 * 3 * kinds)
    left, picked = dict(counts), []
    while left:
        candidates = {
            candidate: _sum(count for stratum, count in left.items() if _within(stratum, candidate))
            for stratum in left
            for candidate in (
                stratum,
                Stratum(hardware_model=stratum.hardware_model),
                Stratum(from_version=stratum.from_version),
            )
            if candidate != Stratum()
        }
        if not candidates:
            break
        strongest = max(candidates, key=lambda it: (candidates[it].log_e(gate), _narrowness(it), str(it)))
        if candidates[strongest].log_e(gate) < bound:
            break
        picked.append(strongest)
        left = {stratum: count for stratum, count in left.items() if not _within(stratum, strongest)}
    return tuple(picked)


def _within(stratum: Stratum, other: Stratum) -> bool:
    return other.contains(stratum.hardware_model or "", stratum.from_version)


def _narrowness(stratum: Stratum) -> int:
    return (stratum.hardware_model is not None) + (stratum.from_version is not None)


def _count(it: StratumEvidence, memory: Memory) -> _Count:
    seen_started = sum(seen.started for seen in memory.seen if seen.stratum == it.stratum)
    seen_failed = sum(seen.failed for seen in memory.seen if seen.stratum == it.stratum)
    failed = max(0, it.failed - seen_failed)
    started = max(failed, it.started - it.transient - seen_started)
    return _Count(started=started, failed=failed, good=it.proven + it.succeeded)


def _sum(counts: Iterable[_Count]) -> _Count:
    known = list(counts)
    return _Count(*(sum(getattr(it, name) for it in known) for name in ("started", "failed", "good")))


def _is_content(gate: FailureGate, rest: _Count, failed: int) -> bool:
    """Tell whether the others show that it is not the release: by a success, or as many that began without trouble."""
    return rest.log_e(gate) < 0 and (rest.good > 0 or rest.started >= failed)


def _is_over_cap(gate: FailureGate, count: _Count) -> bool:
    return gate.max_failures is not None and count.failed > gate.max_failures


def _said(gate: FailureGate, strata: Sequence[StratumEvidence], memory: Memory) -> str:
    count = _sum(_count(it, memory) for it in strata)
    return f"{count.failed} of {count.started} devices that began it failed{_reasons(strata, count)}; {_rates(gate)}"


def _reasons(strata: Iterable[StratumEvidence], count: _Count) -> str:
    """Return why devices failed; with those before a resumption, which do not count any more, that is said."""
    found: Counter[Fingerprint] = Counter()
    for it in strata:
        found.update(it.failures)
    words = [f"{it.reason} in {it.phase}: {count}".replace("_", " ") for it, count in found.most_common(MAX_NAMED)]
    in_all = "in all, " if found.total() > count.failed else ""
    return f" ({in_all}{', '.join(words)})" if words else ""


def _rates(gate: FailureGate | HealthGate) -> str:
    return f"{_per_cent(gate.tolerable_permille)} are tolerable, and {_per_cent(gate.intolerable_permille)} are not"


def _per_cent(permille: int) -> str:
    return f"{permille / 10:g} %"
