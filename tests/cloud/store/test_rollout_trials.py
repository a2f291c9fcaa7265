"""A phase is not over while devices that restarted in time are still to say how that went: bad news comes late."""

from __future__ import annotations

from cloud.guard.evidence import FLIPS_AT, Status
from cloud.guard.policy import Phase, Policy
from cloud.store.store import Store
from protocol.phases import Outcome, Reason
from tests.cloud.store.fleets import HAPPY, Clock, join
from tests.cloud.store.test_rollouts import SOAK_S, covered, plan, status


def test_who_is_on_trial_when_the_soak_is_over_is_waited_for_and_who_comes_later_is_not(
    store: Store, clock: Clock
) -> None:
    fleet = join(store, *(f"pi-{number}" for number in range(40)))
    made = plan(store, Policy(phases=(Phase(percentage=50, soak_s=SOAK_S), Phase(percentage=100, soak_s=SOAK_S))))
    slow, late, *quick = covered(fleet, made, 50)
    clock.pass_s(1)
    for device in quick:
        device.take("1.1.0", made.release_id)
    entries = slow.steps("1.1.0", made.release_id, *HAPPY, outcome=Outcome.ROLLED_BACK, reason=Reason.HEALTH_FAILED)
    slow.report(*entries[:-1])
    clock.pass_s(SOAK_S + 1)
    late.report(*late.steps("1.1.0", made.release_id, *HAPPY))
    store.rollouts.reconcile(made.release_id)
    assert "1 devices have restarted into it" in store.rollouts.page(made.release_id).why
    slow.report(entries[-1])
    store.rollouts.reconcile(made.release_id)
    assert store.releases.release(made.release_id).percentage == 100


def test_who_takes_it_three_times_and_does_not_keep_it_counts_as_failed(store: Store, clock: Clock) -> None:
    fleet = join(store, *(f"pi-{number}" for number in range(3)))
    made = plan(store, Policy(phases=(Phase(percentage=100, soak_s=SOAK_S),)))
    for times in range(FLIPS_AT):
        store.rollouts.reconcile(made.release_id)
        assert status(store, made) is Status.RUNNING, times
        for device in fleet:
            device.take("1.1.0", made.release_id)
            device.take("1.0.0", "rel-other")
        clock.pass_s(60)
    store.rollouts.reconcile(made.release_id)
    assert status(store, made) is Status.STOPPED_BY_GATE
    assert "flips in" in store.rollouts.page(made.release_id).why
