"""Lists by what devices are, and one decision for many of them, over HTTP."""

import pytest

from cloud.access.roles import Role
from cloud.attention import Trouble
from tests.cloud.homes import MODEL, PRODUCT, Api, hello_of
from tests.cloud.troubled import troubled
from tests.cloud.visitors import OTHER, add_product, join, visitor

LOCK = {"product": PRODUCT, "deed": "lock", "component": "app", "version": "1.1.0"}


@pytest.fixture
def fleet(api: Api) -> Api:
    """Three devices of two sites, and a firmware."""
    api.home.publish("1.1.0")
    for name, site in (("north-1", "oslo"), ("north-2", "oslo"), ("south-1", "rome")):
        api.home.store.journal.receive_hello(name, hello_of(attributes={"site": site, "floor": "2"}))
    return api


def found(api: Api, **query: object) -> list[str]:
    page = api("GET", "/devices", params=query)
    assert page["total"] == len(page["devices"])
    return [it["device_id"] for it in page["devices"]]


def test_devices_are_looked_for_by_whatever_they_are(fleet: Api) -> None:
    assert found(fleet, text="north") == ["north-1", "north-2"]
    assert found(fleet, attribute=["site=oslo", "floor=2"], text="2") == ["north-2"]
    assert found(fleet, attribute="site=paris") == []
    assert found(fleet, hardware_model=MODEL, revoked=False, held=False) == ["north-1", "north-2", "south-1"]
    assert found(fleet, quiet_for_s=1) == []
    assert found(fleet, failed="any") == []
    fleet.home.store.devices.pin("south-1", "app", "1.1.0", by="test")
    assert found(fleet, locked=True) == ["south-1"]


def test_pages_tell_the_total_of_all(fleet: Api) -> None:
    first = fleet("GET", "/devices", params={"limit": 2})
    assert (first["total"], first["next"]) == (3, "north-2")
    last = fleet("GET", "/devices", params={"limit": 2, "after": first["next"]})
    assert (last["total"], last["next"], len(last["devices"])) == (3, None, 1)


def test_devices_are_found_by_what_troubles_them_as_many_as_need_somebody(api: Api) -> None:
    troubled(api)
    needs = api("GET", "/fleet/attention", params={"limit": 100})["needs"]
    counted = {it["trouble"]: sorted(device["device_id"] for device in it["devices"]) for it in needs if it["product"]}
    assert set(counted) == set(Trouble), "every kind is there"
    assert {it: found(api, trouble=it) for it in counted} == counted
    assert counted["failed"] == ["both-1", "failed-1", "failed-2"]
    assert counted["rolled_back"] == ["both-1", "rolled-1", "rolled-2", "unsaid-1"]
    assert counted["taken_back"] == ["back-1", "back-2"], "once, however many of its components are"
    (numbers,) = api("GET", "/fleet")["products"]
    assert numbers["failed"] == len(found(api, failed="any", revoked=False)) == 6
    assert numbers["failures"] == {
        it or "": len(found(api, failed=it or "none", revoked=False)) for it in ("health_failed", "too_large", "")
    }


def test_devices_are_found_by_their_certificates_what_waits_and_what_they_refused(api: Api) -> None:
    devices = troubled(api)
    assert found(api, certificate="expires_soon") == ["ends-1"]
    assert found(api, certificate="expired") == ["ended-1"]
    assert found(api, certificate="revoked") == ["gone-ended"]
    assert found(api, certificate="good") == ["good-1"]
    assert len(found(api, certificate="none")) == len(devices) - 4
    assert found(api, waits="declined") == ["declined-1"]
    assert found(api, waits="requirement", online=True) == ["blocked-1"]
    assert found(api, refused=True) == ["wary-1"]
    assert len(found(api, refused=False, revoked=False)) == len(devices) - 5
    devices["declined-1"].tell()
    devices["wary-1"].tell()
    assert found(api, waits="declined") == found(api, refused=True) == []
    body = {**LOCK, "version": "2.0.0", "where": {"trouble": "blocked"}, "count": 2}
    assert api("POST", "/devices/bulk", body)["changed"] == 2
    assert found(api, locked=True) == ["blocked-1", "blocked-2"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"trouble": "none"}, "trouble"),
        ({"certificate": "bad"}, "certificate"),
        ({"waits": "for godot"}, "waits"),
        ({"attribute": "site"}, "looked for as name=value"),
        ({"failed": "luck"}, "no reason of a failure"),
        ({"quiet_for_s": -1}, "quiet_for_s"),
        ({"attribute": ["a=b"] * 9}, "attribute"),
        ({"decision": 0}, "decision"),
    ],
)
def test_what_is_no_filter_is_refused(fleet: Api, query: dict[str, object], said: str) -> None:
    _code, message = fleet.refusal("GET", "/devices", status=422, params=query)
    assert said in message


def test_a_decision_for_many_is_shown_first_and_held_to_their_number(fleet: Api) -> None:
    where = {"text": "north"}
    would = fleet("POST", "/devices/bulk", {**LOCK, "where": where, "dry_run": True})
    assert would == {"decision": None, "devices": 2, "changed": 2, "unchanged": 0, "left_out": []}
    assert found(fleet, locked=True) == []

    code, message = fleet.refusal("POST", "/devices/bulk", {**LOCK, "where": where, "count": 3}, status=409)
    assert code == "conflict"
    assert "2 devices are found now, and it was to be 3" in message
    assert found(fleet, locked=True) == []

    fleet.home.join("north-3")
    assert fleet.refusal("POST", "/devices/bulk", {**LOCK, "where": where, "count": 2}, status=409)
    made = fleet("POST", "/devices/bulk", {**LOCK, "where": where, "count": 3})
    assert (made["devices"], made["changed"]) == (3, 3)
    assert found(fleet, locked=True) == ["north-1", "north-2", "north-3"]
    (row,) = fleet("GET", "/audit", params={"action": "devices.pinned"})
    assert (row["number"], row["after"]["number"]) == (made["decision"], 3)
    assert found(fleet, decision=made["decision"]) == ["north-1", "north-2", "north-3"]
    assert found(fleet, decision=row["number"] + 1) == []
    moment = fleet("GET", "/devices/north-1/timeline")["moments"][-1]
    assert (moment["words"], moment["decision"]) == (
        "locked to app 1.1.0, with 2 others by one decision",
        made["decision"],
    )
    assert moment["actor"] == row["actor"]
    assert row["after"]["chosen"] == {"text": "north"}


def test_devices_are_named_too(fleet: Api) -> None:
    fleet.home.store.catalog.create_group(PRODUCT, "pilots", by="test")
    body = {"product": PRODUCT, "deed": "add_to_group", "group": "pilots", "devices": ["north-1", "south-1"]}
    made = fleet("POST", "/devices/bulk", {**body, "count": 2})
    assert made["changed"] == 2
    assert found(fleet, group="pilots") == ["north-1", "south-1"]
    again = fleet("POST", "/devices/bulk", {**body, "count": 2})
    assert (again["changed"], again["unchanged"]) == (0, 2)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({**LOCK, "count": 1}, 422, "name the devices, or say where"),
        ({**LOCK, "where": {}, "devices": ["north-1"], "count": 1}, 422, "one of the two"),
        ({**LOCK, "where": {}}, 422, "say how many devices"),
        ({**LOCK, "version": "", "where": {}, "count": 3}, 422, "version: needed to lock"),
        ({**LOCK, "version": "1.1.1", "where": {}, "count": 3}, 404, "Did you mean '1.1.0'"),
        ({**LOCK, "where": {"online": "yes"}, "count": 3}, 422, "online"),
        ({**LOCK, "where": {"product": "lamp"}, "count": 3}, 409, "'lamp' is looked for"),
        ({**LOCK, "devices": ["nobody"], "count": 1}, 404, "no device 'nobody'"),
        ({**LOCK, "deed": "praise", "where": {}, "count": 3}, 422, "deed"),
    ],
)
def test_what_is_no_decision_is_refused_and_nothing_is_done(
    fleet: Api, body: dict[str, object], status: int, said: str
) -> None:
    _code, message = fleet.refusal("POST", "/devices/bulk", body, status=status)
    assert said in message
    assert found(fleet, locked=True) == []


def test_who_may_not_move_devices_or_force_them_is_refused(fleet: Api) -> None:
    add_product(fleet.home)
    join(fleet.home, "other-1", OTHER)
    viewer, operator = (
        visitor(fleet, name, {PRODUCT: role}) for name, role in (("v", Role.VIEWER), ("o", Role.OPERATOR))
    )
    ask = {**LOCK, "where": {}, "count": 3}
    assert viewer.refusal("POST", "/devices/bulk", ask, status=403)
    assert viewer.refusal("POST", "/devices/bulk", {**ask, "dry_run": True}, status=403)
    forced = {**ask, "deed": "ota", "forced": True}
    assert operator.refusal("POST", "/devices/bulk", forced, status=403)
    assert operator.refusal("POST", "/devices/bulk", {**ask, "product": OTHER}, status=404)
    _code, message = operator.refusal("POST", "/devices/bulk", {**LOCK, "devices": ["other-1"], "count": 1}, status=404)
    assert OTHER not in message, "who may not look at a product does not learn that a device is of it"
    assert operator("POST", "/devices/bulk", ask)["changed"] == 3


def test_a_device_that_is_mistyped_is_told_in_a_large_fleet_too(fleet: Api) -> None:
    _code, message = fleet.refusal("GET", "/devices/north-11", status=404)
    assert "Did you mean 'north-1'?" in message
