"""Why a device does what it does, over the API."""

from __future__ import annotations

from tests.cloud.homes import PRODUCT, Api


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
