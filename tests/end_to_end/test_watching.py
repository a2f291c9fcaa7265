"""Watching a real fleet: timelines of what happened, live status whose exit code is the outcome, and webhooks."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import TAKE_TIMEOUT_S, Fleet
from tests.support.processes import wait_until
from tests.support.receivers import receiving

FAST_BACK = ("--prove-timeout", 2)


def words(fleet: Fleet, *which: object) -> list[str]:
    return [moment["words"] for moment in fleet.json(*which)]


def test_a_good_release_is_watched_to_its_end_and_told_in_timelines(fleet: Fleet) -> None:
    old, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("31.0.0")
    device, second = fleet.join("watched-1", image=old), fleet.join("watched-2", image=old)
    group = fleet.group("watched", device, second)
    fleet.push(image, "--group", group, "--immediate")
    watching = fleet.office.start(
        *("release", "status", "v1", "--group", group, "--watch", "--timeout", "2m", "-o", "json"), name="watching"
    )
    assert watching.wait(TAKE_TIMEOUT_S * 2) == 0
    lines = [json.loads(line) for line in watching.log().splitlines()]
    assert (lines[-1]["verdict"], lines[-1]["stages"]) == ("good", {"succeeded": 2})
    assert all(line["verdict"] == "open" for line in lines[:-1])
    said = fleet.call("release", "status", "v1", "--group", group, "--watch")
    assert "2 devices updated" in said.out
    shown = fleet.json("release", "status", "v1", "--group", group)
    assert (shown["verdict"], shown["stages"], shown["left_out"]) == ("good", {"succeeded": 2}, 0)
    fleet.call("release", "disable", "v1", "--group", group)
    assert words(fleet, "release", "timeline", "v1", "--group", group) == [
        f"v1 of thermostat/{group}/app released: 31.0.0 100 %",
        "disabled",
    ]
    told = words(fleet, "device", "timeline", "watched-1")
    assert told[-1] == f"updated to app 31.0.0 from 1.0.0 ({group} v1)"
    assert told[0].startswith(("registered", "enrolled"))
    text = fleet.call("device", "timeline", "watched-1", "--limit", 1).out
    assert text.count("\n") == 1
    assert "updated to app 31.0.0" in text


def test_a_bad_release_ends_watching_with_one_and_its_troubles_are_in_its_timeline(fleet: Fleet) -> None:
    old, broken = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("31.1.0", fails_after_s=0.0)
    device = fleet.join("troubled-1", *FAST_BACK, image=old)
    group = fleet.group("troubled", device)
    fleet.push(broken, "--group", group, "--immediate")
    said = fleet.call("release", "status", "v1", "--group", group, "--watch", "--timeout", "2m", expect=1)
    assert "0 devices updated; 1 not" in said.out
    assert "troubled-1: rolled back" in said.err
    (_, trouble) = words(fleet, "release", "timeline", "v1", "--group", group)
    assert trouble.startswith(f"troubled-1: rolled back from app 31.1.0 ({group} v1): ")
    fleet.call("release", "disable", "v1", "--group", group)
    assert fleet.call("release", "status", "v1", "--group", group, "--watch", expect=1).out.count("disabled") == 1


def test_watching_what_does_not_move_ends_with_three(fleet: Fleet) -> None:
    device = fleet.enrol("unstarted-1")
    group = fleet.group("absent", device)
    fleet.push(fleet.images.thermostat("31.2.0"), "--group", group)
    watched = fleet.call("release", "status", "v1", "--group", group, "--watch", "--timeout", "1s", expect=3)
    assert "1 still open (unstarted-1)" in watched.out
    assert "after 1 s" in watched.out


def test_a_timeline_is_followed_as_things_happen(fleet: Fleet) -> None:
    image = fleet.images.thermostat("31.3.0")
    device = fleet.enrol("followed-1")
    group = fleet.group("followed", device)
    following = fleet.office.start("device", "timeline", "followed-1", "--follow", name="following")
    following.wait_for_line("enrolled")
    device.start()
    fleet.push(image, "--group", group, "--immediate")
    following.wait_for_line(f"updated to app 31.3.0 ({group} v1)", timeout_s=TAKE_TIMEOUT_S)
    fleet.call("device", "lock", "followed-1", "31.3.0")
    following.wait_for_line("locked to app 31.3.0, by operator")
    following.kill()


def test_a_webhook_loses_nothing_when_the_server_is_killed_and_hears_the_same_ids(own_fleet: Fleet) -> None:
    fleet = own_fleet
    with receiving() as receiver:
        added = fleet.json("webhook", "add", "pager", receiver.url, "--allow-private", "--kind", "release.*")
        secret = added["secret"]
        tested = fleet.json("webhook", "test", "pager")
        assert (tested["state"], tested["answer"]) == ("delivered", "204 No Content")
        assert receiver.next().kind == "webhook.test"
        refuses = True
        receiver.answering = lambda _: 503 if refuses else 204
        fleet.push(fleet.images.thermostat("31.4.0"))
        first = receiver.next()
        fleet.call("release", "disable", "v1")
        fleet.restart_cloud()
        refuses = False
        wait_until(lambda: _delivered(fleet) == 3, TAKE_TIMEOUT_S, "everything delivered after the kill")
    assert receiver.all[0].is_signed_with(secret)
    assert all(came.is_signed_with(secret) for came in receiver.all)
    ids = {came.id for came in receiver.all}
    assert len(ids) == 3
    assert sum(came.id == first.id for came in receiver.all) >= 2
    assert {came.body for came in receiver.all if came.id == first.id} == {first.body}
    assert sorted(came.kind for came in receiver.all if came.id != first.id)[-2:] == [
        "release.disabled",
        "webhook.test",
    ]
    page = fleet.json("webhook", "show", "pager")
    assert [(it["event"]["kind"], it["state"]) for it in page["deliveries"]] == [
        ("release.disabled", "delivered"),
        ("release.created", "delivered"),
        ("webhook.test", "delivered"),
    ]
    assert secret[6:] not in fleet.logs() + Path(fleet.office.home / "cloud" / "fleetlift.db").read_bytes().decode(
        errors="replace"
    )


def _delivered(fleet: Fleet) -> Any:
    return fleet.json("webhook", "list")[0]["delivered"]


@pytest.mark.parametrize(
    ("words_", "says"),
    [
        (("http://pager.example/",), "not encrypted"),
        (("https://127.0.0.1/",), "--allow-private"),
        (("https://pager.example/", "--kind", "device.exploded"), "no kind of event"),
        (("https://pager.example/", "--product", "termostat"), "Did you mean 'thermostat'?"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused_in_a_sentence(fleet: Fleet, words_: tuple[str, ...], says: str) -> None:
    expect = 1 if "--product" in words_ else 2
    assert says in fleet.call("webhook", "add", "refused", *words_, expect=expect).err
    assert "refused" not in [hook["name"] for hook in fleet.json("webhook", "list")]


def test_a_release_that_its_gate_stops_ends_watching_with_one_and_webhooks_hear_of_it(fleet: Fleet) -> None:
    old, broken = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("31.5.0", fails_after_s=0.0)
    device, spared = fleet.join("gated-1", *FAST_BACK, image=old), fleet.enrol("gated-2")
    first, group = fleet.group("gated-first", device), fleet.group("gated", device, spared)
    with receiving() as receiver:
        fleet.call("webhook", "add", "gates", receiver.url, "--allow-private", "--kind", "rollout.*")
        fleet.push(
            *(broken, "--group", group, "--immediate", "--phase", f"{first}:1h", "--phase", "100%:1h"),
            *("--max-failures", 0),
        )
        said = fleet.call(
            *("release", "status", "v1", "--group", group, "--watch", "--timeout", "2m", "-o", "json"), expect=1
        ).out
        stopped = next(came for came in iter(receiver.next, None) if came.kind == "rollout.gate")
        fleet.call("webhook", "remove", "gates", "--yes")
    watched = [json.loads(line) for line in said.splitlines()]
    assert watched[-1]["verdict"] == "bad"
    assert watched[-1]["rollout"]["status"] == "stopped_by_gate"
    assert stopped.event["subject"].startswith("release/")
    assert stopped.event["data"]["why"]
    assert stopped.event["data"]["why"] == watched[-1]["rollout"]["why"]
    said = fleet.call("release", "timeline", "v1", "--group", group).out
    assert "gated-1: rolled back from app 31.5.0" in said
    assert stopped.event["data"]["why"] in said
    assert fleet.attempts(spared) == []
