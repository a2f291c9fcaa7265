"""What an operator sets for a rollout: the phases it goes through, and the gates that watch it.

Rates are whole numbers per mille, so that a policy is the same bytes wherever it is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from protocol.codec import to_plain
from protocol.errors import MessageError
from protocol.identity import check_id
from protocol.schedule import MAX_CANARIES, Terms
from protocol.values import check_few, check_number

MAX_PHASES: Final = 32
MAX_HEALTH_GATES: Final = 8
MAX_SECONDS: Final = 10 * 365 * 86_400
PER_MILLE: Final = 1000
CRASHES: Final = ""
"""The name that a health gate gives to crashes; any other is that of a gauge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One step of a plan: the devices of `group`, or a `percentage` of the release's group, and how long they soak.

    Coverage grows to the percentage at once, or in a straight line over `ramp_s`. The soak counts from the end of that.
    """

    percentage: int | None = None
    group: str | None = None
    soak_s: int = 0
    ramp_s: int = 0

    def __post_init__(self) -> None:
        if (self.percentage is None) == (self.group is None):
            raise MessageError("a phase has a percentage or a group")
        if self.percentage is not None:
            check_number(self.percentage, "percentage", 1, 100)
        if self.group is not None:
            check_id(self.group, "group")
            if self.ramp_s:
                raise MessageError("a group has no ramp: its devices are covered at once")
        check_number(self.soak_s, "soak_s", 0, MAX_SECONDS)
        check_number(self.ramp_s, "ramp_s", 0, MAX_SECONDS)

    def __str__(self) -> str:
        return f"{self.percentage} %" if self.percentage is not None else f"group {self.group}"


class Response(StrEnum):
    """What a gate does."""

    PAUSE = "pause"
    """Nobody further takes the release; who has it keeps it."""
    ROLL_BACK = "roll_back"
    """The release is disabled: devices return to the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGate:
    """Stops when failures are as frequent as is intolerable: a sequential test, and a hard cap.

    A release whose devices fail at `tolerable_permille` or less is stopped with a probability of
    `false_stop_permille` at most, however long it is watched; `max_failures` failures are let be, one more is not.
    """

    tolerable_permille: int = 20
    intolerable_permille: int = 200
    false_stop_permille: int = 10
    max_failures: int | None = None
    then: Response = Response.PAUSE

    def __post_init__(self) -> None:
        check_number(self.tolerable_permille, "tolerable_permille", 1, PER_MILLE - 2)
        check_number(self.intolerable_permille, "intolerable_permille", self.tolerable_permille + 1, PER_MILLE - 1)
        check_number(self.false_stop_permille, "false_stop_permille", 1, PER_MILLE // 2)
        if self.max_failures is not None:
            check_number(self.max_failures, "max_failures")


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceGate:
    """Stops when devices go quiet after they took it `intolerable_ratio_percent` / 100 times as often as others do.

    A release that changes nothing is stopped with a probability of `false_stop_permille` at most. `max_quiet` devices
    that took it may be quiet, whatever the others do; one more may not.
    """

    quiet_after_s: int = 3600
    intolerable_ratio_percent: int = 300
    false_stop_permille: int = 10
    max_quiet: int | None = None
    then: Response = Response.PAUSE

    def __post_init__(self) -> None:
        check_number(self.quiet_after_s, "quiet_after_s", 1, MAX_SECONDS)
        check_number(self.intolerable_ratio_percent, "intolerable_ratio_percent", 101, 100_000)
        check_number(self.false_stop_permille, "false_stop_permille", 1, PER_MILLE // 2)
        if self.max_quiet is not None:
            check_number(self.max_quiet, "max_quiet")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthGate:
    """Stops when too many of the devices that run it report more crashes, or a gauge, beyond a bound.

    `gauge` is empty for crashes. A device is beyond the bound above `at_most`, or below `at_least`. The rates are those
    of such devices.
    """

    gauge: str = CRASHES
    at_most: int | None = None
    at_least: int | None = None
    tolerable_permille: int = 20
    intolerable_permille: int = 200
    false_stop_permille: int = 10
    then: Response = Response.PAUSE

    def __post_init__(self) -> None:
        if self.gauge:
            check_id(self.gauge, "gauge")
        if (self.at_most is None) == (self.at_least is None):
            raise MessageError("a health gate has a bound: at_most or at_least")
        check_number(self.tolerable_permille, "tolerable_permille", 1, PER_MILLE - 2)
        check_number(self.intolerable_permille, "intolerable_permille", self.tolerable_permille + 1, PER_MILLE - 1)
        check_number(self.false_stop_permille, "false_stop_permille", 1, PER_MILLE // 2)

    def __str__(self) -> str:
        bound = f"above {self.at_most}" if self.at_most is not None else f"below {self.at_least}"
        return f"{self.gauge or 'crashes'} {bound}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What watches a rollout, in every phase."""

    failures: FailureGate = field(default_factory=FailureGate)
    silence: SilenceGate | None = field(default_factory=SilenceGate)
    health: tuple[HealthGate, ...] = ()

    def __post_init__(self) -> None:
        check_few(self.health, "health", MAX_HEALTH_GATES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A rollout as it was decided.

    `terms` are the conditions that do not change with the phases: not_before_ms, windows, deadline_ms, attention,
    optional, base_first. `pace_per_hour` is how many devices may be covered in an hour, and stretches every phase that
    has a percentage into a ramp. `hold_back` per cent are covered only when the last phase is over, and are the group
    that the others are held against. `approvals` others than who made it have to agree before anything moves.
    `min_succeeded` devices have to have soaked before a phase is over.
    """

    phases: tuple[Phase, ...] = (Phase(percentage=100),)
    pace_per_hour: int | None = None
    hold_back: int = 0
    gates: Gates = field(default_factory=Gates)
    approvals: int = 0
    min_succeeded: int = 1
    terms: Terms = field(default_factory=Terms)

    def __post_init__(self) -> None:
        check_few(self.phases, "phases", MAX_PHASES)
        if not self.phases:
            raise MessageError("a plan has a phase at least")
        if sum(phase.group is not None for phase in self.phases) > MAX_CANARIES:
            raise MessageError(f"a plan has {MAX_CANARIES} phases by group at most")
        percentages = [phase.percentage for phase in self.phases if phase.percentage is not None]
        if percentages != sorted(set(percentages)):
            raise MessageError("the percentages of a plan rise from phase to phase")
        if self.pace_per_hour is not None:
            check_number(self.pace_per_hour, "pace_per_hour", 1)
            if any(phase.ramp_s for phase in self.phases):
                raise MessageError("a pace makes ramps of its own: give ramps, or a pace")
        check_number(self.hold_back, "hold_back", 0, 50)
        check_number(self.approvals, "approvals", 0, 16)
        check_number(self.min_succeeded, "min_succeeded", 1)
        set_by_phases = (self.terms.canaries, self.terms.ramp, self.terms.stopped)
        if any(set_by_phases) or self.terms.paused or self.terms.retried_at:
            raise MessageError("terms of a plan say when and who is asked; who goes first is said by its phases")


def plain(policy: Policy) -> dict[str, Any]:
    """Return a policy as JSON that `protocol.codec.structure` reads back: silence that is not watched is null."""
    found: dict[str, Any] = to_plain(policy)
    if policy.gates.silence is None:
        found["gates"]["silence"] = None
    return found
