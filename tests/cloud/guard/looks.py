"""One look of the guard, with evidence and time as data."""

from cloud.guard.evidence import Evidence, Fingerprint, Standing, StratumEvidence
from cloud.guard.guarding import Verdict, begin, guard
from cloud.guard.policy import Phase, Policy
from protocol.schedule import Stratum

SOAK_MS = 600_000
POLICY = Policy(phases=(Phase(percentage=10, soak_s=600), Phase(percentage=100, soak_s=600)))
PI4 = Stratum(hardware_model="pi4", from_version="1.0.0")
PI3 = Stratum(hardware_model="pi3", from_version="1.0.0")
CRASH = Fingerprint("proving", "health_failed")


def of(stratum: Stratum = PI4, *, failed: int = 0, **counts: int) -> StratumEvidence:
    failures = {CRASH: failed} if failed else {}
    began = failed + sum(counts.get(name, 0) for name in ("under_way", "proven", "succeeded", "transient", "moved_on"))
    return StratumEvidence(stratum=stratum, started=began, failures=failures, **counts)


def seen(*strata: StratumEvidence, **more: object) -> Evidence:
    fresh = {
        "fresh_succeeded": sum(it.succeeded for it in strata),
        "fresh_failed": sum(it.failed for it in strata),
        "devices": 100,
        "kinds": len(strata) or 1,
    }
    return Evidence(strata=strata, **(fresh | more))  # type: ignore[arg-type]


def look(
    evidence: Evidence, policy: Policy = POLICY, at_ms: int = SOAK_MS, standing: Standing | None = None
) -> Verdict:
    return guard(policy, standing or begin(policy, 0, 100), evidence, at_ms)
