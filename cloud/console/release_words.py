"""A release's plan, gates and terms in words, with what is known of each."""

from dataclasses import dataclass
from typing import Final

from cloud.api.rollouts import RolloutPage
from cloud.console.templating import grouped, lasting
from cloud.guard.policy import PER_MILLE, FailureGate, HealthGate, Phase, Response, SilenceGate
from protocol.schedule import DAY_MINUTES, Terms, Window

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseWords:
    """One step of a plan; `kind` is done, now, stopped or nothing."""

    covers: str
    soak: str
    kind: str
    began_at_ms: int | None = None
    soaked_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateWords:
    """What a gate watches, when and how it stops, and what it knows."""

    name: str
    stops: str
    then: str
    evidence: str
    share: float | None = None
    """How near it is to stopping, of 1, where that can be said."""


def phases_of(page: RolloutPage) -> tuple[PhaseWords, ...]:
    """Return the phases of a plan as they stand."""
    is_over = page.status in ("completed", "overtaken")
    found = []
    for number, phase in enumerate(page.phases, start=1):
        kind = "done" if is_over or number < page.phase else ""
        if number == page.phase and not is_over and page.status not in ("awaiting_approval", "scheduled"):
            kind = "now" if page.status == "running" else "stopped"
        is_open = number == page.phase and not is_over
        found.append(
            PhaseWords(
                covers=covers_words(phase, page.release.channel.group),
                soak=soak_words(phase),
                kind=kind,
                began_at_ms=page.phase_began_at_ms if is_open else None,
                soaked_at_ms=page.soaked_at_ms if kind == "now" else None,
            )
        )
    return tuple(found)


def covers_words(phase: Phase, group: str) -> str:
    """Return whom a phase covers."""
    if phase.group is not None:
        return f"The devices of {phase.group}"
    return f"{phase.percentage} % of {group}" if phase.percentage != 100 else f"All of {group}"


def soak_words(phase: Phase) -> str:
    """Return how a phase grows and soaks."""
    grows = f"grows for {lasting(phase.ramp_s)}, " if phase.ramp_s else ""
    return f"{grows}soaks for {lasting(phase.soak_s)}" if phase.soak_s else f"{grows}no soak"


def gates_of(page: RolloutPage) -> tuple[GateWords, ...]:
    """Return what watches a rollout, with its evidence."""
    gates = page.gates
    found = [_failures(gates.failures, page)]
    if gates.silence is not None:
        found.append(_silence(gates.silence, page))
    for number, gate in enumerate(gates.health):
        found.append(_health(gate, page, number))
    return tuple(found)


def terms_of(terms: Terms) -> tuple[tuple[str, str], ...]:
    """Return the conditions of a release that are no times: each a name and what it means."""
    found = []
    if terms.windows:
        found.append(("Windows", "; ".join(map(window_words, terms.windows)) + ", in each device's own time"))
    if terms.attention:
        declined = "who may decline" if terms.optional else "who cannot decline"
        found.append(("Attention", f"somebody at the device is asked first, {declined}"))
    if terms.base_first:
        found.append(("Base first", "devices take nothing else before this"))
    return tuple(found)


def window_words(window: Window) -> str:
    """Return a maintenance window as it is written."""
    ends = (window.start_minute + window.duration_minutes) % DAY_MINUTES
    days = ", ".join(DAYS[day] for day in window.days) if window.days else "every day"
    return f"{days} {_clock(window.start_minute)} to {_clock(ends) if ends else '24:00'}"


def then_words(then: Response) -> str:
    """Return what a gate does."""
    return "disables the release" if then is Response.ROLL_BACK else "pauses the release"


def rate(permille: int) -> str:
    """Return a rate as a percentage."""
    return f"{permille * 100 / PER_MILLE:g} %"


def _failures(gate: FailureGate, page: RolloutPage) -> GateWords:
    failed = sum(it.failed for it in page.strata)
    judged = failed + sum(it.succeeded + it.proven for it in page.strata)
    cap = f", or at {grouped(gate.max_failures + 1)} failures" if gate.max_failures is not None else ""
    share = None
    if gate.max_failures is not None:
        share = min(1.0, failed / (gate.max_failures + 1))
    return GateWords(
        name="Failures",
        stops=f"{rate(gate.tolerable_permille)} is tolerable, {rate(gate.intolerable_permille)} is not{cap}",
        then=then_words(gate.then),
        evidence=f"{grouped(failed)} of {grouped(judged)} that came to an end failed",
        share=share,
    )


def _silence(gate: SilenceGate, page: RolloutPage) -> GateWords:
    ratio = f"{gate.intolerable_ratio_percent / 100:g} times as often as others"
    cap = f", or {grouped(gate.max_quiet + 1)} of them at all" if gate.max_quiet is not None else ""
    said, share = "nothing is known yet", None
    if page.silence is not None:
        known = page.silence
        said = (
            f"{grouped(known.took_quiet)} that took it went quiet, {grouped(known.others_quiet)} others; "
            f"evidence {known.evidence:.1f}, stops at {known.bound:.1f}"
        )
        share = min(1.0, max(0.0, known.evidence / known.bound)) if known.bound else None
    return GateWords(
        name="Silence",
        stops=f"devices that took it go quiet for {lasting(gate.quiet_after_s)}, {ratio}{cap}",
        then=then_words(gate.then),
        evidence=said,
        share=share,
    )


def _health(gate: HealthGate, page: RolloutPage, number: int) -> GateWords:
    said = "nothing is known yet"
    if number < len(page.health):
        known = page.health[number]
        said = f"{grouped(known.beyond)} of {grouped(known.reporting)} that run it are beyond"
        said += f"; {grouped(known.control_beyond)} of {grouped(known.control_reporting)} others"
    return GateWords(
        name=(gate.gauge or "Crashes").capitalize() if not gate.gauge else gate.gauge,
        stops=f"{gate}: {rate(gate.tolerable_permille)} is tolerable, {rate(gate.intolerable_permille)} is not",
        then=then_words(gate.then),
        evidence=said,
    )


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
