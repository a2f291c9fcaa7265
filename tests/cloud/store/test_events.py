"""What happened is noted with what did it, read in order, told once in timelines, and pruned in batches."""

import sqlite3

import pytest

from cloud.happenings import Moment, describe
from cloud.store.errors import ConflictError
from cloud.store.store import Store
from cloud.values import ReleasePatch
from protocol.phases import Outcome, Phase, Reason
from tests.cloud.store.fleets import ANN, ON_SQLITE, PRODUCT, Clock, digest_of, join, release

DAY_MS = 86_400_000


def kinds(store: Store, subject: str) -> list[str]:
    return [event.kind for event in store.events.of(subject)]


def words(store: Store, subject: str) -> list[str]:
    return [item.words for item in store.events.timeline(subject)[0]]


def test_what_is_decided_of_a_release_is_noted_with_it(store: Store) -> None:
    made = release(store, "1.1.0", percentage=10)
    subject = f"release/{made.release_id}"
    store.releases.patch(made.release_id, ReleasePatch(percentage=50), by=ANN)
    with pytest.raises(ConflictError):
        store.releases.patch(made.release_id, ReleasePatch(percentage=5), by=ANN)
    store.releases.patch(made.release_id, ReleasePatch(percentage=50), by=ANN)  # changes nothing
    store.releases.patch(made.release_id, ReleasePatch(enabled=False), by=ANN)
    assert kinds(store, subject) == ["release.created", "release.patched", "release.disabled"]
    created, patched, disabled = store.events.of(subject)
    assert (created.product, created.data["version"], created.data["percentage"]) == (PRODUCT, "1.1.0", 10)
    assert (patched.data["before"], patched.data["after"]) == ({"percentage": 10}, {"percentage": 50})
    assert [event.number for event in store.events.after(0)] == [created.number, patched.number, disabled.number]
    assert store.events.after(patched.number, limit=1) == (disabled,)
    assert store.events.after(0, kinds=["release.patched"]) == (patched,)
    assert store.events.after(0, product="other") == ()


def test_how_attempts_end_is_noted_of_the_device_and_its_troubles_of_the_release(store: Store) -> None:
    made = release(store, "1.1.0")
    good, bad, failed = join(store, "pi-1", "pi-2", "pi-3")
    good.take("1.1.0", made.release_id)
    bad.fail("1.1.0", made.release_id)
    failed.report(
        *failed.steps("1.1.0", made.release_id, Phase.DOWNLOADING, outcome=Outcome.FAILED, reason=Reason.TOO_LARGE)
    )
    assert kinds(store, "device/pi-1") == ["device.updated"]
    assert kinds(store, "device/pi-2") == ["device.rolled_back"]
    assert kinds(store, "device/pi-3") == ["device.failed"]
    updated = store.events.of("device/pi-1")[0]
    assert (updated.source, updated.data["label"], updated.data["from_version"]) == (
        f"release/{made.release_id}",
        1,
        "1.0.0",
    )
    assert kinds(store, f"release/{made.release_id}") == ["release.created", "device.rolled_back", "device.failed"]
    good.running = {"app": "1.0.0"}
    good.tell()
    assert kinds(store, "device/pi-1")[-1] == "device.success_taken_back"
    assert "taken back: it reports 1.0.0" in words(store, f"release/{made.release_id}")[-1]


def test_a_success_whose_evidence_is_missing_is_no_update(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.report(
        *device.steps("1.1.0", made.release_id, Phase.PROVING, outcome=Outcome.SUCCEEDED, booted=digest_of("1.0.0"))
    )
    assert kinds(store, "device/pi-1") == ["device.success_taken_back"]


def test_an_attempt_that_is_told_twice_is_noted_once(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    failed = Reason.HEALTH_FAILED
    steps = device.steps("1.1.0", made.release_id, Phase.PROVING, outcome=Outcome.ROLLED_BACK, reason=failed)
    device.report(*steps)
    device.report(*steps)
    assert kinds(store, "device/pi-1") == ["device.rolled_back"]


def test_a_device_cannot_write_into_the_timeline_of_another_product(store: Store) -> None:
    made = release(store, "1.1.0")
    store.catalog.create_product("pump", hardware_models=["pi4"], by=ANN)
    (stranger,) = join(store, "pi-1")
    stranger.device_id, stranger.product = "pump-1", "pump"
    stranger.hello()
    stranger.fail("1.1.0", made.release_id)
    assert kinds(store, "device/pump-1") == ["device.rolled_back"]
    assert kinds(store, f"release/{made.release_id}") == ["release.created"]


def test_a_timeline_tells_once_what_was_noted_and_audited_and_who_decided_it(store: Store, clock: Clock) -> None:
    made = release(store, "1.1.0")
    subject = f"release/{made.release_id}"
    clock.now_s += 1
    store.releases.patch(made.release_id, ReleasePatch(enabled=False), by="bob")
    clock.now_s += 1
    store.releases.patch(made.release_id, ReleasePatch(enabled=True), by="bob")
    moments, ends = store.events.timeline(subject)
    assert [(item.words, item.actor) for item in moments] == [
        (f"v1 of {PRODUCT}/everyone/app released: 1.1.0 100 %", ANN),
        ("disabled", "bob"),
        ("enabled again", "bob"),
    ]
    assert store.events.timeline(subject, after=ends) == ((), ends)
    join(store, "pi-1")[0].fail("1.1.0", made.release_id)
    (late,), _ = store.events.timeline(subject, after=ends)
    assert isinstance(late, Moment)
    assert late.words == "pi-1: rolled back from app 1.1.0 (everyone v1): health failed"
    assert [item.kind for item in store.events.timeline(subject, limit=2)[0]] == ["release.patched", late.kind]


def test_a_devices_timeline_joins_what_it_did_and_what_was_decided_of_it(store: Store, clock: Clock) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    clock.now_s += 1
    device.take("1.1.0", made.release_id)
    clock.now_s += 1
    store.devices.pin("pi-1", "app", "1.2.0", by=ANN)
    moments, _ = store.events.timeline("device/pi-1")
    assert [item.kind for item in moments] == ["device.registered", "device.updated", "device.pinned"]
    assert moments[1].words == "updated to app 1.1.0 from 1.0.0 (everyone v1)"
    assert (moments[2].words, moments[2].actor) == ("locked to app 1.2.0", ANN)


def test_old_events_go_in_batches_and_their_numbers_never_come_again(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.store.events.PRUNE_BATCH", 3)
    made = release(store, "1.1.0")
    for percentage in range(91, 100):
        clock.now_s += 1
        store.releases.patch(made.release_id, ReleasePatch(description=f"at {percentage}"), by=ANN)
    assert len(store.events.after(0)) == 10
    assert [store.events.prune(max_rows=8, max_age_ms=DAY_MS) for _ in range(2)] == [2, 0]
    clock.now_s += 2 * DAY_MS / 1000
    assert [store.events.prune(max_rows=8, max_age_ms=DAY_MS) for _ in range(4)] == [3, 3, 1, 0]
    (left,) = store.events.after(0)
    release(store, "1.2.0")
    assert [event.number for event in store.events.after(0)] == [left.number, left.number + 1]
    assert left.number == 10


@ON_SQLITE
def test_a_timeline_is_read_by_its_index(store: Store, url: str) -> None:
    release(store, "1.1.0")
    with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
        about = "subject = 'release/x' OR (source = 'release/x' AND kind IN ('a'))"
        plan = database.execute(f"EXPLAIN QUERY PLAN SELECT * FROM event WHERE {about}").fetchall()  # noqa: S608
    assert all("SCAN" not in row[3] for row in plan), plan


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (
            "rollout.phase",
            {"phase": 2, "of": 3, "percentage": 50, "why": "1 is over"},
            "phase 2 of 3 is open (50 %): 1 is over",
        ),
        ("rollout.phase", {"phase": 1, "of": 2, "group": "pilot"}, "phase 1 of 2 is open (group pilot)"),
        ("rollout.gate", {"gate": "failures", "then": "pause", "why": "3 of 4"}, "paused by the gate failures: 3 of 4"),
        ("rollout.gate", {"gate": "silence", "then": "roll_back"}, "rolled back by the gate silence"),
        ("rollout.stratum_stopped", {"stratum": "pi4 on 1.0.0"}, "stopped for pi4 on 1.0.0"),
        ("rollout.paused", {"why": "odd"}, "paused: odd"),
        ("rollout.completed", {}, "completed"),
    ],
)
def test_what_a_rollout_did_is_told_in_words(kind: str, data: dict[str, object], words: str) -> None:
    assert describe(kind, data) == words
