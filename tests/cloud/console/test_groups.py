"""Groups and redundancy sets in the console: made, filled, counted as they are typed, ranked, deleted."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from cloud.access.roles import Role
from tests.cloud.console.releasing import fleet, parses, release, stat
from tests.cloud.console.visits import reading
from tests.cloud.homes import MODEL, PRODUCT, Api
from tests.cloud.store.fleets import HAPPY, Device

HALL = 'attributes.site == "hall"'


def members(api: Api, group: str) -> list[str]:
    found: list[str] = api("GET", f"/groups/{PRODUCT}/{group}")["members"]
    return found


def halls(api: Api) -> None:
    """Two devices in the hall, one in the attic."""
    for name, site in (("hall-1", "hall"), ("hall-2", "hall"), ("attic-1", "attic")):
        Device(api.home.store, name, model=MODEL, attributes={"site": site}).hello()


def test_without_groups_the_page_says_how_to_make_one(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get("/groups")
        parses(page)
        assert page.rows() == [["1", "everyone", "all of the product", "0"]]
        assert f"fleetlift group create test --product {PRODUCT} --device DEVICE" in page.cli()


def test_a_group_by_hand_is_made_and_filled(api: Api) -> None:
    fleet(api)
    with reading(api) as ann:
        page = ann.get("/groups").follow("New group").submit("Make the group", {"Name": "pilots", "Rank": 1})
        parses(page)
        assert (page.title, page.path) == ("pilots", f"/groups/{PRODUCT}/pilots")
        assert page.said.startswith("Group pilots is made, at rank 1, with 0 devices.")
        page = page.submit("Put in", {"Devices": "pi-01, pi-02\npi-03"})
        parses(page)
        assert page.said.startswith("3 devices are new in pilots.")
        page = page.submit("Take out", {"Devices": "pi-02"})
        assert page.said.startswith("1 left pilots.")
        assert members(api, "pilots") == ["pi-01", "pi-03"]
        assert (stat(page, "Devices"), stat(page, "Filled")) == ("2", "by hand")
        assert ann.get("/groups").rows()[0] == ["1", "pilots", "put in by hand", "2"]


def test_a_device_that_does_not_exist_is_refused_and_nothing_is_put_in(api: Api) -> None:
    fleet(api)
    api("POST", "/groups", {"product": PRODUCT, "group": "pilots"}, expect=201)
    with reading(api) as ann:
        page = ann.get(f"/groups/{PRODUCT}/pilots").submit("Put in", {"Devices": "pi-01 nobody"})
        assert "no device 'nobody'" in page.said
        assert members(api, "pilots") == []
        assert "No device was named" in page.submit("Put in", {"Devices": " , "}).said


def test_a_query_is_counted_as_it_is_typed_and_by_a_button(api: Api) -> None:
    halls(api)
    with reading(api) as ann:
        form = ann.get("/groups/new")
        typed = form.one("#f-query")
        assert (typed["hx-get"], typed["hx-trigger"]) == ("/groups/trial", "input changed delay:300ms")
        asked = f"/groups/trial?product={PRODUCT}&query=attributes.site+%3D%3D+%22hall%22&device_id=attic-1"
        trial = ann.get(asked, fragment=True)
        assert not trial.has("main")
        assert "2 of 3 devices match now." in trial.text
        assert "hall-1 hall-2" in trial.text
        assert trial.rows() == [[HALL, '"attic"', "false"]]
        counted = form.submit("Count", {"Name": "hall", "Query": HALL, "Ask it of this device, too": "hall-1"})
        assert "2 of 3 devices match now." in counted.text
        assert counted.rows() == [[HALL, '"hall"', "true"]]
        assert counted.one("#f-group")["value"] == "hall", "what was typed stays"
        assert len(ann.get("/groups").rows()) == 1, "counting makes nothing"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("site = 3", "The query cannot be read at character 6"),
        ('site >= "1.0.0"', "No device and no firmware has a component site"),
        ('app >= "1.0.0"', "It asks for versions"),
    ],
)
def test_what_may_surprise_is_said_while_it_is_typed(api: Api, query: str, said: str) -> None:
    fleet(api, 1)
    with reading(api) as ann:
        trial = ann.get(f"/groups/trial?{urlencode({'product': PRODUCT, 'query': query})}", fragment=True)
        assert said in trial.text


def test_few_of_many_that_match_are_named(api: Api) -> None:
    fleet(api, 20)
    with reading(api) as ann:
        trial = ann.get(f"/groups/trial?product={PRODUCT}&query=has+app", fragment=True)
        assert "20 of 20 devices match now." in trial.text
        assert "pi-12" in trial.text
        assert "pi-13" not in trial.text
        assert "and 8 more" in trial.text


def test_a_group_by_a_query_is_made_and_chosen_anew(api: Api) -> None:
    halls(api)
    with reading(api) as ann:
        page = ann.get("/groups/new").submit("Make the group", {"Name": "hall", "Query": HALL})
        parses(page)
        assert members(api, "hall") == ["hall-1", "hall-2"]
        wrong = page.submit("Choose by this query", {"Query": "site ="}, expect=422)
        assert "cannot be read" in wrong.said
        assert wrong.one("#f-query").get_text() == "site ="
        assert members(api, "hall") == ["hall-1", "hall-2"]
        counted = page.submit("Count", {"Query": 'device_id like "attic-*"'})
        assert "1 of 3 devices match now." in counted.text
        page = counted.submit("Choose by this query")
        assert page.said.startswith("Group hall has 1 devices now.")
        assert members(api, "hall") == ["attic-1"]
        looked = page.submit("Look", {"Is a device in it?": "hall-1"})
        parses(looked)
        assert "not in it hall-1" in looked.text
        assert looked.path.endswith("?device=hall-1")
        assert "no device 'nobody'" in page.submit("Look", {"Is a device in it?": "nobody"}).text


def test_a_form_that_is_refused_keeps_what_was_typed(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get("/groups/new").submit("Make the group", {"Name": "Not An Id", "Rank": 7}, expect=422)
        assert "is not an id" in page.said
        assert (page.one("#f-group")["value"], page.one("#f-rank")["value"]) == ("Not An Id", "7")
        page = page.submit("Make the group", {"Name": "good", "Rank": 7}, expect=422)
        assert "a rank is a number from 1 to 1 here" in page.said.lower()


def test_groups_are_ranked_and_deleted(api: Api) -> None:
    fleet(api)
    for name in ("first", "second"):
        api("POST", "/groups", {"product": PRODUCT, "group": name}, expect=201)
    release(api, "1.1.0", group="first")
    with reading(api) as ann:
        page = ann.get(f"/groups/{PRODUCT}/second").submit("Set the rank", {"Rank": 1})
        parses(page)
        assert page.said.startswith("Group second is at rank 1.")
        refused = ann.get(f"/groups/{PRODUCT}/first").submit("Delete the group")
        assert "has 1 enabled releases" in refused.said
        gone = page.submit("Delete the group")
        parses(gone)
        assert gone.said.startswith("Group second of thermostat is deleted.")
        assert [row[1] for row in gone.rows()] == ["first", "everyone"]
        everyone = ann.get(f"/groups/{PRODUCT}/everyone")
        assert not everyone.has("form[method=post][action^='/groups']")


def test_an_operator_fills_groups_and_a_viewer_looks(api: Api) -> None:
    fleet(api)
    api("POST", "/groups", {"product": PRODUCT, "group": "pilots"}, expect=201)
    with reading(api, "ben", Role.OPERATOR) as ben:
        page = ben.get(f"/groups/{PRODUCT}/pilots")
        assert not page.has(f"form[action='/groups/{PRODUCT}/pilots/delete']")
        assert page.submit("Put in", {"Devices": "pi-01"}).said.startswith("1 devices are new")
        token = page.one("form[action='/logout'] input")["value"]
        answer = ben.http.post(f"/groups/{PRODUCT}/pilots/delete", data={"csrf": token})
        assert answer.status_code == 403
    with reading(api, "cat", Role.VIEWER) as cat:
        assert not cat.get(f"/groups/{PRODUCT}/pilots").has("form[method=post][action^='/groups']")
        assert not cat.get("/groups/new").has("button.main")
    assert members(api, "pilots") == ["pi-01"]


def test_a_redundancy_set_is_made_filled_and_deleted(api: Api) -> None:
    fleet(api)
    with reading(api) as ann:
        page = ann.get("/groups").submit("Make the set", {"Name of the set": "pair", "Devices in it": "pi-01 pi-02"})
        parses(page)
        assert page.said.startswith("Redundancy set pair is made.")
        assert [row[0] for row in page.rows()] == ["pi-01", "pi-02"]
        page = page.submit("Put in", {"Devices": "pi-03"}).submit("Take out", {"Devices": "pi-01"})
        assert [row[0] for row in page.rows()] == ["pi-02", "pi-03"]
        assert ann.get("/groups").rows("#sets table")[0][:3] == ["pair", "2", "nobody"]
        gone = page.submit("Delete the set")
        assert "Redundancy set pair is deleted" in gone.said
        again = ann.get("/groups").submit("Make the set", {"Name of the set": "No Id"})
        assert "is not an id" in again.said


def test_a_turn_is_taken_away_from_a_device_that_does_not_come_back(api: Api) -> None:
    devices = fleet(api, 2)
    made = release(api, "1.1.0")
    devices[0].report(*devices[0].steps("1.1.0", made["release_id"], *HAPPY[:3]))
    with reading(api) as ann:
        page = ann.get("/groups").submit("Make the set", {"Name of the set": "pair", "Devices in it": "pi-01 pi-02"})
        assert [row[3].split(" Take")[0] for row in page.rows()] == ["has its turn", "nothing to do"]
        page = page.submit("Take its turn away")
        parses(page)
        assert page.said.startswith("pi-01 has its turn no more: the others go on.")
        assert api("GET", "/sets/pair")["members"][0]["standing"] == "free"
