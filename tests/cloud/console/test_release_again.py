"""More of a release that exists: changed, made immediate, made Live again, promoted; all held to what was shown."""

from typing import Any

import pytest

from cloud.api.documents import ReleaseChange
from tests.cloud.console.releasing import CHANNEL, fleet, parses, path_of, release, stat
from tests.cloud.console.visits import Page, reading
from tests.cloud.homes import PRODUCT, Api
from tests.cloud.store.fleets import Device


def steering(page: Page) -> list[str]:
    return [it.get_text(strip=True) for it in page.soup.select(".steering .button")]


# Changing one


def test_it_is_edited_and_says_what_was_changed(api: Api) -> None:
    fleet(api)
    made = release(api, "1.1.0", percentage=40)
    with reading(api) as ann:
        page = ann.get(path_of(made)).follow("Edit")
        values = {"Percentage of the group": "60", "Description": "calmer"}
        values["Mandatory: installed at start-up, before the application runs"] = True  # type: ignore[assignment]
        values["Forced: goes over disabled updates and holds of the application"] = True  # type: ignore[assignment]
        page = page.submit("Save", values)
        assert page.said.startswith("v1 is changed: percentage, mandatory, forced, description.")
        after = api("GET", path_of(made))["release"]
        assert after["forced"] is True
        assert (after["percentage"], after["mandatory"], after["description"]) == (60, True, "calmer")
        parses(page)
        assert "Nothing was changed" in page.follow("Edit").submit("Save").said


def test_all_that_the_api_changes_of_a_release_can_be_changed_in_the_console(api: Api) -> None:
    fleet(api)
    made = release(api, "1.1.0", forced=True)
    with reading(api) as ann:
        page = ann.get(f"{path_of(made)}/edit")
        names = {str(it["name"]) for it in page.soup.select("main form [name]")} - {"csrf"}
        elsewhere = {"enabled", "if_waiting"}
        assert names == set(ReleaseChange.model_fields) - elsewhere
        assert page.one("[name=forced]").has_attr("checked")
        page = page.submit("Save", {"Forced: goes over disabled updates and holds of the application": False})
        assert page.said.startswith("v1 is changed: forced.")
        assert any("--no-force" in line for line in page.cli())
    assert api("GET", path_of(made))["release"]["forced"] is False


def test_a_percentage_that_falls_is_refused_and_what_was_typed_stays(api: Api) -> None:
    fleet(api)
    made = release(api, "1.1.0", percentage=40)
    with reading(api) as ann:
        values = {"Percentage of the group": "10", "Description": "less"}
        page = ann.get(f"{path_of(made)}/edit").submit("Save", values, expect=409)
        assert "a percentage only rises" in page.said
        assert page.one("#f-description")["value"] == "less"
        page = page.submit("Save", {"Percentage of the group": "many"}, expect=409)
        assert "is not a whole number" in page.said
    assert api("GET", path_of(made))["release"]["percentage"] == 40


# Release now


def test_release_now_shows_who_waits_and_asks_for_their_number(api: Api) -> None:
    fleet(api, 12)
    made = release(api, "1.1.0")
    with reading(api) as ann:
        page = ann.get(path_of(made)).follow("Release now")
        assert "pi-01" in page.text
        label = "Type the number of devices that wait: 12"
        assert "Nothing was released" in page.submit("Release now", expect=409).said
        assert "You typed '11'" in page.submit("Release now", {label: "11"}, expect=409).said
        assert api("GET", path_of(made))["release"]["urgency"] == "gradual"
        page = page.submit("Release now", {label: "12"})
        assert page.said.startswith("v1 is immediate")
        assert api("GET", path_of(made))["release"]["urgency"] == "immediate"
        assert "Release now" not in steering(page)
        parses(page)


def test_release_now_is_refused_when_others_wait_than_were_shown(api: Api) -> None:
    devices = fleet(api, 3)
    made = release(api, "1.1.0")
    with reading(api) as ann:
        page = ann.get(f"{path_of(made)}/now")
        devices[0].take("1.1.0", made["release_id"])
        page = page.submit("Release now", expect=409)
        assert "Others wait for it than were shown: 2 devices do now; nothing was changed" in page.said
        assert "pi-01" not in page.one("main").get_text()
        assert api("GET", path_of(made))["release"]["urgency"] == "gradual"
        page.submit("Release now")
        assert api("GET", path_of(made))["release"]["urgency"] == "immediate"


def test_release_now_is_held_to_the_very_devices_and_not_to_their_number(api: Api) -> None:
    devices = fleet(api, 3)
    made = release(api, "1.1.0")
    devices[0].take("1.1.0", made["release_id"])
    with reading(api) as ann:
        page = ann.get(f"{path_of(made)}/now")
        api.home.join("pi-99")
        devices[1].take("1.1.0", made["release_id"])
        page = page.submit("Release now", expect=409)
        assert "Others wait for it than were shown: 2 devices do now" in page.said
        assert api("GET", path_of(made))["release"]["urgency"] == "gradual"
        assert "pi-99" in page.text
        page.submit("Release now")
        assert api("GET", path_of(made))["release"]["urgency"] == "immediate"


def test_of_a_large_fleet_the_page_comes_first_and_asks_for_the_rest(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = fleet(api, 3)
    first = release(api, "1.1.0")
    for device in devices:
        device.take("1.1.0", first["release_id"])
    second = release(api, "1.2.0")
    monkeypatch.setattr("cloud.console.counts.MANY", 2)
    with reading(api) as ann:
        for path, button, deed, says in (
            (f"{path_of(second)}/now", "Show who waits for it", "Release now", "v2 is immediate"),
            (f"{path_of(first)}/rollback", "Show whom it reaches", "Roll back", "v3 (references v1) is Live"),
        ):
            page = ann.get(path)
            form = page.one("form.counting")
            assert (form["hx-post"], form["hx-trigger"]) == (path, "load")
            assert page.has("progress")
            assert "pi-01" not in page.text
            whole = page.submit(button)
            assert "pi-01" in whole.text
            assert says in whole.submit(deed).said
        shown = ann.get(f"{CHANNEL}/release").submit("Show whom it reaches", {"Description": "kept"})
        assert not shown.has("[name=plan_hash]")
        shown = shown.submit("Show whom it reaches").submit("Release")
        assert "kept" in shown.text


# Roll back, promote


def moved_on(api: Api) -> tuple[list[Device], dict[str, Any], dict[str, Any]]:
    """Three devices and two releases: two took the first one, and one of these the second."""
    devices = fleet(api, 3)
    first = release(api, "1.1.0")
    for device in devices[:2]:
        device.take("1.1.0", first["release_id"])
    second = release(api, "1.2.0")
    devices[0].take("1.2.0", second["release_id"])
    return devices, first, second


@pytest.mark.parametrize("what", ["a device", "the number alone", "a decision"])
def test_rolling_back_is_held_to_what_was_shown(api: Api, what: str) -> None:
    devices, first, second = moved_on(api)
    with reading(api) as ann:
        page = ann.get(f"{path_of(first)}/rollback")
        if what == "a decision":
            release(api, "1.0.0")
        else:
            devices[1].take("1.2.0", second["release_id"])
        if what == "the number alone":  # as many as before, and others
            devices[2].take("1.1.0", first["release_id"])
        page = page.submit("Roll back", expect=409)
        assert "The world is not as it was planned" in page.said
        assert "Nothing was released" in page.said
        assert [it["release"]["references_label"] for it in api("GET", "/releases")].count(1) == 0
        page = page.submit("Roll back")
        assert "(references v1) is Live" in page.said


def test_rolling_back_shows_whom_it_reaches_and_makes_a_new_label(api: Api) -> None:
    _, first, _ = moved_on(api)
    with reading(api) as ann:
        page = ann.get(path_of(first)).follow("Roll back to this")
        assert stat(page, "Reaches") == "2"
        assert "up to date" in page.text
        page = page.submit("Roll back")
        assert page.said.startswith(f"{PRODUCT}/everyone/app v3 (references v1) is Live.")
        assert page.title == "app 1.1.0 for everyone: v3"
        parses(page)


def test_a_roll_back_by_a_range_shows_whom_later_labels_moved_on(api: Api) -> None:
    devices = fleet(api, 2)
    first = release(api, "1.1.0", target_range="1.0.0 || 1.1.0")
    devices[0].take("1.1.0", first["release_id"])
    second = release(api, "1.2.0")
    devices[1].take("1.2.0", second["release_id"])
    with reading(api) as ann:
        page = ann.get(f"{path_of(first)}/rollback")
        assert "those that later labels moved on from there" in page.text
        takes = page.one("details.verdict[open]").get_text(" ", strip=True)
        assert "pi-02" in takes
        made = page.submit("Roll back")
        assert "(references v1) is Live" in made.said
    newest = api("GET", "/releases")[0]["release"]
    assert newest["target_range"] == "1.0.0 || 1.1.0 || =1.2.0"


def test_what_never_succeeded_is_not_rolled_back_to(api: Api) -> None:
    fleet(api)
    first = release(api, "1.1.0")
    release(api, "1.2.0")
    with reading(api) as ann:
        page = ann.get(f"{path_of(first)}/rollback")
        assert "succeeded on no device" in page.said
        assert page.path == path_of(first)
    assert len(api("GET", "/releases")) == 2


def test_promoting_goes_to_another_group(api: Api) -> None:
    devices = fleet(api, 3)
    api("POST", "/groups", {"product": PRODUCT, "group": "pilot"}, expect=201)
    api("POST", f"/groups/{PRODUCT}/pilot/members", {"add": ["pi-01"]})
    made = release(api, "1.1.0", group="pilot", description="tried")
    devices[0].take("1.1.0", made["release_id"])
    with reading(api) as ann:
        page = ann.get(path_of(made)).follow("Promote")
        page = page.submit("Show whom it reaches", {"To the group": "everyone", "Percentage of it": "100"})
        assert stat(page, "Reaches") == "2"
        back = page.submit("Change it")
        assert back.one("#f-to option[selected]")["value"] == "everyone"
        page = page.submit("Promote")
        assert page.title == "app 1.1.0 for everyone: v1"
        assert "tried" in page.text
        assert page.follow(made["release_id"]).path == path_of(made)
        parses(page)


def test_promoting_is_refused_when_the_world_is_another(api: Api) -> None:
    devices = fleet(api, 3)
    made = release(api, "1.1.0")
    devices[0].take("1.1.0", made["release_id"])
    with reading(api) as ann:
        page = ann.get(f"{path_of(made)}/promote").submit("Show whom it reaches", {"Percentage of it": "100"})
        devices[1].take("1.1.0", made["release_id"])
        page = page.submit("Promote", expect=409)
        assert "The world is not as it was planned" in page.said
        assert len(api("GET", "/releases")) == 1
        assert stat(page, "Reaches") == "1"
        page.submit("Promote")
        assert len(api("GET", "/releases")) == 2
