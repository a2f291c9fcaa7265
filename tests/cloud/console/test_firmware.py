"""Firmware in the console: who signed it, what it needs, and on how many devices it runs."""

from __future__ import annotations

from cloud.access.roles import Role
from protocol.manifest import Requirements
from tests.cloud.console.releasing import fleet, parses, release, stat
from tests.cloud.console.visits import reading
from tests.cloud.homes import PRODUCT, Api
from tests.cloud.store.fleets import digest_of
from tests.cloud.visitors import OTHER, add_product


def test_without_firmware_the_page_says_how_it_comes(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get("/firmware")
        parses(page)
        assert "No firmware yet" in page.text
        assert page.cli() == [f"fleetlift release push IMAGE --product {PRODUCT}"]


def test_the_list_counts_devices_by_what_they_run(api: Api) -> None:
    devices = fleet(api)
    made = release(api, "1.1.0")
    devices[0].take("1.1.0", made["release_id"])
    with reading(api) as ann:
        page = ann.get("/firmware")
        parses(page)
        assert [(row[0], row[5]) for row in page.rows()] == [("1.2.0", "0"), ("1.1.0", "1"), ("1.0.0", "2")]
        assert "This version sends whole images." in page.text
        keyid = api("GET", f"/firmware/{PRODUCT}/app/1.1.0")["signer_keyids"][0]
        assert page.rows()[0][4] == keyid[:8], "a key without a name is called by its id"
        assert not ann.get("/firmware?component=os").rows()


def test_one_firmware_tells_all_that_is_signed(api: Api) -> None:
    fleet(api)
    needs = Requirements(components={"os": ">=2.0.0"})
    api.home.publish("2.0.0", requires=needs, data_schema=3, reads_schemas=(2,), notes="Reads the old settings.")
    made = release(api, "2.0.0", group="everyone")
    with reading(api) as ann:
        page = ann.get("/firmware").follow("2.0.0")
        parses(page)
        assert page.title == "app 2.0.0"
        digest = api("GET", f"/firmware/{PRODUCT}/app/2.0.0")["digest"]
        for said in (digest, "3; reads 2, too", "Reads the old settings.", "This version sends whole images."):
            assert said in page.text
        assert stat(page, "Runs on") == "0"
        assert ["os", ">=2.0.0", "none that is here"] in page.rows()
        assert page.follow(f"v{made['label']}").path == f"/releases/{made['release_id']}"
        assert page.follow("Release it").path.startswith(f"/products/{PRODUCT}/app/everyone/release")


def test_another_image_of_the_same_version_is_told_apart(api: Api) -> None:
    devices = fleet(api)
    with reading(api) as ann:
        page = ann.get(f"/firmware/{PRODUCT}/app/1.0.0")
        assert stat(page, "Runs on") == "3"
        with api.home.store._database.changing() as change:
            change.session.connection().exec_driver_sql(
                "UPDATE device_component SET digest = ? WHERE device_id = ?", (digest_of("x"), devices[0].device_id)
            )
        page = ann.get(f"/firmware/{PRODUCT}/app/1.0.0")
        assert stat(page, "Runs on") == "2"
        assert "1 more devices say that they run 1.0.0, and run another image than this one." in page.text


def test_a_viewer_is_offered_no_release_and_a_stranger_nothing(api: Api) -> None:
    fleet(api, 0)
    add_product(api.home)
    with reading(api, "cat", Role.VIEWER) as cat:
        assert "Release it" not in cat.get(f"/firmware/{PRODUCT}/app/1.0.0").text
    with reading(api, "eve", Role.ADMIN, OTHER) as eve:
        assert not eve.get("/firmware").rows()
        eve.get(f"/firmware/{PRODUCT}/app/1.0.0", expect=404)


def test_the_api_tells_how_many_devices_run_what(api: Api) -> None:
    fleet(api)
    running = api("GET", f"/products/{PRODUCT}/running")
    assert running == [{"component": "app", "version": "1.0.0", "digest": digest_of("1.0.0"), "devices": 3}]
    api.refusal("GET", "/products/nothing/running", status=404)
