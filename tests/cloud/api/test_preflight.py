"""Why a device does what it does, and plans that a release is held to, over the API."""

from __future__ import annotations

import pytest

from cloud.store.preflights import DisturbedError
from cloud.values import ChannelKey, ReleaseDraft
from protocol.phases import Phase
from protocol.up import DeviceState
from protocol.values import ComponentState
from tests.cloud.homes import MODEL, PRODUCT, Api


def test_every_rule_comes_in_order_and_then_why_it_does_not_move(api: Api) -> None:
    api.home.publish("1.1.0")
    api.home.join("pi-1")
    made = api(
        "POST",
        "/releases",
        {"product": PRODUCT, "group": "everyone", "component": "app", "version": "1.1.0"},
        expect=201,
    )["release"]

    told = api("GET", "/devices/pi-1/why")

    (app,) = told["components"]
    name = f"{made['release_id']} v1"
    assert [(step["rule"], step["subject"], step["passed"]) for step in app["decision"]["trace"]] == [
        ("hardware", name, True),
        ("percentage", name, True),
        ("target_range", name, True),
        ("release", name, True),
    ]
    assert app["lines"][0] == f"app: 1.1.0 is to be taken, by release {made['release_id']} v1 of group everyone"
    assert app["held"] == {"reason": "next_session", "detail": "takes 1.1.0 at its next session or check"}
    assert (told["device_id"], told["online"], len(app["lines"])) == ("pi-1", True, 5)


def test_what_may_move_now_is_held_by_nothing(api: Api) -> None:
    api.home.publish("1.1.0")
    api.home.join("pi-1")
    body = {"product": PRODUCT, "group": "everyone", "component": "app", "version": "1.1.0", "urgency": "immediate"}
    api("POST", "/releases", body, expect=201)

    assert api("GET", "/devices/pi-1/why")["components"][0]["held"] is None


def test_a_device_of_another_name_is_not_known(api: Api) -> None:
    api.home.join("pi-1")

    assert "pi-1" in api.refusal("GET", "/devices/pi-2/why", status=404)[1]


def test_a_forecast_of_what_is_not_published_knows_which_data_it_reads(api: Api) -> None:
    running = ComponentState(component="app", version="1.0.0", build=1, digest="1" * 64, data_schema=3)
    api.home.join("pi-1")
    assert api.home.store.journal.receive_state(
        "pi-1", DeviceState(session=1, seq=2, phase=Phase.IDLE, components=(running,))
    )
    facts = {"digest": "2" * 64, "size_bytes": 1, "hardware_models": [MODEL]}
    body = {"product": PRODUCT, "group": "everyone", "component": "app", "version": "1.1.0"}

    def counts(**schemas: object) -> object:
        return api("POST", "/releases/plan", body | {"firmware": facts | schemas})["counts"]

    assert counts(data_schema=3) == counts(data_schema=4, reads_schemas=[3]) == {"takes": 1}
    assert counts(data_schema=4) == {"data_schema": 1}


def test_a_plan_of_an_earlier_label_or_of_nobody_is_refused(api: Api) -> None:
    api.home.publish("1.1.0")
    api.home.join("pi-1")
    body = {"product": PRODUCT, "group": "everyone", "component": "app", "version": "1.1.0"}
    told = api("POST", "/releases/plan", body)
    assert (told["counts"], told["devices"]) == ({"takes": 1}, None)
    assert api("POST", "/releases/plan", body)["plan_hash"] == told["plan_hash"]
    path = f"/releases/plan/{told['plan_hash']}"
    assert api("POST", f"{path}/check", body)["release_id"] == told["release_id"]

    made = api("POST", path, body, expect=201)["release"]

    assert made["release_id"] == told["release_id"]
    assert api("GET", f"/audit?subject=release/{made['release_id']}")[-1]["after"]["plan_hash"] == told["plan_hash"]
    code, said = api.refusal("POST", path, body, status=409)
    assert (code, "label was 1 and is 2" in said) == ("conflict", True)
    assert "percentage was 100 and is 5" in api.refusal("POST", path, body | {"percentage": 5}, status=409)[1]
    assert "no plan" in api.refusal("POST", "/releases/plan/no-hash", body, status=409)[1]


def test_a_decision_at_the_very_moment_lets_no_plan_pass(api: Api) -> None:
    store = api.home.store
    api.home.publish("1.1.0")
    decided = store.preflights.decided()
    store.audit.record("bob", "release.planned", "plan/other")
    draft = ReleaseDraft(channel=ChannelKey(PRODUCT, "everyone", "app"), version="1.1.0")

    with pytest.raises(DisturbedError, match="nothing was changed"):
        store.releases.create(draft, by="ann", plan_hash="0" * 64, decided=decided)
    assert store.releases.releases() == ()


def test_the_devices_of_a_plan_come_by_verdict_and_page_by_page(api: Api) -> None:
    api.home.publish("1.1.0")
    for number in range(1, 6):
        api.home.join(f"pi-{number}", version="1.1.0" if number == 3 else "1.0.0")
    asked = {"product": PRODUCT, "group": "everyone", "component": "app", "version": "1.1.0", "devices": True}

    everybody = api("POST", "/releases/plan", asked)["devices"]
    first = api("POST", "/releases/plan", asked | {"verdict": "takes", "limit": 3})["devices"]
    rest = api("POST", "/releases/plan", asked | {"verdict": "takes", "limit": 3, "after": "pi-4"})["devices"]
    (runs,) = api("POST", "/releases/plan", asked | {"verdict": "up_to_date"})["devices"]

    assert [it["device_id"] for it in everybody] == ["pi-1", "pi-2", "pi-3", "pi-4", "pi-5"]
    assert [it["device_id"] for it in (*first, *rest)] == ["pi-1", "pi-2", "pi-4", "pi-5"]
    assert {it["verdict"] for it in (*first, *rest)} == {"takes"}
    assert runs["device_id"] == "pi-3"
    assert runs["detail"]
    assert api("POST", "/releases/plan", asked | {"verdict": "away"})["devices"] == []
