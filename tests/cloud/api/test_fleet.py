"""The fleet as a whole over HTTP: its numbers, who needs somebody, how it was, and who may look at which of it."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert

from cloud.access.roles import Role
from cloud.changes import Changes
from cloud.models import DeviceRow
from cloud.refusals import Refusals
from cloud.roles import utc_now
from cloud.sparing import CALM_S, MANY
from cloud.surveying import Surveying
from protocol.phases import Reason
from tests.cloud.homes import MODEL, PRODUCT, Api, OpenHome, open_home, serve_api
from tests.cloud.store.fleets import Device
from tests.cloud.visitors import OTHER, add_product, join, visitor
from tests.support.processes import wait_until


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with open_home(tmp_path / "home") as home, serve_api(home) as served:
        yield served


def devices_of(home: OpenHome, *ids: str) -> list[Device]:
    found = [Device(home.store, it, {"app": "1.0.0"}, model=MODEL) for it in ids]
    for device in found:
        device.hello()
    return found


def test_the_fleet_in_numbers(api: Api) -> None:
    assert api("GET", "/fleet")["products"] == []
    one, two, three = devices_of(api.home, "pi-1", "pi-2", "pi-3")
    one.take("1.1.0", "r-1")
    two.fail("1.1.0", "r-1", Reason.HEALTH_FAILED)
    three.presence(online=False)
    page = api("GET", "/fleet")
    (told,) = page["products"]
    assert (told["product"], told["devices"], told["online"], told["quiet"]) == (PRODUCT, 3, 2, 0)
    assert told["failures"] == {"health_failed": 1}
    assert [(it["version"], it["devices"], it["online"]) for it in told["versions"]] == [
        ("1.0.0", 2, 1),
        ("1.1.0", 1, 1),
    ]
    assert api("GET", "/fleet", params={"product": PRODUCT})["products"] == [told]
    api.refusal("GET", "/fleet", status=404, params={"product": "thermostats"})


def test_signed_metadata_that_is_due_needs_somebody(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    add_product(api.home)
    assert api("GET", "/fleet/attention")["metadata"] == []
    at = utc_now() + timedelta(days=330)
    monkeypatch.setattr("cloud.api.fleet.utc_now", lambda: at)
    found = {it["role"]: it for it in api("GET", "/fleet/attention")["metadata"]}
    assert set(found) == {"root", "targets", "snapshot", "timestamp", PRODUCT, OTHER}
    due, late = found[PRODUCT], found["timestamp"]
    assert (due["product"], due["has_expired"], due["command"]) == (PRODUCT, False, f"fleetlift key renew {PRODUCT}")
    assert due["why"] == f"Devices take no firmware of {PRODUCT} once it has expired. Renew it where its keys are."
    assert (late["product"], late["has_expired"]) == ("", True)
    assert "until it is renewed. The server renews it, and could not" in late["why"]
    of_other = api("GET", "/fleet/attention", params={"product": OTHER})["metadata"]
    assert {it["role"] for it in of_other} == set(found) - {PRODUCT}
    viewer = visitor(api, "v", {OTHER: Role.VIEWER})
    assert viewer("GET", "/fleet/attention")["metadata"] == of_other


def test_who_needs_somebody(api: Api) -> None:
    one, two = devices_of(api.home, "pi-1", "pi-2")
    assert api("GET", "/fleet/attention")["needs"] == []
    one.fail("1.1.0", "r-1", Reason.HEALTH_FAILED)
    two.fail("1.1.0", "r-1", Reason.HEALTH_FAILED)
    api.backend.refusals.note("pi-1", "report", "bad_message", "a field is missing")
    api.backend.refusals.note("stranger", "hello", "unknown_device", "nobody knows it")
    needs = {(it["trouble"], it["product"]): it for it in api("GET", "/fleet/attention")["needs"]}
    assert {key: it["count"] for key, it in needs.items()} == {
        ("rolled_back", PRODUCT): 2,
        ("refused", ""): 1,
        ("refused", PRODUCT): 1,
    }
    assert needs["refused", PRODUCT]["devices"][0]["detail"] == "report (1 times): a field is missing"
    (few,) = api("GET", "/fleet/attention", params={"trouble": "rolled_back", "limit": 1})["needs"]
    assert (few["count"], len(few["devices"])) == (2, 1)
    api.refusal("GET", "/fleet/attention", status=422, params={"trouble": "sadness"})
    api.refusal("GET", "/fleet/attention", status=422, params={"limit": 101})


def test_the_fleet_over_time(api: Api) -> None:
    devices_of(api.home, "pi-1", "pi-2")
    api.home.store.samples.take()
    (whole,) = api("GET", "/fleet/history", params={"product": PRODUCT})["series"]
    assert [(it["devices"], it["online"]) for it in whole["points"]] == [(2, 2)]
    page = api("GET", "/fleet/history", params={"product": PRODUCT, "component": "app"})
    (version,) = page["series"]
    assert page["components"] == ["app"]
    assert (version["version"], version["points"][0]["devices"]) == ("1.0.0", 2)
    after = {"product": PRODUCT, "since_ms": whole["points"][0]["at_ms"] + 1}
    assert api("GET", "/fleet/history", params=after)["series"] == []
    api.refusal("GET", "/fleet/history", status=422)
    api.refusal("GET", "/fleet/history", status=404, params={"product": "toaster"})


def test_somebody_with_one_product_sees_that_one(api: Api) -> None:
    add_product(api.home)
    join(api.home, "pump-1")
    (one,) = devices_of(api.home, "pi-1")
    one.fail("1.1.0", "r-1", Reason.HEALTH_FAILED)
    api.backend.refusals.note("pump-1", "report", "bad_message", "a field is missing")
    api.backend.refusals.note("stranger", "hello", "unknown_device", "nobody knows it")
    ben = visitor(api, "ben", {OTHER: Role.VIEWER})
    assert [it["product"] for it in ben("GET", "/fleet")["products"]] == [OTHER]
    assert [(it["trouble"], it["product"]) for it in ben("GET", "/fleet/attention")["needs"]] == [("refused", OTHER)]
    assert ben("GET", "/fleet/history", params={"product": OTHER})["series"] == []
    for path in ("/fleet", "/fleet/attention", "/fleet/history"):
        ben.refusal("GET", path, status=404, params={"product": PRODUCT})


class Counted:
    """A survey of a store whose countings are counted, by a clock that the test moves."""

    def __init__(self, home: OpenHome) -> None:
        self.changes, self.times, self.now_s = Changes(), 0, 0.0
        self.took_s = 1.0
        self.may_end = threading.Event()
        self.may_end.set()
        self.surveying = Surveying(
            *(home.store, Refusals(), self.changes), quiet_after_ms=1, now=self._tell, clock=lambda: self.now_s
        )

    def _tell(self) -> float:
        self.times += 1
        assert self.may_end.wait(30)
        self.now_s += self.took_s
        return self.now_s


def make_many(home: OpenHome) -> None:
    row = {"product": PRODUCT, "hardware_model": MODEL, "registered_at_ms": 1, "attributes": {}, "encodings": []}
    with home.store._database.changing() as change:
        change.session.execute(insert(DeviceRow), [row | {"id": f"many-{number:05}"} for number in range(MANY)])


def test_a_small_fleet_is_counted_each_time(api: Api) -> None:
    counted = Counted(api.home)
    devices_of(api.home, "pi-1")
    assert counted.surveying.get().products[PRODUCT].devices == 1
    devices_of(api.home, "pi-2")
    glanced = counted.surveying.glance()
    assert glanced is not None
    assert glanced.products[PRODUCT].devices == 2
    assert counted.times == 2


def test_nobody_waits_for_the_numbers_of_a_large_fleet(api: Api) -> None:
    make_many(api.home)
    counted = Counted(api.home)
    counted.may_end.clear()
    assert counted.surveying.glance() is None
    assert counted.surveying.glance() is None
    counted.may_end.set()
    first = counted.surveying.get()
    assert first.products[PRODUCT].devices == MANY
    wait_until(lambda: counted.changes.revision == 1, what="whoever looks being told")
    counted.may_end.clear()
    counted.now_s += 19
    assert counted.surveying.glance() is first, "a twentieth of the time is spent on it"
    assert counted.times == 1
    counted.now_s += CALM_S
    assert counted.surveying.get() is first, "shown until the next is there"
    assert counted.surveying.get() is first
    counted.may_end.set()
    wait_until(lambda: counted.changes.revision == 2, what="the second count")
    second = counted.surveying.get()
    assert second.counted_at_ms > first.counted_at_ms
    assert counted.times == 2


def test_a_count_that_failed_is_tried_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    make_many(api.home)
    counted = Counted(api.home)
    store = api.home.store

    def fail_once() -> None:
        monkeypatch.undo()
        raise OSError("the disk is full")

    monkeypatch.setattr(store.samples, "count", fail_once)
    assert counted.surveying.glance() is None
    wait_until(lambda: counted.surveying.glance() is not None, what="the second try")
