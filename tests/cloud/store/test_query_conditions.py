"""Queries that the database answers: the same devices as if each were looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.groups_query import Query
from cloud.store import query_conditions
from cloud.store.dynamic_groups import candidates, matching
from cloud.store.situations import ids_of
from cloud.store.store import Store
from tests.cloud.store.fleets import ANN, MODEL, PRODUCT, Clock, Device

COMPARISONS = (
    *('device_id == "pi-1"', 'device_id != "pi-1"', 'device_id like "pi-*"', 'device_id like "PI-*"'),
    *('device_id like "p?-[1]"', 'device_id like "%-1"', 'device_id like "a_b*"', 'device_id in ("pi-1", "nobody")'),
    *('device_id not in ("pi-1")', "has device_id", f'hardware_model == "{MODEL}"', 'hardware_model != "other"'),
    *('hardware_model like "?*"', "has timezone", 'timezone == "Europe/Berlin"', 'timezone != "Europe/Berlin"'),
    *('agent_version >= "0.1.0"', 'agent_version < "0.1.0"', "has agent_version", "has attributes.site"),
    *('attributes.site == "hall"', 'attributes.site != "hall"', 'attributes.site in ("hall", "attic")'),
    *('attributes.site not in ("hall")', 'attributes.site like "h*"', 'attributes.site == ""', "attributes.floor >= 3"),
    *("attributes.floor in (3, 4)", "attributes.floor == 10", 'attributes.floor == "10"', "has attributes.nothing"),
    *('app == "1.0.0"', 'app != "1.0.0"', 'app >= "1.9.0"', 'app like "1.*"', 'app in ("1.0.0", "1.10.0")', "has app"),
    *("app.build == 1", "app.build > 1", "has app.build", "has os", 'os != "1.0.0"', 'not has os and app < "1.9.0"'),
)
FLEET: tuple[tuple[str, str, dict[str, str], dict[str, str]], ...] = (
    ("pi-1", "1.0.0", {"site": "hall", "floor": "3"}, {}),
    ("pi-2", "1.9.0", {"site": "attic", "floor": "10"}, {"os": "1.0.0"}),
    ("pi-3", "1.10.0", {"site": ""}, {"os": "2.0.0"}),
    ("pi-4", "", {"floor": "third"}, {}),
    ("a-b-1", "1.10.0-rc.1", {"site": "Hall", "floor": "-2"}, {}),
    ("axb-1", "2.0.0", {}, {"os": "1.0.0"}),
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path_factory.mktemp('queries') / 'fleet.db'}", Clock()) as store:
        for product in (PRODUCT, "pump"):
            store.catalog.create_product(product, hardware_models=[MODEL], by=ANN)
        for device_id, app, attributes, others in FLEET:
            running = ({"app": app} if app else {}) | others
            Device(store, device_id, running, attributes=attributes).hello()
        store.devices.register("pump-1", product="pump", hardware_model=MODEL, by=ANN)
        yield store


def looked_at(store: Store, text: str) -> tuple[str, ...]:
    with store._database.reading() as session:
        return matching(Query.parse(text), candidates(session, PRODUCT, ids_of(PRODUCT)))


@pytest.mark.parametrize("text", COMPARISONS)
def test_each_comparison_finds_whom_it_is_true_of(fleet: Store, text: str) -> None:
    for asked in (text, f"not ({text})"):
        found = fleet.catalog.try_query(PRODUCT, asked)
        assert found.matches == looked_at(fleet, asked)
        assert (found.matched, found.devices) == (len(found.matches), len(FLEET))


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.sampled_from(COMPARISONS),
        lambda inner: (
            st.builds("({} and {})".format, inner, inner)
            | st.builds("({} or {})".format, inner, inner)
            | st.builds("not ({})".format, inner)
        ),
        max_leaves=6,
    )
)
def test_what_is_put_together_finds_the_same(fleet: Store, text: str) -> None:
    assert fleet.catalog.try_query(PRODUCT, text).matches == looked_at(fleet, text)


def test_as_many_ids_are_told_as_are_asked_for_and_all_are_counted(fleet: Store) -> None:
    found = fleet.catalog.try_query(PRODUCT, 'device_id like "pi-*"', limit=2)
    assert (found.matches, found.matched, found.devices) == (("pi-1", "pi-2"), 4, 6)
    assert fleet.catalog.try_query(PRODUCT, "has app", limit=0).matched == 5


def test_with_too_many_values_each_device_is_looked_at(fleet: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def looking(*arguments: Any, **more: Any) -> Any:
        asked.append(arguments)
        return candidates(*arguments, **more)

    monkeypatch.setattr(query_conditions, "MAX_VALUES", 2)
    monkeypatch.setattr("cloud.store.dynamic_groups.candidates", looking)
    found = fleet.catalog.try_query(PRODUCT, 'app >= "1.9.0"', limit=1)
    assert (found.matches, found.matched, len(asked)) == (("a-b-1",), 4, 1)
    assert fleet.catalog.try_query(PRODUCT, 'attributes.site == "hall"').matches == ("pi-1",)
    assert len(asked) == 1, "a text that is the same needs no values"


def test_every_database_reads_patterns_alike(store: Store) -> None:
    for device_id, app, attributes, others in FLEET:
        Device(store, device_id, {"app": app or "1.0.0"} | others, attributes=attributes).hello()
    for text in COMPARISONS:
        assert store.catalog.try_query(PRODUCT, text).matches == looked_at(store, text), text
