"""What is known of a rollout at one time: how it stands, and what devices did since it began. Counts, never devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from protocol.schedule import Stratum


class Status(StrEnum):
    """How a rollout stands."""

    AWAITING_APPROVAL = "awaiting_approval"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    """By an operator."""
    STOPPED_BY_GATE = "stopped_by_gate"
    """Paused or rolled back by a gate; `Memory.rolled_back` tells which."""
    COMPLETED = "completed"
    ABORTED = "aborted"
    OVERTAKEN = "overtaken"
    """A newer release reaches everybody that this one could still reach."""


OPEN = frozenset({Status.AWAITING_APPROVAL, Status.SCHEDULED, Status.RUNNING, Status.PAUSED, Status.STOPPED_BY_GATE})
"""Those in which a rollout may still go on."""
GUARDED = OPEN | {Status.COMPLETED}
"""Those in which something may still stop it: devices come late, and may take a success back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What of one stratum somebody has seen and let be: it does not count again."""

    stratum: Stratum
    started: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthEvidence:
    """Devices that report what one health gate asks for, on the release's digest and on others; in the gate's place."""

    reporting: int = 0
    beyond: int = 0
    control_reporting: int = 0
    control_beyond: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a rollout remembers between two looks.

    `ramp_s` is how long coverage grows in the open phase, which opened at `opened_at_ms`; devices
    that begin from `watched_from_ms` on are judged by themselves, too. `silence_log_e` is the
    evidence for silence (`sequential.add_silence`) after `silence_looks` intervals, in millionths of its natural
    logarithm, of devices last heard until `heard_through_ms`, with the numbers that went quiet. `seen`, `quiet_seen`
    and `health_seen` are what was there when somebody resumed it: it does not count again. `health_others`, in the
    gates' places, are the most others that ever reported, to be held against when few are left. `was_completed`: it was
    stopped, paused or aborted after its plan had run its course, and is completed again when somebody resumes it.
    """

    ramp_s: int = 0
    opened_at_ms: int = 0
    watched_from_ms: int = 0
    stopped: tuple[Stratum, ...] = ()
    retried_at: int = 0
    rolled_back: bool = False
    was_completed: bool = False
    seen: tuple[Seen, ...] = ()
    quiet_seen: int = 0
    health_seen: tuple[HealthEvidence, ...] = ()
    health_others: tuple[HealthEvidence, ...] = ()
    heard_through_ms: int = 0
    silence_log_e: int = 0
    silence_looks: int = 0
    took_quiet: int = 0
    control_quiet: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a rollout is. `phase` is an index; `phase_began_at_ms` moves with pauses, so that they do not count."""

    status: Status
    phase: int = 0
    phase_began_at_ms: int = 0
    paused_at_ms: int | None = None
    why: str = ""
    approved_by: tuple[str, ...] = ()
    memory: Memory = field(default_factory=Memory)

    @property
    def is_open(self) -> bool:
        """Whether it may still go on."""
        return self.status in OPEN

    @property
    def is_guarded(self) -> bool:
        """Whether something may still stop it."""
        return self.status in GUARDED

    @property
    def can_end(self) -> bool:
        """Whether there is something to abort: what was overtaken goes on when what overtook it is gone."""
        return self.is_guarded or self.status is Status.OVERTAKEN

    @property
    def ran_its_course(self) -> bool:
        """Whether its last phase is over, whatever stopped it since."""
        return self.status is Status.COMPLETED or self.memory.was_completed


@dataclass(frozen=True, slots=True, order=True)
class Fingerprint:
    """Where a failure happened, and why: a phase and a reason of `protocol.phases`, `taken_back` or `flips`."""

    phase: str
    reason: str


TAKEN_BACK = "taken_back"
"""The reason of a success that the device later contradicted."""
FLIPS = "flips"
"""The reason of a device that took the same release `FLIPS_AT` times, and does not keep it."""
FLIPS_AT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StratumEvidence:
    """What became of the devices of one hardware model that came from one version (None: from nothing).

    Each device counts once, by its last attempt that was not cancelled (and as failed while it has contradicted a
    success before, or succeeded `FLIPS_AT` times, and has not stood the soak since): `started` = `under_way` + `proven`
    + `succeeded` + failures + `transient` + `moved_on`. `succeeded` stood the soak, on the digest that booted; `proven`
    booted it, and the soak is not over; `transient` are failures that say nothing of the firmware; `moved_on` took
    another firmware since.
    `on_trial` are those of `under_way`, heard of lately, that restarted into it before the soak of the open phase was
    over, and have yet to say how that went. `away` are those of `under_way`, and `quiet` those of all that took it and
    did not fail, that were not heard of for long; `lost` are those of `away` that had restarted into it.
    `fresh_started` began since `Memory.watched_from_ms`, of which `fresh_failed`.
    """

    stratum: Stratum
    started: int = 0
    under_way: int = 0
    on_trial: int = 0
    away: int = 0
    lost: int = 0
    proven: int = 0
    succeeded: int = 0
    failures: Mapping[Fingerprint, int] = field(default_factory=dict)
    transient: int = 0
    moved_on: int = 0
    quiet: int = 0
    fresh_started: int = 0
    fresh_failed: int = 0

    @property
    def failed(self) -> int:
        """How many failed, for reasons that the firmware may be blamed for."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One side of a comparison: devices that could go quiet, and those of them that did."""

    at_risk: int = 0
    went_quiet: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Who was heard last between `Memory.heard_through_ms` and `through_ms`, and not since.

    `through_ms` is `quiet_after_s` ago. `took` had taken the release by then; `control` are devices of the group that
    had not.
    """

    through_ms: int
    took: Arm = field(default_factory=Arm)
    control: Arm = field(default_factory=Arm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the gates and phases are decided on.

    `devices` of the release's group, and `already` those of them that run its digest. `fresh_succeeded` and
    `fresh_failed` count what was told since the open phase began. `nobody_left`: the open phase covers no device that
    has yet to take it. `nobody_beside`: the cloud listened for long enough, and no other device of the group was heard
    of since the phase opened, so that there is nobody to hold silence against. `kinds` is how many strata there are in
    the group. `silence` is None while the cloud has not
    listened for long enough to tell. `overtaken_by` is a newer label that reaches everybody whom this could reach.
    """

    devices: int = 0
    already: int = 0
    strata: tuple[StratumEvidence, ...] = ()
    fresh_succeeded: int = 0
    fresh_failed: int = 0
    nobody_left: bool = False
    nobody_beside: bool = False
    kinds: int = 1
    silence: Silence | None = None
    health: tuple[HealthEvidence, ...] = ()
    overtaken_by: int | None = None

    @property
    def started(self) -> int:
        """Devices that began to take it."""
        return sum(it.started for it in self.strata)

    @property
    def succeeded(self) -> int:
        """Devices that stood the soak."""
        return sum(it.succeeded for it in self.strata)

    @property
    def proven(self) -> int:
        """Devices that booted it and soak."""
        return sum(it.proven for it in self.strata)

    @property
    def under_way(self) -> int:
        """Devices in the middle of it, wherever they are."""
        return sum(it.under_way for it in self.strata)

    @property
    def on_trial(self) -> int:
        """Devices whose trial began in time to count in the open phase, and whose word on it is awaited."""
        return sum(it.on_trial for it in self.strata)

    @property
    def lost(self) -> int:
        """Devices that restarted into it, and were not heard of for long."""
        return sum(it.lost for it in self.strata)

    @property
    def moved_on(self) -> int:
        """Devices that had it, and took another firmware since."""
        return sum(it.moved_on for it in self.strata)

    @property
    def middle(self) -> int:
        """Devices in the middle of it, of which was heard lately."""
        return sum(it.under_way - it.away for it in self.strata)

    @property
    def failed(self) -> int:
        """Devices that failed."""
        return sum(it.failed for it in self.strata)

    def failed_since(self, memory: Memory) -> int:
        """Return how many failed, without those that somebody has seen and let be."""
        seen = {it.stratum: it.failed for it in memory.seen}
        return sum(max(0, it.failed - seen.get(it.stratum, 0)) for it in self.strata)

    @property
    def quiet(self) -> int:
        """Devices that took it and were not heard of for long."""
        return sum(it.quiet for it in self.strata)
