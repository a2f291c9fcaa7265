"""A trial whose agent stands still for a while: what nobody looked at says nothing against the version."""

from collections.abc import Callable

import pytest

from device_agent.config import ComponentSettings, HealthSettings
from device_agent.driver import Answer
from device_agent.events import Event, Failed, Proved
from device_agent.health import AliveCheck
from device_agent.loop import Loop
from device_agent.trial import MAX_FORGIVEN, Trial
from protocol.phases import Reason

DIGEST = "a" * 64
SOAK_S, PROVE_TIMEOUT_S = 1.5, 8.0


class AtOnce:
    """A worker without a thread."""

    def submit(self, call: Callable[[], None]) -> None:
        call()

    def stop(self, timeout_s: float) -> None:
        """Nothing runs."""


class Watching:
    """One trial, on a clock of its own; `healthy` is what each probe finds."""

    def __init__(self) -> None:
        self.now, self.healthy = 100.0, False
        self.answers: list[Event] = []
        self.loop = Loop(lambda: self.now)
        self.trial = Trial(self.loop, AtOnce())
        health = HealthSettings(check=AliveCheck(), interval_s=0.5, timeout_s=0.5)
        settings = ComponentSettings(
            name="app", command=("app",), health=health, soak_s=SOAK_S, prove_timeout_s=PROVE_TIMEOUT_S
        )
        answer: Answer = self.answers.append
        self.trial.begin(
            settings,
            expected_digest=DIGEST,
            booted_digest=DIGEST,
            started_s=self.now,
            alive=lambda: self.healthy,
            answer=answer,
        )
        self.now += 0.001
        self.trial.broker_answered(self.now)

    def run(self, seconds: float) -> None:
        """Let time go by, and the loop wake exactly when it is to."""
        end = self.now + seconds
        while True:
            while self.loop.turn(wait=False):
                pass
            due = self.loop.next_due()
            if due is None or due > end:
                break
            self.now = due
        self.now = end

    def stand_still(self, seconds: float) -> None:
        """Let time go by without the agent."""
        self.now += seconds


@pytest.mark.parametrize("before_s", [0.2, 1.0, 3.0, 7.5])
@pytest.mark.parametrize("still_s", [PROVE_TIMEOUT_S, 3600.0])
@pytest.mark.parametrize("healthy_before", [False, True])
def test_a_version_is_not_condemned_for_an_agent_that_stood_still(
    before_s: float, still_s: float, *, healthy_before: bool
) -> None:
    watching = Watching()
    watching.healthy = healthy_before and before_s < SOAK_S
    watching.run(before_s)
    watching.stand_still(still_s)
    watching.healthy = True
    watching.run(PROVE_TIMEOUT_S)
    assert watching.answers == [Proved()]


def test_a_version_that_is_not_well_fails_all_the_same() -> None:
    watching = Watching()
    watching.run(1.0)
    watching.stand_still(100.0)
    watching.run(PROVE_TIMEOUT_S + 1.0)
    (answer,) = watching.answers
    assert isinstance(answer, Failed)
    assert answer.reason is Reason.HEALTH_FAILED


def test_a_version_that_keeps_its_agent_from_running_is_forgiven_so_often_only() -> None:
    watching = Watching()
    for _ in range(MAX_FORGIVEN + 1):
        assert watching.answers == []
        watching.stand_still(100.0)
        watching.run(0.1)
    assert isinstance(watching.answers[0], Failed)


def test_time_in_which_the_agent_looked_counts() -> None:
    watching = Watching()
    watching.run(PROVE_TIMEOUT_S - 0.1)
    assert watching.answers == []
    watching.run(0.2)
    assert isinstance(watching.answers[0], Failed)
