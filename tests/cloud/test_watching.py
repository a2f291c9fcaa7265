"""Watching a release: right for few devices at once, and cheap for many, however many watch."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import event, insert

from cloud.models import AttemptRow, ComponentRow, DeviceRow, ReleaseRow
from cloud.progress import Stage, Verdict
from cloud.sparing import Sparing
from cloud.store.store import Store
from cloud.values import ReleasePatch
from cloud.watching import Watching
from protocol.phases import Outcome, Phase, Reason
from tests.cloud.store.conftest import clock, furnished, store
from tests.cloud.store.fleets import ANN, MODEL, PRODUCT, digest_of, join, release

__all__ = ["clock", "furnished", "store", "url"]
MANY = 3000


@pytest.fixture
def url(furnished: Path, tmp_path: Path) -> str:
    """A copy of the furnished database: what is tested here is the same on every kind of database."""
    shutil.copy(furnished, tmp_path / "fleetlift.db")
    return f"sqlite:///{tmp_path / 'fleetlift.db'}"


class Stopwatch:
    """A clock that the test moves, and that moves by itself with each reading: all work takes `step_s`."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


@pytest.fixture
def many(store: Store) -> str:
    """A release to thousands of devices that wait for it."""
    made = release(store, "1.1.0")
    rows = [{"id": f"pi-{number:05}", "product": PRODUCT, "hardware_model": MODEL} for number in range(MANY)]
    plain = {"registered_at_ms": 1, "attributes": {}, "encodings": []}
    components = {"requires": {}, "component": "app", "version": "1.0.0", "build": 1, "digest": digest_of("1.0.0")}
    with store._database.changing() as change:
        change.session.execute(insert(DeviceRow), [row | plain for row in rows])
        change.session.execute(insert(ComponentRow), [components | {"device_id": row["id"]} for row in rows])
    return made.release_id


def attempt(store: Store, release_id: str, *numbers: int, outcome: Outcome | None = None) -> None:
    booted = digest_of("1.1.0") if outcome is Outcome.SUCCEEDED else None
    reason = None if outcome in (None, Outcome.SUCCEEDED) else Reason.HEALTH_FAILED.value
    with store._database.changing() as change:
        for number in numbers:
            change.session.add(
                AttemptRow(
                    device_id=f"pi-{number:05}",
                    journal_id="j1",
                    attempt_id=f"a-{outcome}",
                    source_id=release_id,
                    via="release",
                    component="app",
                    version="1.1.0",
                    digest=digest_of("1.1.0"),
                    phase=Phase.PROVING.value,
                    outcome=outcome.value if outcome else None,
                    reason=reason,
                    booted_digest=booted,
                    started_at_ms=1,
                )
            )


def test_a_few_devices_are_seen_as_they_are_each_time(store: Store) -> None:
    made = release(store, "1.1.0")
    one, two, three = join(store, "pi-1", "pi-2", "pi-3")
    watching = Watching(store)

    def seen() -> tuple[dict[Stage, int], Verdict]:
        found = watching.standing(made.release_id, limit=10)
        assert sum(found.stages.values()) == len(found.devices) + found.left_out
        return found.stages, found.verdict

    assert seen() == ({Stage.WAITING: 3}, Verdict.OPEN)
    one.report(*one.steps("1.1.0", made.release_id, Phase.DOWNLOADING))
    two.fail("1.1.0", made.release_id)
    assert seen() == ({Stage.WAITING: 1, Stage.UNDER_WAY: 1, Stage.ROLLED_BACK: 1}, Verdict.OPEN)
    one.take("1.1.0", made.release_id)
    three.take("1.1.0", made.release_id)
    assert seen() == ({Stage.SUCCEEDED: 2, Stage.ROLLED_BACK: 1}, Verdict.BAD)
    three.running = {"app": "1.0.0"}
    three.tell()
    assert seen() == ({Stage.SUCCEEDED: 1, Stage.FAILED: 1, Stage.ROLLED_BACK: 1}, Verdict.BAD)
    assert [it.device_id for it in watching.standing(made.release_id, limit=1).devices] == ["pi-2"]


def test_a_cancelled_attempt_leaves_a_device_waiting_while_it_is_still_to_take_it(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.report(
        *device.steps("1.1.0", made.release_id, Phase.DOWNLOADING, outcome=Outcome.CANCELLED, reason=Reason.WITHDRAWN)
    )
    assert Watching(store).standing(made.release_id, limit=9).stages == {Stage.WAITING: 1}
    release(store, "1.2.0")  # now it is to take another one
    assert Watching(store).standing(made.release_id, limit=9).stages == {Stage.CANCELLED: 1}


def test_what_failed_before_a_retry_waits_again(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.fail("1.1.0", made.release_id)
    assert Watching(store).standing(made.release_id, limit=9).stages == {Stage.ROLLED_BACK: 1}
    with store._database.changing() as change:
        row = change.session.get_one(ReleaseRow, made.release_id)
        row.terms = {**row.terms, "retried_at": row.decision + 1}
        change.session.add(row)
    assert Watching(store).standing(made.release_id, limit=9).stages == {Stage.WAITING: 1}


def test_a_disabled_release_has_come_to_no_good(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.take("1.1.0", made.release_id)
    assert Watching(store).standing(made.release_id, limit=9).verdict is Verdict.GOOD
    store.releases.patch(made.release_id, ReleasePatch(enabled=False), by=ANN)
    assert Watching(store).standing(made.release_id, limit=9).verdict is Verdict.BAD


def test_many_devices_are_looked_at_for_a_share_of_the_time_alone(store: Store, many: str) -> None:
    time = Stopwatch(step_s=1.0)  # each look takes a second or two by this clock
    watching = Watching(store, clock=time)
    asked: list[str] = []
    event.listen(store._database._engine, "before_cursor_execute", lambda *it: asked.append(it[2]))

    def looks() -> int:
        return sum("device_component" in statement and "JOIN" not in statement for statement in asked)

    first = watching.standing(many, limit=5)
    assert (first.stages, first.left_out, first.verdict) == ({Stage.WAITING: MANY}, MANY - 5, Verdict.OPEN)
    assert looks() == 1
    attempt(store, many, *range(2500), outcome=Outcome.SUCCEEDED)
    attempt(store, many, 2501, 2502)
    found = [watching.standing(many, limit=5) for _ in range(5)][-1]
    assert looks() == 1
    assert found.stages == {Stage.WAITING: MANY - 2502, Stage.SUCCEEDED: 2500, Stage.UNDER_WAY: 2}
    time.now_s += 1000
    watching.standing(many, limit=5)
    assert looks() == 2


def test_the_end_of_a_release_to_many_is_certain_before_it_is_told(store: Store, many: str) -> None:
    time = Stopwatch(step_s=10.0)
    watching = Watching(store, clock=time)
    assert watching.standing(many, limit=5).verdict is Verdict.OPEN
    time.step_s = 0.0
    attempt(store, many, *range(MANY), outcome=Outcome.SUCCEEDED)
    with store._database.changing() as change:  # one more comes, of which the last look knew nothing
        change.session.add(DeviceRow(id="late", product=PRODUCT, hardware_model=MODEL, registered_at_ms=1))
    found = watching.standing(many, limit=5)
    assert (found.stages, found.verdict) == ({Stage.SUCCEEDED: MANY}, Verdict.OPEN)
    time.now_s += 1000
    assert watching.standing(many, limit=5).stages == {Stage.SUCCEEDED: MANY, Stage.WAITING: 1}


def test_who_asks_at_once_is_answered_by_one_look() -> None:
    time, made = Stopwatch(), []

    def make(key: str) -> int:
        made.append(key)
        time.now_s += 2
        return len(made)

    values = Sparing(make, clock=time)
    assert values.get("a", share=0.1) == (1, True)
    assert values.get("a", share=0.1) == (1, False)
    assert values.get("b", share=0.1) == (2, True)
    time.now_s += 17
    assert values.get("a", share=0.1) == (1, False)
    assert values.get("a", share=0.5) == (3, True)
    cheap = Sparing(make, is_dear=lambda _: False, clock=time)
    assert [cheap.get("c", share=0.1)[1] for _ in range(2)] == [True, True]
