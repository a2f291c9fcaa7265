"""Releases whose plan has run its course: who is guarded still, how seldom, and what a gate does to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from cloud import rollouts_loop
from cloud.changes import Changes
from cloud.guard.evidence import Status
from cloud.guard.guarding import LOOK_S, REST_S, guard
from cloud.guard.policy import FailureGate, Gates, Phase, Policy
from cloud.rollouts_loop import RolloutsLoop
from cloud.store import rollouts
from cloud.store.rollout_evidence import evidence_of
from cloud.store.store import Store
from cloud.tally import Tally
from cloud.values import OutboxKind, ReleaseDraft, ReleasePatch
from tests.cloud.store.fleets import ANN, Clock, Device, channel, join

HALF = Policy(phases=(Phase(percentage=50, soak_s=0),), gates=Gates(failures=FailureGate(max_failures=0), silence=None))


@dataclass
class Completed:
    """A release that its devices have, completed, and the loop that looks after it; `queries` counts its evidence."""

    release_id: str
    devices: list[Device]
    loop: RolloutsLoop
    changes: Changes
    queries: list[str]


@pytest.fixture
def done(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Completed:
    devices, changes, queries = join(store, *(f"pi-{number}" for number in range(10))), Changes(), list[str]()
    whole = evidence_of

    def counted(session: Any, release: Any, *args: Any, **more: Any) -> Any:
        queries.append(release.id)
        return whole(session, release, *args, **more)

    made = store.releases.create(ReleaseDraft(channel=channel(), version="1.1.0"), by=ANN, policy=HALF)
    for device in devices:
        device.take("1.1.0", made.release_id)
    loop = RolloutsLoop(store, changes, Tally(), is_connected=lambda: True, clock=lambda: clock.now_s)
    loop.look()
    assert store.rollouts.page(made.release_id).standing.status is Status.COMPLETED
    monkeypatch.setattr(rollouts, "evidence_of", counted)
    return Completed(made.release_id, devices, loop, changes, queries)


def take_back(device: Device) -> None:
    device.running = {"app": "1.0.0"}
    device.tell()


def test_what_is_completed_costs_a_look_only_when_something_changed_and_minutes_have_passed(
    clock: Clock, done: Completed
) -> None:
    for _ in range(100):  # everything changes all the time
        clock.pass_s(REST_S / 50)
        done.changes.bump()
        done.loop.look()
    assert len(done.queries) == 2
    for _ in range(100):  # nothing does
        clock.pass_s(REST_S)
        done.loop.look()
    assert len(done.queries) == 2


def test_a_look_that_takes_long_is_followed_by_a_longer_rest(
    clock: Clock, done: Completed, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = guard

    def slow(*args: Any) -> Any:
        clock.pass_s(60)
        return whole(*args)

    monkeypatch.setattr(rollouts, "guard", slow)
    clock.pass_s(2 * REST_S)
    done.changes.bump()
    done.loop.look()
    looks = len(done.queries)
    for _ in range(10):
        clock.pass_s(REST_S)
        done.changes.bump()
        done.loop.look()
    assert len(done.queries) == looks
    clock.pass_s(60 * rollouts_loop.REST_SHARE)
    done.loop.look()
    assert len(done.queries) == looks + 1


def test_a_success_that_is_taken_back_after_completion_stops_it_and_what_was_covered_stays_so(
    store: Store, clock: Clock, done: Completed
) -> None:
    store.releases.patch(done.release_id, ReleasePatch(percentage=80), by=ANN)
    take_back(done.devices[0])
    for item in store.outbox.take():
        store.outbox.settle(item)
    clock.pass_s(REST_S + LOOK_S)
    done.changes.bump()
    done.loop.look()
    page = store.rollouts.page(done.release_id)
    assert (page.standing.status, page.release.terms.paused, page.release.percentage) == (
        *(Status.STOPPED_BY_GATE, True),
        80,
    )
    assert [item.kind for item in store.outbox.take()] == [OutboxKind.NOTICE]
    page = store.rollouts.resume(done.release_id, by=ANN)
    assert (page.standing.status, page.release.terms.paused, page.release.percentage) == (Status.COMPLETED, False, 80)
    assert store.rollouts.completed() == (done.release_id,)


def test_what_is_overtaken_is_let_be_until_what_overtook_it_is_disabled(store: Store, done: Completed) -> None:
    newer = store.releases.create(ReleaseDraft(channel=channel(), version="1.2.0"), by=ANN)
    take_back(done.devices[0])
    assert not store.rollouts.reconcile(done.release_id).acted
    assert done.queries == []
    store.releases.patch(newer.release_id, ReleasePatch(enabled=False), by=ANN)
    assert store.rollouts.reconcile(done.release_id).acted


def test_only_the_newest_of_a_channel_is_guarded_and_none_that_is_disabled(store: Store, done: Completed) -> None:
    newer = store.releases.create(ReleaseDraft(channel=channel(), version="1.2.0"), by=ANN, policy=HALF)
    for device in done.devices:
        device.take("1.2.0", newer.release_id)
    store.rollouts.reconcile(newer.release_id)
    assert store.rollouts.completed() == (newer.release_id,)
    store.releases.patch(newer.release_id, ReleasePatch(enabled=False), by=ANN)
    assert store.rollouts.page(newer.release_id).standing.status is Status.ABORTED
    assert store.rollouts.completed() == (done.release_id,)
    take_back(done.devices[1])
    assert not store.rollouts.reconcile(newer.release_id).acted
    assert not store.releases.release(newer.release_id).enabled
