"""Dynamic groups: members follow from facts, in the transaction that changes them, and devices are told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.groups_query import Candidate, Query
from cloud.store.dynamic_groups import MAX_DYNAMIC, MAX_MEMBERSHIPS
from cloud.store.errors import ConflictError, InvalidError, NotFoundError
from cloud.store.store import Store
from cloud.values import OutboxKind, ReleaseDraft
from protocol.identity import EVERYONE, Installed
from tests.cloud.store.fleets import ANN, MODEL, PRODUCT, Clock, Device, channel, join, release

HALL = 'attributes.site == "hall"'
ATTIC = 'attributes.site == "attic"'


def marked(store: Store) -> set[str]:
    return {item.key for item in store.outbox.take(10_000, OutboxKind.DESIRED)}


def settle(store: Store) -> None:
    for item in store.outbox.take(10_000):
        store.outbox.settle(item)


def test_a_group_by_a_query_has_whom_it_is_true_of_and_they_are_told(store: Store) -> None:
    join(store, "pi-1", "pi-2")
    Device(store, "pi-3", attributes={"site": "attic"}).hello()
    settle(store)
    made = store.catalog.create_group(PRODUCT, "hall", rank=1, query=HALL, by=ANN)
    assert (made.query, made.devices, made.rank) == (HALL, 2, 1)
    assert store.catalog.members(PRODUCT, "hall") == ("pi-1", "pi-2")
    assert marked(store) == {"pi-1", "pi-2"}
    assert store.devices.desired_for("pi-1").groups == ("hall", EVERYONE)


def test_late_joiners_are_in_it_with_their_first_hello(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "hall", query=HALL, by=ANN)
    store.catalog.create_group(PRODUCT, "pies", query=f'hardware_model == "{MODEL}"', by=ANN)
    answer = Device(store, "late").hello()
    assert answer.desired is not None
    assert answer.desired.groups == ("hall", "pies", EVERYONE)
    store.devices.register("known-before", product=PRODUCT, hardware_model=MODEL, by=ANN)
    assert store.devices.device("known-before").groups == ("pies", EVERYONE)


def test_a_hello_with_other_attributes_moves_the_device_at_once(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "hall", query=HALL, by=ANN)
    store.catalog.create_group(PRODUCT, "attic", query=ATTIC, by=ANN)
    (device,) = join(store, "pi-1")
    device.attributes = {"site": "attic"}
    answer = device.hello()
    assert answer.desired is not None
    assert answer.desired.groups == ("attic", EVERYONE)
    device.attributes = {}
    assert device.hello().desired.groups == (EVERYONE,)  # type: ignore[union-attr]


def test_a_state_with_other_versions_moves_the_device_and_has_it_told(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "old", query='app < "1.1.0"', by=ANN)
    (device,) = join(store, "pi-1")
    settle(store)
    device.tell()
    assert marked(store) == set()
    device.running = {"app": "1.1.0"}
    device.tell()
    assert marked(store) == {"pi-1"}
    assert store.devices.device("pi-1").groups == (EVERYONE,)
    device.running = {"app": "1.0.0"}
    device.tell()
    assert store.devices.device("pi-1").groups == ("old", EVERYONE)


def test_what_is_released_to_it_reaches_its_members(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "hall", query=HALL, by=ANN)
    (device,) = join(store, "pi-1")
    Device(store, "pi-2", attributes={}).hello()
    made = release(store, "1.1.0", "hall")
    decided = {name: store.devices.decide(name)[0].wanted for name in ("pi-1", "pi-2")}
    assert decided["pi-1"] is not None
    assert decided["pi-1"].source_id == made.release_id
    assert decided["pi-2"] is None
    assert device.hello().desired.notices == {"hall/app": store.releases.channel_notice(made.channel).seq}  # type: ignore[union-attr]


def test_a_release_from_which_a_query_would_send_devices_back_is_not_made(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "old", query='app < "1.1.0"', by=ANN)
    store.catalog.create_group(PRODUCT, "hall", query=f'{HALL} and app < "1.1.0"', by=ANN)
    join(store, "pi-1", "pi-2")
    release(store, "1.0.0")
    with pytest.raises(
        ConflictError, match=r"2 devices would not keep app 1\.1\.0.*leave group old.*nothing was released"
    ):
        release(store, "1.1.0", "old")
    with pytest.raises(ConflictError, match="2 devices would not keep"):
        release(store, "1.1.0", "hall")
    assert [it.firmware.version for it in store.releases.releases(product=PRODUCT)] == ["1.0.0"]
    (warning,) = store.preflights.warnings(ReleaseDraft(channel=channel("old"), version="1.1.0"))
    assert warning.endswith("this release would be refused")
    assert store.preflights.warnings(ReleaseDraft(channel=channel(), version="1.1.0")) == ()
    release(store, "1.1.0", target_range="<1.1.0")


def test_another_query_lets_go_of_some_and_takes_others(store: Store) -> None:
    join(store, "pi-1")
    Device(store, "pi-2", attributes={"site": "attic"}).hello()
    store.catalog.create_group(PRODUCT, "place", query=HALL, by=ANN)
    settle(store)
    assert store.catalog.set_query(PRODUCT, "place", ATTIC, by=ANN).query == ATTIC
    assert store.catalog.members(PRODUCT, "place") == ("pi-2",)
    assert marked(store) == {"pi-1", "pi-2"}
    newest = store.audit.last(f"group/{PRODUCT}/place")
    assert newest is not None
    assert newest.action == "group.query_changed"
    assert newest.after == {"query": ATTIC, "came": 1, "went": 1}
    with pytest.raises(InvalidError, match="cannot be read"):
        store.catalog.set_query(PRODUCT, "place", "site ==", by=ANN)
    assert store.catalog.group(PRODUCT, "place").query == ATTIC


def test_nobody_is_put_in_or_taken_out_by_hand(store: Store) -> None:
    join(store, "pi-1")
    store.catalog.create_group(PRODUCT, "hall", query=HALL, by=ANN)
    with pytest.raises(ConflictError, match="none is put in or taken out by hand"):
        store.catalog.add_to_group(PRODUCT, "hall", ["pi-1"], by=ANN)
    with pytest.raises(ConflictError, match="none is put in or taken out by hand"):
        store.catalog.remove_from_group(PRODUCT, "hall", ["pi-1"], by=ANN)
    with pytest.raises(ConflictError, match="none is put in by hand"):
        store.devices.register("pi-9", product=PRODUCT, hardware_model=MODEL, groups=["hall"], by=ANN)
    store.catalog.create_group(PRODUCT, "by-hand", by=ANN)
    with pytest.raises(ConflictError, match="has no query"):
        store.catalog.set_query(PRODUCT, "by-hand", HALL, by=ANN)
    with pytest.raises(NotFoundError):
        store.devices.device("pi-9")


def test_a_group_that_is_deleted_is_left_by_all_and_its_query_is_forgotten(store: Store) -> None:
    (device,) = join(store, "pi-1")
    store.catalog.create_group(PRODUCT, "hall", query=HALL, by=ANN)
    store.catalog.delete_group(PRODUCT, "hall", by=ANN)
    assert device.hello().desired.groups == (EVERYONE,)  # type: ignore[union-attr]


def test_a_trial_says_who_would_be_in_it_and_changes_nothing(store: Store) -> None:
    join(store, "pi-1", "pi-2")
    trial = store.catalog.try_query(PRODUCT, 'device_id == "pi-2" and online >= "1.0.0" or app == "1.0.0"')
    assert (trial.matches, trial.devices) == (("pi-1", "pi-2"), 2)
    assert (trial.nobody_has, trial.follows_versions) == (("online",), True)
    assert [group.group for group in store.catalog.groups(PRODUCT)] == [EVERYONE]


def test_why_a_device_is_in_a_group_or_not(store: Store) -> None:
    join(store, "pi-1")
    store.catalog.create_group(PRODUCT, "attic", query=ATTIC, by=ANN)
    match = store.catalog.explain_match(PRODUCT, "pi-1", group="attic")
    assert (match.member, match.matches) == (False, False)
    assert [(it.saw, it.holds) for it in match.saw] == [('"hall"', False)]
    assert store.catalog.explain_match(PRODUCT, "pi-1", group=EVERYONE).member
    assert store.catalog.explain_match(PRODUCT, "pi-1", query=HALL).matches


def test_a_device_is_in_no_more_groups_than_a_message_can_name(store: Store) -> None:
    (device,) = join(store, "pi-1")
    for number in range(MAX_MEMBERSHIPS - 1):
        store.catalog.create_group(PRODUCT, f"by-hand-{number}", by=ANN)
        store.catalog.add_to_group(PRODUCT, f"by-hand-{number}", ["pi-1"], by=ANN)
    assert store.catalog.create_group(PRODUCT, "first", query=HALL, by=ANN).devices == 1
    assert store.catalog.create_group(PRODUCT, "second", query=HALL, by=ANN).devices == 0
    groups = device.hello().desired.groups  # type: ignore[union-attr]
    assert len(groups) == MAX_MEMBERSHIPS + 1
    assert "first" in groups
    store.catalog.remove_from_group(PRODUCT, "by-hand-0", ["pi-1"], by=ANN)
    assert "second" in device.hello().desired.groups  # type: ignore[union-attr]


def test_a_product_has_only_so_many_of_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.store.dynamic_groups.MAX_DYNAMIC", 2)
    assert MAX_DYNAMIC > 2
    store.catalog.create_group(PRODUCT, "one", query=HALL, by=ANN)
    store.catalog.create_group(PRODUCT, "two", query=HALL, by=ANN)
    with pytest.raises(ConflictError, match="the most there can be"):
        store.catalog.create_group(PRODUCT, "three", query=HALL, by=ANN)


QUERIES = (HALL, ATTIC, 'app >= "1.1.0"', 'not attributes.site == "hall" or app < "1.1.0"', "has attributes.floor")
MOVES = st.tuples(
    st.sampled_from(["pi-1", "pi-2", "pi-3"]),
    st.sampled_from(["hello", "state", "query"]),
    st.dictionaries(st.sampled_from(["site", "floor"]), st.sampled_from(["hall", "attic", "3"])),
    st.sampled_from(["1.0.0", "1.1.0", "1.2.0"]),
    st.sampled_from(QUERIES),
)


@settings(max_examples=15, deadline=None)
@given(moves=st.lists(MOVES, min_size=1, max_size=8))
def test_members_are_always_those_of_whom_the_query_is_true(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, str, dict[str, str], str, str]]
) -> None:
    with Store.open(f"sqlite:///{tmp_path_factory.mktemp('random') / 'fleet.db'}", Clock()) as store:
        store.catalog.create_product(PRODUCT, hardware_models=[MODEL], by=ANN)
        store.catalog.create_group(PRODUCT, "some", query=HALL, by=ANN)
        devices: dict[str, Device] = {}
        for device_id, kind, attributes, version, query in moves:
            device = devices.get(device_id)
            if kind == "query":
                store.catalog.set_query(PRODUCT, "some", query, by=ANN)
            elif device is None or kind == "hello":
                device = devices.setdefault(device_id, Device(store, device_id))
                device.attributes, device.running = attributes, {"app": version}
                device.hello()
            else:
                device.running = {"app": version}
                device.tell()
            parsed = Query.parse(store.catalog.group(PRODUCT, "some").query or "")
            expected = tuple(sorted(name for name, it in devices.items() if parsed.matches(seen(it))))
            assert store.catalog.members(PRODUCT, "some") == expected


def seen(device: Device) -> Candidate:
    installed = {name: Installed(version=version, build=1) for name, version in device.running.items()}
    known = Candidate(device_id=device.device_id, hardware_model=device.model, components=installed)
    return replace(known, agent_version="0.1.0", attributes=device.attributes)
