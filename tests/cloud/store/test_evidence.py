"""Success is evidence: what proves one, what takes it back, and what gives it back."""

from __future__ import annotations

from cloud.store.store import Store
from protocol.phases import Outcome, Phase, Reason
from tests.cloud.store.fleets import HAPPY, Clock, digest_of, join, release


def installs(store: Store, release_id: str) -> tuple[int, int, int]:
    """Standing successes, successes taken back, active devices."""
    metrics = store.metrics.release(release_id)
    return metrics.installs, metrics.taken_back, metrics.active


def test_a_success_counts_only_with_the_digest_that_booted(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    lie = device.steps("1.1.0", made.release_id, *HAPPY, outcome=Outcome.SUCCEEDED, booted=digest_of("1.0.0"))
    device.report(*lie)
    device.running = {"app": "1.1.0"}
    device.tell()

    assert installs(store, made.release_id) == (0, 1, 0)
    (attempt,) = store.journal.history("pi-1")
    assert (attempt.outcome, attempt.succeeded) == (Outcome.SUCCEEDED, False)
    assert attempt.detail == "told as succeeded, but another digest booted"


def test_a_success_is_taken_back_when_the_device_later_runs_something_else(store: Store, clock: Clock) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.take("1.1.0", made.release_id)
    assert installs(store, made.release_id) == (1, 0, 1)

    clock.pass_s(10)
    device.running = {"app": "1.0.0"}
    device.session += 1
    device.hello()

    assert installs(store, made.release_id) == (0, 1, 0)
    (attempt,) = store.journal.history("pi-1")
    assert (attempt.succeeded, attempt.taken_back_at_ms) == (False, int(clock() * 1000))
    device.hello()
    assert installs(store, made.release_id) == (0, 1, 0)


def test_a_state_takes_a_success_back_as_a_hello_does(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.take("1.1.0", made.release_id)
    device.running = {"app": "1.0.0"}
    device.tell()

    assert installs(store, made.release_id) == (0, 1, 0)


def test_the_next_attempt_takes_a_success_back_if_it_began_from_something_else(store: Store) -> None:
    """The state in between may never come: of states only the newest waits for a busy server."""
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.take("1.1.0", made.release_id)
    device.running = {"app": "1.0.0"}
    again = device.steps("1.1.0", made.release_id, *HAPPY, outcome=Outcome.SUCCEEDED)
    device.report(again[0])
    assert installs(store, made.release_id) == (0, 1, 0)
    device.running = {"app": "1.1.0"}
    device.report(*again[1:])
    device.tell()
    assert installs(store, made.release_id) == (1, 1, 1)
    second, first = store.journal.history("pi-1")
    assert (first.succeeded, second.succeeded) == (False, True)


def test_moving_on_by_a_newer_attempt_takes_nothing_back(store: Store) -> None:
    first, second = release(store, "1.1.0"), release(store, "1.2.0")
    (device,) = join(store, "pi-1")
    device.take("1.1.0", first.release_id)
    device.take("1.2.0", second.release_id)

    assert installs(store, first.release_id) == (1, 0, 0)
    assert installs(store, second.release_id) == (1, 0, 1)


def test_a_trial_is_explained_by_its_attempt_and_so_is_the_way_back(store: Store) -> None:
    first, second = release(store, "1.1.0"), release(store, "1.2.0")
    (device,) = join(store, "pi-1")
    device.take("1.1.0", first.release_id)

    entries = device.steps("1.2.0", second.release_id, *HAPPY, outcome=Outcome.ROLLED_BACK, reason=Reason.START_FAILED)
    device.report(*entries[:3])
    device.running = {"app": "1.2.0"}
    device.tell(phase=Phase.PROVING)
    assert installs(store, first.release_id) == (1, 0, 0)
    device.report(entries[3])
    assert installs(store, first.release_id) == (1, 0, 0)
    device.running = {"app": "1.1.0"}
    device.tell()
    assert installs(store, first.release_id) == (1, 0, 1)


def test_a_hello_is_held_against_the_journal_only_when_that_has_arrived(store: Store) -> None:
    """A device updated while it was away: its hello comes before the entries that explain it."""
    first, second = release(store, "1.1.0"), release(store, "1.2.0")
    (device,) = join(store, "pi-1")
    device.take("1.1.0", first.release_id)
    entries = device.steps("1.2.0", second.release_id, *HAPPY, outcome=Outcome.SUCCEEDED)
    device.running = {"app": "1.2.0"}
    device.session += 1

    device.hello()
    assert installs(store, first.release_id) == (1, 0, 0)
    device.report(*entries[:2])
    device.report(*entries[2:])
    assert installs(store, first.release_id) == (1, 0, 0)
    assert installs(store, second.release_id) == (1, 0, 1)


def test_a_hello_that_nothing_explains_is_judged_once_the_journal_has_arrived(store: Store) -> None:
    first = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.take("1.1.0", first.release_id)
    entries = device.steps("1.2.0", "rel-x", Phase.DOWNLOADING, outcome=Outcome.FAILED, reason=Reason.DOWNLOAD_FAILED)
    device.running = {"app": "1.0.0"}
    device.session += 1

    device.hello()
    assert installs(store, first.release_id) == (1, 0, 0)
    device.report(*entries)
    assert installs(store, first.release_id) == (0, 1, 0)


def test_a_success_after_the_hello_is_not_held_against_that_hello(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    before = device.steps("1.2.0", "rel-x", Phase.DOWNLOADING, outcome=Outcome.FAILED, reason=Reason.DOWNLOAD_FAILED)
    device.session += 1
    device.hello()

    device.report(*before, *device.steps("1.1.0", made.release_id, *HAPPY, outcome=Outcome.SUCCEEDED))

    assert installs(store, made.release_id)[:2] == (1, 0)


def test_a_success_is_given_back_when_the_explanation_arrives_late(store: Store) -> None:
    """The state of the next trial overtakes the report about it."""
    first, second = release(store, "1.1.0"), release(store, "1.2.0")
    (device,) = join(store, "pi-1")
    device.take("1.1.0", first.release_id)
    entries = device.steps("1.2.0", second.release_id, *HAPPY, outcome=Outcome.SUCCEEDED)
    device.running = {"app": "1.2.0"}
    device.tell(phase=Phase.PROVING)
    assert installs(store, first.release_id) == (0, 1, 0)

    device.report(*entries)

    assert installs(store, first.release_id) == (1, 0, 0)
    assert installs(store, second.release_id) == (1, 0, 1)
