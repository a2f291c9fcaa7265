"""Rollouts by plan: phases that open on evidence, gates that stop, and a cloud that may end at any point of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlmodel import select

from cloud.event_models import EventRow
from cloud.guard.evidence import Status
from cloud.guard.guarding import Verdict, guard
from cloud.guard.policy import FailureGate, Gates, HealthGate, Phase, Policy, Response, SilenceGate
from cloud.store import rollouts
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.rollouts import Look
from cloud.store.store import Store
from cloud.values import OutboxKind, ReleaseDraft, ReleasePatch, ReleaseView
from protocol.identity import place
from protocol.phases import Outcome, Reason
from protocol.phases import Phase as Step
from protocol.schedule import PER_CENT, Terms
from protocol.up import Health
from tests.cloud.store.fleets import ANN, HAPPY, Clock, Device, channel, digest_of, join

BOB = "bob"
SOAK_S = 600
STEPS = Policy(phases=(Phase(percentage=10, soak_s=SOAK_S), Phase(percentage=100, soak_s=SOAK_S)))


def plan(store: Store, policy: Policy = STEPS, version: str = "1.1.0", **draft: Any) -> ReleaseView:
    """Release by a plan, under an id that covers some of the forty devices at 10 %: nothing is left to chance."""
    made = ReleaseDraft(channel=channel(), version=version, release_id=f"rel-{version.replace('.', '-')}")
    return store.releases.create(replace(made, **draft), by=ANN, policy=policy)


def covered(devices: list[Device], made: ReleaseView, percentage: int) -> list[Device]:
    return [it for it in devices if place(it.device_id, made.release_id) < percentage * PER_CENT]


def kinds(store: Store, made: ReleaseView) -> list[str]:
    with store._database.reading() as session:
        rows = session.exec(select(EventRow).where(EventRow.subject == f"release/{made.release_id}")).all()
        return [row.kind for row in rows]


def status(store: Store, made: ReleaseView) -> Status:
    return store.rollouts.page(made.release_id).standing.status


@pytest.fixture
def fleet(store: Store) -> list[Device]:
    return join(store, *(f"pi-{number}" for number in range(40)))


def test_a_phase_opens_when_devices_of_the_one_before_stood_the_soak(
    store: Store, clock: Clock, fleet: list[Device]
) -> None:
    made = plan(store)
    assert (made.percentage, made.enabled, made.terms.paused) == (10, True, False)
    store.rollouts.reconcile(made.release_id)
    first = covered(fleet, made, 10)
    assert first
    for device in first:
        device.take("1.1.0", made.release_id)
    clock.pass_s(SOAK_S - 1)
    store.rollouts.reconcile(made.release_id)
    assert store.releases.release(made.release_id).percentage == 10
    clock.pass_s(1)
    store.rollouts.reconcile(made.release_id)
    assert store.releases.release(made.release_id).percentage == 100
    assert kinds(store, made) == ["release.created", "rollout.phase"]
    for device in fleet:
        if device not in first:
            device.take("1.1.0", made.release_id)
    clock.pass_s(SOAK_S)
    store.rollouts.reconcile(made.release_id)
    assert status(store, made) is Status.COMPLETED
    assert kinds(store, made)[-1] == "rollout.completed"


def test_time_alone_opens_no_phase_that_nobody_took(store: Store, clock: Clock, fleet: list[Device]) -> None:
    made = plan(store)
    assert covered(fleet, made, 10)
    clock.pass_s(100 * SOAK_S)
    store.rollouts.reconcile(made.release_id)
    assert store.releases.release(made.release_id).percentage == 10
    assert "no device has taken it yet" in store.rollouts.page(made.release_id).why


def test_a_phase_that_covers_nobody_is_passed_over(store: Store) -> None:
    lone = join(store, "pi-lone")
    made = plan(store)
    assert not covered(lone, made, 10)
    store.rollouts.reconcile(made.release_id)
    assert store.releases.release(made.release_id).percentage == 100
    assert status(store, made) is Status.RUNNING


def test_failures_stop_the_rollout_and_say_why(store: Store, fleet: list[Device]) -> None:
    policy = Policy(phases=STEPS.phases, gates=Gates(failures=FailureGate(max_failures=0)))
    made = plan(store, policy)
    for device in covered(fleet, made, 10)[:1]:
        device.fail("1.1.0", made.release_id)
    store.rollouts.reconcile(made.release_id)
    page = store.rollouts.page(made.release_id)
    assert page.standing.status is Status.STOPPED_BY_GATE
    assert "1 of 1 devices that began it failed (health failed in proving: 1), at most 0 may" in page.why
    assert (page.release.terms.paused, page.release.enabled, page.release.percentage) == (True, True, 10)
    assert kinds(store, made)[-1] == "rollout.gate"


def test_a_gate_may_roll_back_and_a_resume_goes_on(store: Store, fleet: list[Device]) -> None:
    gate = FailureGate(max_failures=0, then=Response.ROLL_BACK)
    made = plan(store, Policy(phases=STEPS.phases, gates=Gates(failures=gate)))
    first = covered(fleet, made, 10)
    first[0].fail("1.1.0", made.release_id)
    store.rollouts.reconcile(made.release_id)
    assert not store.releases.release(made.release_id).enabled
    with pytest.raises(ConflictError, match="rolled back by a gate: resume it"):
        store.releases.patch(made.release_id, ReleasePatch(enabled=True), by=ANN)
    store.rollouts.resume(made.release_id, by=ANN)
    store.rollouts.reconcile(made.release_id)  # what was seen does not count again
    view = store.releases.release(made.release_id)
    assert (view.enabled, view.terms.paused, status(store, made)) == (True, False, Status.RUNNING)
    covered(fleet, made, 100)[-1].fail("1.1.0", made.release_id)
    store.rollouts.reconcile(made.release_id)
    assert status(store, made) is Status.STOPPED_BY_GATE


def test_a_success_that_is_taken_back_is_a_failure(store: Store, clock: Clock, fleet: list[Device]) -> None:
    made = plan(store, Policy(phases=STEPS.phases, gates=Gates(failures=FailureGate(max_failures=0))))
    device = covered(fleet, made, 10)[0]
    device.take("1.1.0", made.release_id)
    clock.pass_s(SOAK_S - 1)
    device.running = {"app": "1.0.0"}
    device.tell()
    clock.pass_s(1)
    store.rollouts.reconcile(made.release_id)
    page = store.rollouts.page(made.release_id)
    assert page.standing.status is Status.STOPPED_BY_GATE
    assert "taken back" in page.why
    assert page.release.percentage == 10


def test_only_the_stratum_that_fails_is_stopped(store: Store, fleet: list[Device]) -> None:
    for device in fleet[20:]:
        device.running = {"app": "0.9.0"}
        device.tell()
    made = plan(store, Policy(phases=(Phase(percentage=100, soak_s=SOAK_S),)))
    for device in fleet[:15]:
        device.take("1.1.0", made.release_id)
    for device in fleet[20:28]:
        device.fail("1.1.0", made.release_id)
    store.rollouts.reconcile(made.release_id)
    page = store.rollouts.page(made.release_id)
    assert page.standing.status is Status.RUNNING
    assert [str(it) for it in page.release.terms.stopped] == ["pi4 on 0.9.0"]
    assert kinds(store, made)[-1] == "rollout.stratum_stopped"
    store.rollouts.reconcile(made.release_id)
    assert kinds(store, made).count("rollout.stratum_stopped") == 1


def test_devices_that_go_quiet_stop_it_and_a_night_does_not(store: Store, clock: Clock, fleet: list[Device]) -> None:
    silence = SilenceGate(quiet_after_s=600, intolerable_ratio_percent=500)
    made = plan(store, Policy(phases=(Phase(percentage=100, soak_s=86_400),), gates=Gates(silence=silence)))
    clock.pass_s(1)
    for device in fleet[:12]:
        device.take("1.1.0", made.release_id)
    clock.pass_s(60)
    for device in fleet:
        device.presence(online=False)
    clock.pass_s(700)
    store.rollouts.reconcile(made.release_id)
    assert status(store, made) is Status.RUNNING  # all of them: it is dark
    for device in fleet:
        device.presence(online=True)
    clock.pass_s(1000)
    store.rollouts.reconcile(made.release_id)
    for device in fleet[:8]:
        device.presence(online=False)
    clock.pass_s(601)
    store.rollouts.reconcile(made.release_id, listening_for_ms=300_000)
    assert status(store, made) is Status.RUNNING  # the cloud has not listened for long enough
    store.rollouts.reconcile(made.release_id)
    page = store.rollouts.page(made.release_id)
    assert page.standing.status is Status.STOPPED_BY_GATE
    assert "8 devices that took it went quiet for more than 600 s, and 0 of those that did not" in page.why


@pytest.mark.parametrize("hot", [90, 5_000_000_000])
def test_health_beyond_a_bound_stops_it_unless_the_others_are_no_better(
    store: Store, fleet: list[Device], hot: int
) -> None:
    gates = Gates(health=(HealthGate(gauge="temperature", at_most=80),))
    made = plan(store, Policy(phases=(Phase(percentage=100, soak_s=SOAK_S),), gates=gates))

    def say(device: Device, value: int) -> None:
        digest = digest_of(device.running["app"])
        device.tell(health=(Health(component="app", digest=digest, gauges={"temperature": value}),))

    for device in fleet[:20]:
        device.take("1.1.0", made.release_id)
        say(device, hot)
    for device in fleet[20:]:
        say(device, hot)
    store.rollouts.reconcile(made.release_id)
    assert status(store, made) is Status.RUNNING
    for device in fleet[20:]:
        say(device, 40)
    store.rollouts.reconcile(made.release_id)
    assert "20 of 20 devices that run it report temperature above 80, and 0 of 20 others" in (
        store.rollouts.page(made.release_id).why
    )
    assert status(store, made) is Status.STOPPED_BY_GATE


def test_pause_keeps_the_soak_standing_still(store: Store, clock: Clock, fleet: list[Device]) -> None:
    made = plan(store)
    clock.pass_s(1)
    for device in covered(fleet, made, 10):
        device.take("1.1.0", made.release_id)
    clock.pass_s(10)
    paused = store.rollouts.pause(made.release_id, by=BOB)
    assert paused.release.terms.paused
    with pytest.raises(ConflictError, match="paused already"):
        store.rollouts.pause(made.release_id, by=BOB)
    clock.pass_s(10 * SOAK_S)
    store.rollouts.reconcile(made.release_id)
    assert store.releases.release(made.release_id).percentage == 10
    store.rollouts.resume(made.release_id, by=BOB)
    clock.pass_s(SOAK_S - 12)
    store.rollouts.reconcile(made.release_id)
    assert store.releases.release(made.release_id).percentage == 10
    clock.pass_s(1)
    store.rollouts.reconcile(made.release_id)
    assert store.releases.release(made.release_id).percentage == 100


def test_an_abort_is_final_and_so_is_a_disable(store: Store, fleet: list[Device]) -> None:
    first, second = plan(store), plan(store, version="1.2.0")
    assert not store.rollouts.abort(first.release_id, by=ANN).release.enabled
    store.releases.patch(second.release_id, ReleasePatch(enabled=False), by=ANN)
    for made in (first, second):
        assert status(store, made) is Status.ABORTED
        assert "rollout.aborted" in kinds(store, made)
        assert store.rollouts.reconcile(made.release_id) == Look()
        with pytest.raises(ConflictError, match="release it again"):
            store.releases.patch(made.release_id, ReleasePatch(enabled=True), by=ANN)
    assert store.rollouts.open() == ()
    del fleet


def test_a_percentage_is_the_plans_own(store: Store) -> None:
    made = plan(store)
    with pytest.raises(ConflictError, match="goes by a plan, which sets its percentage; nothing was changed"):
        store.releases.patch(made.release_id, ReleasePatch(percentage=50), by=ANN)
    plain = store.releases.create(ReleaseDraft(channel=channel(), version="1.2.0", percentage=10), by=ANN)
    store.releases.patch(plain.release_id, ReleasePatch(percentage=50), by=ANN)
    with pytest.raises(NotFoundError, match=r"has no plan.*disable it"):
        store.rollouts.abort(plain.release_id, by=ANN)


def test_whoever_makes_a_release_cannot_approve_it(store: Store, clock: Clock) -> None:
    made = plan(store, Policy(phases=STEPS.phases, approvals=1))
    assert not made.enabled
    store.rollouts.reconcile(made.release_id)
    assert status(store, made) is Status.AWAITING_APPROVAL
    with pytest.raises(ConflictError, match="cannot approve it"):
        store.rollouts.approve(made.release_id, by=ANN)
    with pytest.raises(ConflictError, match="waits for approval"):
        store.releases.patch(made.release_id, ReleasePatch(enabled=True), by=ANN)
    clock.pass_s(5)
    page = store.rollouts.approve(made.release_id, by=BOB)
    assert (page.standing.status, page.standing.approved_by, page.release.enabled) == (Status.RUNNING, (BOB,), True)
    assert page.release.percentage == 10


def test_the_failed_try_again_when_told_to(store: Store, clock: Clock, fleet: list[Device]) -> None:
    made = plan(store)
    device = covered(fleet, made, 10)[0]
    device.fail("1.1.0", made.release_id)
    before = store.rollouts.page(made.release_id)
    assert before.evidence.failed == 1
    page = store.rollouts.retry(made.release_id, by=ANN)
    assert page.release.terms.retried_at > made.order
    assert page.evidence.failed == 0


def test_a_schedule_begins_by_itself_and_a_newer_release_overtakes(store: Store, clock: Clock) -> None:
    join(store, "pi-1")
    at_ms = int(clock.now_s * 1000) + 60_000
    made = plan(store, Policy(phases=STEPS.phases, terms=Terms(not_before_ms=at_ms)))
    assert made.terms.not_before_ms == at_ms
    assert store.rollouts.reconcile(made.release_id) == Look(due_in_ms=60_000)
    clock.pass_s(90)
    store.rollouts.reconcile(made.release_id)
    standing = store.rollouts.page(made.release_id).standing
    assert (standing.status, standing.phase_began_at_ms) == (Status.RUNNING, at_ms)
    store.releases.create(ReleaseDraft(channel=channel(), version="1.2.0"), by=ANN)
    store.rollouts.reconcile(made.release_id)
    assert status(store, made) is Status.OVERTAKEN


def test_who_is_held_back_is_covered_when_the_last_soak_is_over(
    store: Store, clock: Clock, fleet: list[Device]
) -> None:
    made = plan(store, Policy(phases=(Phase(percentage=100, soak_s=SOAK_S),), hold_back=20))
    assert made.percentage == 80
    for device in covered(fleet, made, 80):
        device.take("1.1.0", made.release_id)
    clock.pass_s(SOAK_S)
    store.rollouts.reconcile(made.release_id)
    assert (status(store, made), store.releases.release(made.release_id).percentage) == (Status.COMPLETED, 100)


class PowerCutError(Exception):
    """The cloud ends here."""


@pytest.fixture(
    params=[(name, after) for name in ("carry_out", "changed", "note_actions", "audit") for after in (0, 1)]
)
def power_cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Arms the end of the cloud, right before or after one step of a look; undone by `monkeypatch.undo()`."""
    name, after = request.param
    whole = getattr(rollouts, name)

    def cut(*args: Any, **kwargs: Any) -> Any:
        if after:
            whole(*args, **kwargs)
        raise PowerCutError

    return lambda: monkeypatch.setattr(rollouts, name, cut)


def test_a_cloud_that_ends_within_a_step_has_done_nothing_of_it(
    store: Store, clock: Clock, fleet: list[Device], monkeypatch: pytest.MonkeyPatch, power_cut: Callable[[], None]
) -> None:
    made = plan(store)
    for device in covered(fleet, made, 10):
        device.take("1.1.0", made.release_id)
    clock.pass_s(SOAK_S)
    for item in store.outbox.take():
        store.outbox.settle(item)
    before, notice = store.rollouts.page(made.release_id), store.releases.channel_notice(channel())
    power_cut()
    with pytest.raises(PowerCutError):
        store.rollouts.reconcile(made.release_id)
    monkeypatch.undo()
    assert store.rollouts.page(made.release_id).revision == before.revision
    assert store.releases.channel_notice(channel()) == notice
    assert store.outbox.take() == ()
    for _ in range(3):  # it is back, and looks as often as it likes
        store.rollouts.reconcile(made.release_id)
    assert kinds(store, made).count("rollout.phase") == 1
    assert [item.kind for item in store.outbox.take()] == [OutboxKind.NOTICE]
    assert [row.action for row in store.audit.rows(subject=f"release/{made.release_id}")].count("rollout.phase") == 1
    assert store.releases.channel_notice(channel()).releases[0].percentage == 100


def test_a_verdict_on_what_is_not_so_any_more_is_let_be(
    store: Store, clock: Clock, fleet: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(store)
    for device in covered(fleet, made, 10):
        device.take("1.1.0", made.release_id)
    clock.pass_s(SOAK_S)
    asked: list[Verdict] = []

    def slow(*args: Any) -> Verdict:
        verdict = guard(*args)
        if not asked:
            asked.append(verdict)
            store.rollouts.pause(made.release_id, by=BOB)
        return verdict

    monkeypatch.setattr(rollouts, "guard", slow)
    store.rollouts.reconcile(made.release_id)
    assert asked[0].actions
    assert status(store, made) is Status.PAUSED
    assert store.releases.release(made.release_id).percentage == 10


def test_failures_for_want_of_a_network_are_not_the_firmwares(store: Store, fleet: list[Device]) -> None:
    made = plan(store, Policy(phases=STEPS.phases, gates=Gates(failures=FailureGate(max_failures=0))))
    device = covered(fleet, made, 10)[0]
    steps = device.steps("1.1.0", made.release_id, *HAPPY[:1], outcome=Outcome.FAILED, reason=Reason.DOWNLOAD_FAILED)
    device.report(*steps)
    store.rollouts.reconcile(made.release_id)
    page = store.rollouts.page(made.release_id)
    assert (page.standing.status, page.evidence.failed, page.evidence.strata[0].transient) == (Status.RUNNING, 0, 1)
    device.report(*device.steps("1.1.0", made.release_id, Step.DOWNLOADING))
    assert store.rollouts.page(made.release_id).evidence.under_way == 1
