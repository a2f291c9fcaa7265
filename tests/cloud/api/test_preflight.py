"""Why a device does what it does, and plans that a release is held to, over the API."""

from __future__ import annotations

import pytest

from cloud.store.preflights import DisturbedError, HeldTo
from cloud.values import ChannelKey, ReleaseDraft
from protocol.phases import Phase
from protocol.up import DeviceState
from protocol.values import ComponentState
from tests.cloud.console.releasing import fleet, path_of, release
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
        store.releases.create(draft, by="ann", held=HeldTo("rel-1", "0" * 64, decided))
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


CHANNEL = {"product": PRODUCT, "group": "everyone", "component": "app"}


def test_a_plan_warns_of_what_would_be_refused(api: Api) -> None:
    api.home.publish("1.0.0")
    api.home.publish("1.1.0")
    api.home.join("pi-1")
    api("POST", "/releases", CHANNEL | {"version": "1.0.0"}, expect=201)
    api("POST", "/groups", {"product": PRODUCT, "group": "old", "query": 'app < "1.1.0"'}, expect=201)
    body = CHANNEL | {"group": "old", "version": "1.1.0"}

    (warning,) = api("POST", "/releases/plan", body)["warnings"]

    assert warning.endswith("; this release would be refused")
    assert api.refusal("POST", "/releases", body, status=409)[1].startswith(warning.partition(";")[0])
    facts = {"digest": "2" * 64, "size_bytes": 1, "hardware_models": [MODEL]}
    unpublished = body | {"version": "1.2.0", "firmware": facts}
    assert len(api("POST", "/releases/plan", unpublished)["warnings"]) == 1
    assert api("POST", "/releases/plan", CHANNEL | {"version": "1.1.0"})["warnings"] == []


def test_a_roll_back_and_a_promotion_are_held_to_their_plans(api: Api) -> None:
    devices = fleet(api, 3)
    first = release(api, "1.1.0")
    devices[0].take("1.1.0", first["release_id"])
    second = release(api, "1.2.0")
    devices[0].take("1.2.0", second["release_id"])
    asked = CHANNEL | {"version": "1.1.0"}
    back = f"{path_of(first)}/rollback"

    planned = api("POST", "/releases/plan", asked | {"rollback_to": 1})
    plain = api("POST", "/releases/plan", asked)
    assert planned["plan_hash"] != plain["plan_hash"]
    assert "no plan" in api.refusal("POST", back, {"plan_hash": ""}, status=409)[1]
    said = api.refusal("POST", back, {"plan_hash": plain["plan_hash"]}, status=409)[1]
    assert "rollback_to was nothing and is 1" in said
    said = api.refusal("POST", back, {"plan_hash": planned["plan_hash"], "urgency": "immediate"}, status=409)[1]
    assert 'urgency was "gradual" and is "immediate"' in said
    devices[1].take("1.1.0", first["release_id"])
    said = api.refusal("POST", back, {"plan_hash": planned["plan_hash"]}, status=409)[1]
    assert "takes was 3 and is 2" in said
    planned = api("POST", "/releases/plan", asked | {"rollback_to": 1})
    made = api("POST", back, {"plan_hash": planned["plan_hash"]}, expect=201)["release"]
    assert (made["release_id"], made["references_label"]) == (planned["release_id"], 1)
    rows = api("GET", f"/audit?subject=release/{made['release_id']}")
    assert rows[-1]["after"]["plan_hash"] == planned["plan_hash"]

    again = api("POST", "/releases/plan", CHANNEL | {"version": "1.2.0", "percentage": 50})
    promote = {"group": "everyone", "percentage": 50, "plan_hash": again["plan_hash"]}
    said = api.refusal("POST", f"{path_of(second)}/promote", promote | {"percentage": 60}, status=409)[1]
    assert "percentage was 50 and is 60" in said
    made = api("POST", f"{path_of(second)}/promote", promote, expect=201)["release"]
    assert (made["release_id"], made["percentage"]) == (again["release_id"], 50)


def test_a_roll_back_to_what_cannot_be_is_not_planned(api: Api) -> None:
    fleet(api, 2)
    release(api, "1.1.0")
    release(api, "1.2.0")
    asked = CHANNEL | {"version": "1.1.0"}

    assert "succeeded on no device" in api.refusal("POST", "/releases/plan", asked | {"rollback_to": 1}, status=409)[1]
    assert "is Live already" in api.refusal("POST", "/releases/plan", asked | {"rollback_to": 2}, status=409)[1]
    api.refusal("POST", "/releases/plan", asked | {"rollback_to": 9}, status=404)


def test_who_waits_is_told_and_a_change_is_held_to_it(api: Api) -> None:
    devices = fleet(api, 4)
    made = release(api, "1.1.0", percentage=100)
    devices[0].take("1.1.0", made["release_id"])
    api.home.store.devices.pin("pi-04", "app", "1.0.0", by="test")
    path = path_of(made)

    told = api("GET", f"{path}/waiting")
    assert (told["count"], [it["device_id"] for it in told["devices"]]) == (2, ["pi-02", "pi-03"])
    assert {it["stage"] for it in told["devices"]} == {"waiting"}
    some = api("GET", f"{path}/waiting?limit=1")
    assert (some["digest"], len(some["devices"])) == (told["digest"], 1)
    api.home.store.devices.unpin("pi-04", "app", by="test")
    devices[1].take("1.1.0", made["release_id"])
    change = {"urgency": "immediate", "if_waiting": told["digest"]}
    assert "others wait for it than were shown: 2 devices" in api.refusal("PATCH", path, change, status=409)[1]
    assert api("GET", path)["release"]["urgency"] == "gradual"
    now = api("GET", f"{path}/waiting")
    assert api("PATCH", path, change | {"if_waiting": now["digest"]})["release"]["urgency"] == "immediate"


def test_who_waits_is_whom_progress_says(api: Api) -> None:
    fleet(api, 30)
    made = release(api, "1.1.0", percentage=40)
    stages = api("GET", f"{path_of(made)}/progress")["stages"]
    told = api("GET", f"{path_of(made)}/waiting")
    assert 0 < told["count"] == stages["waiting"] < 30
