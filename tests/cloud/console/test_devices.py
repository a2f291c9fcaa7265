"""Devices in the console: found, turned over page by page, and changed many at a time."""

import pytest

from cloud.access.roles import Role
from cloud.console import devices
from tests.cloud.cli.trees import parse
from tests.cloud.console.visits import Page, reading
from tests.cloud.homes import PRODUCT, Api, hello_of
from tests.cloud.troubled import troubled
from tests.cloud.visitors import OTHER, add_product, join


@pytest.fixture
def fleet(api: Api) -> Api:
    """Four devices of two sites, one of them offline; and two versions."""
    api.home.publish("1.1.0")
    api.home.publish("1.2.0")
    for name, site in (("north-1", "oslo"), ("north-2", "oslo"), ("south-1", "rome"), ("south-2", "rome")):
        api.home.store.journal.receive_hello(name, hello_of(attributes={"site": site}))
    return api


def names(page: Page) -> list[str]:
    return [link.get_text() for link in page.soup.select("td.main a")]


def test_an_empty_fleet_says_what_to_do_first(api: Api) -> None:
    with reading(api) as reader:
        page = reader.get("/devices")
        assert page.title == "Devices"
        assert "No device yet" in page.text
        assert "fleetlift device enrol pi-1 --local" in page.cli()


def test_filters_are_combined_and_kept_in_the_address(fleet: Api) -> None:
    with reading(fleet, "cat", Role.VIEWER) as reader:
        page = reader.get("/devices")
        assert names(page) == ["north-1", "north-2", "south-1", "south-2"]
        page = page.submit("Show", {"Id has": "th-1", "Connected": "true"})
        assert page.path == "/devices?text=th-1&online=true", "what was left empty says nothing"
        assert names(page) == ["north-1", "south-1"]
        page = page.submit("Show", {"Attribute": "site=oslo"})
        assert names(page) == ["north-1"]
        assert "1 device found" in page.text
        assert "fleetlift device list --text th-1 --online --attribute site=oslo" in page.cli()
        page = reader.get(page.soup.select_one('.chips a[aria-label="Without: id with th-1"]')["href"])  # type: ignore[index,arg-type]
        assert names(page) == ["north-1", "north-2"]
        assert names(reader.get(page.path)) == names(page)
        page = page.submit("Show", {"Id has": "nothing-like-it"})
        assert "No device matches" in page.text
        assert "Change several" not in page.text, "a viewer changes nothing"


def test_a_part_of_the_page_is_the_list_alone(fleet: Api) -> None:
    with reading(fleet) as reader:
        answer = reader.http.get("/devices?text=north", headers={"HX-Request": "true", "HX-Target": "section#found"})
        assert answer.text.lstrip().startswith('<section id="found"')
        assert 'hx-get="/devices?text=north"' in answer.text


def test_devices_are_found_by_trouble_certificate_and_what_they_wait_for(api: Api) -> None:
    troubled(api)
    with reading(api) as reader:
        for values, address, line, found in (
            ({"Trouble": "taken_back"}, "trouble=taken_back", "--trouble taken_back", ["back-1", "back-2"]),
            ({"Trouble": "refused"}, "trouble=refused", "--trouble refused", ["blocked-1", "loud-1"]),
            ({"Certificate": "expired"}, "certificate=expired", "--certificate expired", ["ended-1"]),
            ({"Waits for": "declined"}, "waits=declined", "--waits declined", ["declined-1"]),
            ({"Refused": "true", "Revoked": "false"}, "refused=true&revoked=false", "--refused", ["wary-1"]),
        ):
            page = reader.get("/devices").submit("Show", values)
            assert sorted(page.path.partition("?")[2].split("&")) == sorted(address.split("&"))
            assert names(page) == found
            assert line in page.cli()[-1]
            parse(page.cli()[-1])


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("online=perhaps", "true or false is expected"),
        ("quiet_for_s=soon", "a number of seconds"),
        ("attribute=site", "name=value"),
        ("trouble=luck", "trouble: one of taken_back, failed"),
        ("certificate=fine", "certificate: one of none, good"),
        ("waits=godot", "waits: one of disabled, held"),
        ("decision=mine", "a number in the audit"),
        ("failed=luck", "no reason of a failure"),
        ("product=none", "no product 'none'"),
    ],
)
def test_an_address_that_asks_for_nonsense_is_told_so(fleet: Api, query: str, said: str) -> None:
    with reading(fleet) as reader:
        page = reader.get(f"/devices?{query}", expect=422)
        assert said in page.said
        assert names(page.follow("Show all devices")) == ["north-1", "north-2", "south-1", "south-2"]


def test_pages_follow_each_other(fleet: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "SHOWN", 2)
    with reading(fleet) as reader:
        page = reader.get("/devices?attribute=site%3Doslo&attribute=site%3Doslo")
        assert names(page) == ["north-1", "north-2"]
        page = reader.get("/devices?online=true")
        assert "2 of 4 shown" in page.text
        page = page.follow("Next page")
        assert page.path == "/devices?online=true&after=north-2"
        assert names(page) == ["south-1", "south-2"]
        assert names(page.follow("First page")) == ["north-1", "north-2"]


def api_number(fleet: Api) -> int:
    return fleet.home.store.audit.head().number


def test_those_ticked_come_into_a_group(fleet: Api) -> None:
    fleet.home.store.catalog.create_group(PRODUCT, "pilots", by="test")
    with reading(fleet, "ben", Role.OPERATOR) as reader:
        page = reader.get("/devices?online=true").submit("Add to a group", {"north-1": True, "south-2": True})
        assert page.title == "Add devices to a group"
        assert "2 devices of product thermostat: north-1 , south-2" in page.text
        page = page.submit("Show what it would do", {"Group": "pilots"})
        assert "Would change 2" in page.text
        page = page.submit("Add 2 devices")
        assert page.said.startswith("2 devices came into group pilots.")
        decision = api_number(fleet)
        assert page.path == f"/devices?product=thermostat&decision={decision}", "the list of those that were changed"
        assert names(page) == ["north-1", "south-2"]
        story = reader.get("/devices/south-2")
        assert "group pilots joined, with 1 other by one decision by ben" in story.text
        assert names(story.follow(f"decision {decision}")) == ["north-1", "south-2"]
        assert fleet.home.store.catalog.members(PRODUCT, "pilots") == ("north-1", "south-2")
        (line,) = [it for it in page.cli() if "bulk" in it]
        assert line == (
            "fleetlift device bulk add pilots --product thermostat --device north-1 --device south-2 --count 2 --yes"
        )


def test_all_that_were_found_are_locked_if_their_number_is_typed(fleet: Api) -> None:
    for number in range(9):
        fleet.home.join(f"north-3{number}")
    with reading(fleet, "ben", Role.OPERATOR) as reader:
        page = reader.get("/devices?text=north").submit("Lock", {"all 11 found": True})
        page = page.submit("Show what it would do", {"Component": "app", "Version": "1.1.0"})
        assert page.submit("Lock 11 devices", {"Type 11 to go ahead": "12"}, expect=409).said == (
            "It is about 11 devices, and 12 was typed. Nothing was changed."
        )
        fleet.home.join("north-4")
        page = page.submit("Lock 11 devices", {"Type 11 to go ahead": "11"}, expect=409)
        assert "12 devices are found now, and it was to be 11" in page.said
        assert fleet.home.store.devices.device("north-1").pins == ()
        page = page.submit("Lock 12 devices", {"Type 12 to go ahead": "12"})
        assert page.said.startswith("12 devices are locked to app 1.1.0.")
        assert fleet.home.store.devices.device("north-4").pins[0].pinned_by == "ben"
        assert fleet.home.store.devices.device("south-1").pins == ()


def test_what_is_left_out_is_told_before_and_after(fleet: Api) -> None:
    fleet.home.store.devices.pin("north-1", "app", "1.1.0", by="test")
    with reading(fleet, "ben", Role.OPERATOR) as reader:
        page = reader.get("/devices?text=north").submit("Update", {"all 2 found": True})
        page = page.submit("Show what it would do", {"Component": "app", "Version": "1.2.0", "When": "gradual"})
        assert "1 left out: locked to a version of app (north-1)" in page.text
        assert "Force it" not in page.text, "that takes another role"
        page = page.submit("Update 1 device")
        assert page.said.startswith("1 device is to run app 1.2.0. 1 left out: locked to a version of app.")
        assert fleet.home.store.devices.device("north-2").otas[0].urgency == "gradual"
        page = reader.get("/devices?text=south-1").submit("Revoke", {"all 1 found": True})
        page = page.submit("Revoke 1 device", {"Why": "stolen"})
        assert fleet.home.store.certificates.is_revoked("south-1")
        assert "--reason stolen" in page.cli()[0]


def test_nothing_ticked_and_several_products_are_told_so(fleet: Api) -> None:
    add_product(fleet.home)
    join(fleet.home, "pump-1", OTHER)
    with reading(fleet, "ben", Role.OPERATOR) as reader:
        page = reader.get("/devices").submit("Lock", expect=409)
        assert "No device is ticked" in page.said
        assert page.follow("Back to the list").path == "/devices"
        page = reader.get("/devices").submit("Lock", {"all 5 found": True}, expect=409)
        assert f"one product at a time, and here are {OTHER}, {PRODUCT}" in page.said
        assert reader.get(f"/devices?product={OTHER}").submit("Lock", {"all 1 found": True}).title.startswith("Lock")


def test_who_may_not_is_neither_offered_it_nor_let(fleet: Api) -> None:
    add_product(fleet.home)
    join(fleet.home, "pump-1", OTHER)
    with reading(fleet, "cat", Role.VIEWER) as reader:
        reader.get("/devices/_bulk?deed=revoke&over=all&text=north&product=thermostat", expect=403)
        csrf = reader.get("/devices").one("form[action='/logout'] input[name=csrf]")["value"]
        fields = [("csrf", str(csrf)), ("deed", "revoke"), ("over", "all"), ("product", PRODUCT), ("count", "4")]
        reader.send("post", "/devices/_bulk", fields, expect=403)
    with reading(fleet, "olaf", Role.OPERATOR, OTHER) as reader:
        assert names(reader.get("/devices")) == ["pump-1"], "of other products nothing is known"
        assert "no product 'thermostat'" in reader.get("/devices?product=thermostat", expect=422).said
        reader.get("/devices/_bulk?deed=revoke&device=thermostat/north-1", expect=404)
    assert not fleet.home.store.certificates.is_revoked("north-1")


def test_every_line_of_the_pages_can_be_typed(fleet: Api) -> None:
    fleet.home.store.catalog.create_group(PRODUCT, "pilots", by="test")
    everything = (
        "text=n&product=thermostat&group=everyone&component=app&version=1.0.0&failed=any&online=true&pending=false"
        "&held=false&locked=false&revoked=false&quiet_for_s=3600&hardware_model=raspberrypi4&attribute=site%3Doslo"
    )
    lines: set[str] = set()
    with reading(fleet) as reader:
        lines |= set(reader.get(f"/devices?{everything}").cli())
        for deed in ("add_to_group", "remove_from_group", "lock", "unlock", "ota", "revoke"):
            more = "set_group=pilots&set_component=app&set_version=1.1.0&set_forced=yes&set_urgency=gradual"
            for query in ("over=all", f"over=all&{everything}", "device=thermostat/north-1"):
                lines |= set(reader.get(f"/devices/_bulk?deed={deed}&{more}&{query}").cli())
        for it in ("north-1", "south-2"):
            lines |= set(reader.get(f"/devices/{it}").cli())
    assert len(lines) > 20
    for line in lines:
        parse(line)
