"""What the cloud would know of a rehearsal: the guard's evidence, made from counts as the store makes it from rows."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from cloud.guard.evidence import Arm, Evidence, Fingerprint, HealthEvidence, Silence, Standing, StratumEvidence
from cloud.guard.guarding import soaked_at_ms
from cloud.guard.policy import CRASHES, HealthGate, Policy, SilenceGate
from cloud.simulation.chances import binomial
from cloud.simulation.cohorts import Cohort, Conduct
from cloud.simulation.coverage import covered_below
from protocol.down import NoticeRelease
from protocol.phases import Phase, Reason
from protocol.schedule import Stratum

FAILED = Fingerprint(Phase.PROVING.value, Reason.HEALTH_FAILED.value)


class Hearsay:
    """Evidence of cohorts; quietness that has nothing to do with the release is drawn by how devices come and go."""

    def __init__(self, cohorts: Sequence[Cohort], conduct: Conduct, start_ms: int) -> None:
        self._conduct = conduct
        self._cohorts = cohorts
        self._start_ms = start_ms
        self._devices = sum(len(it.places) for it in cohorts)
        self._strata: dict[Stratum, list[Cohort]] = {}
        for cohort in cohorts:
            stratum = Stratum(hardware_model=cohort.kind.hardware_model, from_version=cohort.kind.version)
            self._strata.setdefault(stratum, []).append(cohort)

    def evidence(self, policy: Policy, standing: Standing, release: NoticeRelease | None, tick: int) -> Evidence:
        """Return what the guard is to judge by at a tick."""
        phase = policy.phases[standing.phase]
        soaked_by = tick - round(phase.soak_s / self._conduct.tick_s)
        began = self._tick_of(standing.memory.opened_at_ms)
        strata = tuple(
            self._stratum(stratum, cohorts, policy, standing, tick) for stratum, cohorts in self._strata.items()
        )
        beside = any(it.lost for it in strata) and not any(
            it.proven or it.succeeded or it.under_way > it.away for it in strata
        )
        return Evidence(
            devices=self._devices,
            strata=tuple(it for it in strata if it.started),
            fresh_succeeded=sum(max(0, it.proven.by(soaked_by) - it.proven.by(began)) for it in self._cohorts),
            fresh_failed=sum(it.failed.total - it.failed.by(began) for it in self._cohorts),
            nobody_left=release is not None and not any(self._left(it, release) for it in self._cohorts),
            nobody_beside=beside and self._others_heard_since(began, tick) == 0,
            kinds=len(self._strata),
            silence=self._silence(policy, standing, tick),
            health=tuple(self._health(gate) for gate in policy.gates.health),
        )

    def _left(self, cohort: Cohort, release: NoticeRelease) -> bool:
        """Tell whether the open phase covers devices that wait, now or when its ramp has grown."""
        ramp = release.terms.ramp
        grown = covered_below(release, cohort.kind, ramp.ends_at_ms if ramp else self._start_ms)
        return bisect_left(cohort.places, grown) > cohort.begun

    def _others_heard_since(self, began: int, tick: int) -> int:
        """Return how many that have not restarted into it were heard of since a tick, as devices come and go."""
        others = sum((len(it.places) - it.restarted) * (1 - self._conduct.never) for it in self._cohorts)
        since_s = (tick - began) * self._conduct.tick_s
        return round(others * (1 - self._conduct.availability.quiet(since_s)))

    def _stratum(
        self,
        stratum: Stratum,
        cohorts: Sequence[Cohort],
        policy: Policy,
        standing: Standing,
        tick: int,
    ) -> StratumEvidence:
        soaked_by = tick - round(policy.phases[standing.phase].soak_s / self._conduct.tick_s)
        succeeded = sum(it.proven.by(soaked_by) for it in cohorts)
        failed = sum(it.failed.total for it in cohorts)
        under_way = sum(it.under_way for it in cohorts)
        quiet_s = (policy.gates.silence or SilenceGate()).quiet_after_s
        is_off = self._conduct.availability.quiet(quiet_s)
        for_good = sum(it.silent.by(tick - round(quiet_s / self._conduct.tick_s)) for it in cohorts)
        in_time = self._tick_of(soaked_at_ms(policy, standing))
        dead = sum(it.silent.by(in_time) for it in cohorts)
        took = sum(it.restarted - it.silent.total for it in cohorts) - failed
        return StratumEvidence(
            stratum=stratum,
            started=sum(it.begun for it in cohorts),
            under_way=under_way,
            on_trial=sum(it.on_trial(in_time) for it in cohorts) + max(0, dead - for_good),
            away=for_good + round((under_way - for_good) * is_off),
            lost=for_good,
            proven=sum(it.proven.total for it in cohorts) - succeeded,
            succeeded=succeeded,
            failures={FAILED: failed} if failed else {},
            quiet=for_good + round(max(0, took) * is_off),
        )

    def _silence(self, policy: Policy, standing: Standing, tick: int) -> Silence | None:
        if policy.gates.silence is None:
            return None
        quiet_s, availability = policy.gates.silence.quiet_after_s, self._conduct.availability
        through = tick - round(quiet_s / self._conduct.tick_s)
        heard = max(0, self._tick_of(standing.memory.heard_through_ms))
        if through <= heard:
            return None
        span_s = (through - heard) * self._conduct.tick_s
        heard_since = 1 - availability.quiet(quiet_s + span_s)
        goes = availability.went_quiet(span_s, quiet_s) / heard_since if heard_since else 0.0
        took, fell_silent, others = 0, 0, 0
        for it in self._cohorts:
            took += it.restarted - it.silent.total
            fell_silent += it.silent.by(through) - it.silent.by(heard)
            others += round((len(it.places) - it.restarted) * (1 - self._conduct.never))
        took_at_risk, others_at_risk = round(took * heard_since), round(others * heard_since)
        chance = self._cohorts[0].chance
        return Silence(
            through_ms=self._start_ms + round(through * self._conduct.tick_s * 1000),
            took=Arm(at_risk=took_at_risk + fell_silent, went_quiet=binomial(took_at_risk, goes, chance) + fell_silent),
            control=Arm(at_risk=others_at_risk, went_quiet=binomial(others_at_risk, goes, chance)),
        )

    def _health(self, gate: HealthGate) -> HealthEvidence:
        took = sum(it.proven.total for it in self._cohorts)
        crashing = sum(it.crashed.total for it in self._cohorts) if gate.gauge == CRASHES else 0
        others = sum(len(it.places) for it in self._cohorts) - took
        return HealthEvidence(reporting=took, beyond=crashing, control_reporting=others)

    def _tick_of(self, at_ms: int) -> int:
        return round((at_ms - self._start_ms) / 1000 / self._conduct.tick_s)
