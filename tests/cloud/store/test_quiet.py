"""Who has gone quiet is noted once each time, also over a pause of the cloud; and the fleet in numbers."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from cloud.happenings import KINDS
from cloud.store.store import Store
from cloud.webhooks.values import WebhookDraft
from protocol.phases import Outcome, Phase, Reason
from tests.cloud.store.fleets import ANN, PRODUCT, Clock, digest_of, join, release

HOUR_S = 3600
DAY_MS = 24 * HOUR_S * 1000
SOURCES = Path(__file__).parents[3] / "cloud"


def noted(store: Store) -> list[str]:
    return [event.subject for event in store.events.after(0, kinds=["device.quiet"])]


def test_a_device_that_stays_away_is_noted_once_each_time(store: Store, clock: Clock) -> None:
    away, here, revoked = join(store, "pi-1", "pi-2", "pi-3")
    assert store.quiet.look(after_ms=DAY_MS) == 0
    away.presence(online=False)
    revoked.presence(online=False)
    store.certificates.revoke_device("pi-3", "stolen", by=ANN)
    clock.now_s += 24 * HOUR_S - 1
    assert store.quiet.look(after_ms=DAY_MS) == 0
    clock.now_s += 1
    assert store.quiet.look(after_ms=DAY_MS) == 1
    assert noted(store) == ["device/pi-1"]
    clock.now_s += 60 * HOUR_S
    assert store.quiet.look(after_ms=DAY_MS) == 0
    away.hello()
    away.presence(online=False)
    clock.now_s += 100 * HOUR_S  # the cloud was down meanwhile
    assert store.quiet.look(after_ms=DAY_MS) == 1
    assert noted(store) == ["device/pi-1"] * 2
    assert store.events.of("device/pi-1")[-1].data["quiet_for_h"] == 100
    assert here.device_id not in str(noted(store))


def test_what_was_quiet_before_anybody_looked_is_not_news(store: Store, clock: Clock) -> None:
    (away,) = join(store, "pi-1")
    away.presence(online=False)
    clock.now_s += 48 * HOUR_S
    assert [store.quiet.look(after_ms=DAY_MS) for _ in range(3)] == [0, 0, 0]


def test_many_are_noted_in_batches_and_none_twice(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.store.quiet.AT_ONCE", 2)
    store.quiet.look(after_ms=DAY_MS)
    for number in range(5):
        clock.now_s += 1
        (device,) = join(store, f"pi-{number}")
        device.presence(online=False)
    together = join(store, "pi-5", "pi-6", "pi-7")
    for device in together:
        device.presence(online=False)
    clock.now_s += 48 * HOUR_S
    assert [store.quiet.look(after_ms=DAY_MS) for _ in range(5)] == [2, 2, 4, 0, 0]
    assert noted(store) == [f"device/pi-{number}" for number in range(8)]


def test_the_fleet_in_numbers(store: Store, clock: Clock) -> None:
    made = release(store, "1.1.0")
    good, bad, open_, back = join(store, "pi-1", "pi-2", "pi-3", "pi-4")
    good.take("1.1.0", made.release_id)
    bad.fail("1.1.0", made.release_id)
    open_.report(*open_.steps("1.1.0", made.release_id, Phase.DOWNLOADING))
    back.report(
        *back.steps("1.1.0", made.release_id, Phase.PROVING, outcome=Outcome.SUCCEEDED, booted=digest_of("1.0.0"))
    )
    store.webhooks.add(WebhookDraft(name="pager", url="https://pager.example/"), by=ANN)
    release(store, "1.2.0")
    bad.presence(online=False)
    clock.now_s += 48 * HOUR_S
    numbers = store.overview.numbers(quiet_after_ms=DAY_MS)
    assert numbers.attempts == {
        ("succeeded", ""): 1,
        ("rolled_back", Reason.HEALTH_FAILED.value): 1,
        ("open", ""): 1,
        ("taken_back", ""): 1,
    }
    assert (numbers.quiet, numbers.pending, numbers.given_up) == ({PRODUCT: 1}, {"pager": 1}, {})
    store.webhooks.give_up(older_than_ms=DAY_MS)
    numbers = store.overview.numbers(quiet_after_ms=DAY_MS)
    assert (numbers.pending, numbers.given_up) == ({}, {"pager": 1})


def test_every_kind_that_webhooks_may_choose_can_happen() -> None:
    said = "".join(path.read_text(encoding="utf-8") for path in (SOURCES / "store").glob("*.py"))
    missing = [kind for kind in KINDS if f'"{kind}"' not in said and not _is_built(kind, said)]
    assert missing == []


def _is_built(kind: str, said: str) -> bool:
    family, _, what = kind.partition(".")
    return f'f"{family}.{{' in said and f'"{what}"' in said


def test_no_column_of_the_database_is_made_for_a_secret(store: Store, url: str) -> None:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    columns = [column["name"] for column in inspect(engine).get_columns("webhook")]
    engine.dispose()
    assert {"name", "url", "why_disabled"} <= set(columns)
    assert not [name for name in columns if "secret" in name or "key" in name]
