"""Products in the console: what is Live on which channel, and how a whole product is updated."""

import pytest

from cloud.access.roles import Role
from protocol.selection import BASE
from tests.cloud.console.releasing import CHANNEL, fleet, parses, release
from tests.cloud.console.visits import reading
from tests.cloud.homes import PRODUCT, Api

CAPABILITIES = f"/products/{PRODUCT}/capabilities"


def product(api: Api) -> dict[str, object]:
    found: dict[str, object] = api("GET", f"/products/{PRODUCT}")
    return found


def test_the_list_leads_to_the_product_and_to_what_is_live(api: Api) -> None:
    fleet(api)
    release(api, "1.1.0")
    with reading(api) as ann:
        page = ann.get("/products")
        parses(page)
        assert "3" in page.text
        assert page.follow("app 1.1.0").title == "app for everyone"
        assert page.follow(PRODUCT).title == PRODUCT


def test_a_product_without_firmware_says_how_it_gets_some(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get(f"/products/{PRODUCT}")
        parses(page)
        assert "No firmware is published yet" in page.text
        assert any(line.startswith("fleetlift release push IMAGE") for line in page.cli())


def test_a_product_shows_each_channel_with_its_live_release(api: Api) -> None:
    devices = fleet(api)
    made = release(api, "1.1.0")
    release(api, "1.2.0", percentage=1)
    devices[0].take("1.1.0", made["release_id"])
    api("POST", "/groups", {"product": PRODUCT, "group": "pilot"}, expect=201)
    release(api, "1.2.0", group="pilot", plan={"phases": [{"percentage": 50}, {"percentage": 100}]})
    with reading(api) as ann:
        page = ann.get(f"/products/{PRODUCT}")
        parses(page)
        rows = {row[0]: row for row in page.rows("#channels table")}
        assert rows["app for everyone"][1:3] == ["v2 1.2.0", "1 %"]
        assert rows["app for everyone"][4] == "2"
        assert rows["app for pilot"][1:3] == ["v1 1.2.0", "50 % running"]
        assert ann.get(f"/products/{PRODUCT}/channels", fragment=True).rows() == page.rows("#channels table")


def test_choosing_a_channel_leads_to_its_form(api: Api) -> None:
    fleet(api)
    with reading(api) as ann:
        page = ann.get(f"/products/{PRODUCT}").submit("New release", {"Component": "app", "Group": "everyone"})
        assert page.path == f"{CHANNEL}/release"
        assert page.title == "New release: v1"


def test_who_may_look_at_another_product_sees_this_one_nowhere(api: Api) -> None:
    fleet(api)
    api.home.store.catalog.create_product("pump", hardware_models=["pi4"], by="test")
    with reading(api, "eve", Role.ADMIN, "pump") as eve:
        assert PRODUCT not in eve.get("/products").text
        for path in (f"/products/{PRODUCT}", CAPABILITIES, CHANNEL, f"{CHANNEL}/release"):
            assert eve.get(path, expect=404).title == "404 Not Found"


def test_updates_are_switched_off_and_on(api: Api) -> None:
    fleet(api)
    with reading(api) as ann:
        page = ann.get(CAPABILITIES).submit("Switch updates off")
        assert page.said.startswith(f"{PRODUCT}: updates are off, nothing moves.")
        assert product(api)["ota_enabled"] is False
        assert "nothing moves" in ann.get(f"/products/{PRODUCT}").said
        parses(page)
        page = page.submit("Switch updates on")
        assert product(api)["ota_enabled"] is True
        parses(page)


def test_distribution_and_approvals_are_changed(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get(CAPABILITIES).submit("Change to base-only")
        assert f"of {BASE} alone" in page.said
        assert product(api)["base_only"] is True
        page = page.submit("Change to hybrid")
        assert product(api)["base_only"] is False
        page = page.submit("Set approvals", {"Others who have to approve a release": "2"})
        assert "needs 2 approvals" in page.said
        assert product(api)["approvals"] == 2
        parses(page)


@pytest.mark.parametrize("number", ["11", "-1", "two", "1e9", ""])
def test_a_number_of_approvals_that_is_none_is_refused_with_a_sentence(api: Api, number: str) -> None:
    with reading(api) as ann:
        page = ann.get(CAPABILITIES).submit("Set approvals", {"Others who have to approve a release": number})
        assert "Nothing was changed" in page.said
        assert product(api)["approvals"] == 0


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.RELEASE_MANAGER])
def test_only_an_admin_is_offered_the_capabilities_and_may_change_them(api: Api, role: Role) -> None:
    with reading(api, "ben", role) as ben:
        page = ben.get(CAPABILITIES)
        assert not page.has("main form")
        csrf = str(page.one("form[action='/logout'] input[name=csrf]")["value"])
        ben.send("post", CAPABILITIES, [("csrf", csrf), ("ota", "off")], expect=403)
        assert product(api)["ota_enabled"] is True


def test_what_needs_what_is_shown(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get(f"/products/{PRODUCT}/needs")
        assert "No firmware yet" in page.text
        parses(page)
        fleet(api)
        page = ann.get(f"/products/{PRODUCT}").follow("What needs what")
        assert [row[0] for row in page.rows()] == ["app 1.2.0", "app 1.1.0", "app 1.0.0"]
        parses(page)
