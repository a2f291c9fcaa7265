"""One device in the console: what it should run and why, what keeps it, what it did, and what can be done to it."""

from typing import Final

import pytest

from cloud.access.roles import Role
from cloud.console.device import slots_of
from cloud.fleet import OtaStatus
from cloud.values import ChannelKey, ReleaseDraft
from protocol.phases import Phase, Reason, Wait
from protocol.up import Availability, HoldInfo, Pending
from protocol.values import Scope
from tests.cloud.console.visits import Page, reading
from tests.cloud.homes import MODEL, PRODUCT, Api
from tests.cloud.store.fleets import HAPPY, Device, digest_of, image_of
from tests.cloud.visitors import OTHER, add_product, join

PAGE: Final = "/devices/pi-1"


@pytest.fixture
def device(api: Api) -> Device:
    """A device that is connected and runs 1.0.0, and two later versions."""
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        api.home.publish(version, image_of("app", version))
    made = Device(api.home.store, "pi-1", model=MODEL, attributes={"site": "hall"})
    made.hello()
    return made


def release(api: Api, version: str = "1.1.0", **more: object) -> str:
    draft = ReleaseDraft(channel=ChannelKey(PRODUCT, "everyone", "app"), version=version, **more)  # type: ignore[arg-type]
    return api.home.store.releases.create(draft, by="test").release_id


def row(page: Page, component: str = "app") -> list[str]:
    """The row that says what runs and what should."""
    return next(cells for cells in page.rows("#standing table") if cells[0] == component)


def test_desired_stands_against_running_with_every_rule_that_led_there(api: Api, device: Device) -> None:
    made = release(api, percentage=100)
    with reading(api, "cat", Role.VIEWER) as reader:
        page = reader.get(PAGE)
        _, runs, should, by, now = row(page)
        assert (runs.split()[0], should, by) == ("1.0.0", "1.1.0", "release v1 of everyone")
        assert "waits for its session" in now
        assert [it["href"] for it in page.soup.select("#standing td a")] == [f"/releases/{made}"]
        told = api("GET", "/devices/pi-1/why")["components"][0]
        shown = [" ".join(it.get_text(" ", strip=True).split()) for it in page.soup.select(".trace li")]
        assert len(shown) == len(told["decision"]["trace"]) > 2
        assert told["lines"][0] in page.text
        assert "yes for this hardware" in shown[0]
        device.take("1.1.0", made)
        page = reader.get(PAGE)
        assert "up to date" in row(page)[-1]
        assert "1.0.0 what it ran before, to fall back on" in page.text
        assert "app 1.0.0 → 1.1.0" in page.text
        assert "updated to app 1.1.0 from 1.0.0" in page.text
        assert not page.has(".actions details"), "a viewer is offered nothing"


def test_why_it_does_not_update_is_open_and_names_the_rule(api: Api, device: Device) -> None:
    made = release(api)
    device.fail("1.1.0", made, Reason.HEALTH_FAILED)
    with reading(api, "cat", Role.VIEWER) as reader:
        page = reader.get(PAGE)
        assert "failed before" in row(page)[-1]
        assert page.has("details.why[open]")
        assert "Why is it not updating?" in page.text
        (blocks,) = page.soup.select(".trace li.blocks")
        assert "has not failed here" in blocks.get_text()
        assert "1.1.0 tried, and not kept" in page.text
        assert "health failed" in page.text


def test_holds_are_shown_with_owner_reason_and_lease(api: Api, device: Device) -> None:
    hold = HoldInfo(owner="surgery", why="a patient\x1b[2J", scopes=(Scope.RESTART,), expires_at_ms=4_000_000_000_000)
    late = HoldInfo(owner="night", why="over", scopes=(Scope.DOWNLOAD,), expires_at_ms=5)
    waits = Pending(component="app", version="1.1.0", digest=digest_of("1.1.0"), source_id="r", why=Wait.HELD)
    device.tell(availability=Availability(holds=(hold, late)), pending=(waits,))
    with reading(api, "cat", Role.VIEWER) as reader:
        page = reader.get(PAGE)
        assert "surgery a patient\N{REPLACEMENT CHARACTER}[2J restart 2096-10-02 07:06" in page.text
        assert "(has run out)" in page.text
        assert "app 1.1.0: held" in page.text
        assert "holds updates" in page.text
        device.tell(availability=Availability(enabled=False))
        assert "Its application disabled updates" in reader.get(PAGE).text


def test_an_update_of_this_device_alone_is_followed_and_cancelled(api: Api, device: Device) -> None:
    with reading(api, "ben", Role.OPERATOR) as reader:
        page = reader.get(PAGE)
        assert "Force it" not in page.text
        page = page.submit("Update pi-1", {"Firmware": "app 1.2.0"})
        assert page.said.startswith("pi-1 is to run app 1.2.0.")
        assert "fleetlift ota start pi-1 1.2.0 --component app" in page.cli()
        ota = api.home.store.devices.otas("pi-1")[0]
        assert (ota.created_by, ota.forced, ota.status) == ("ben", False, OtaStatus.OPEN)
        assert reader.get(f"/otas/{ota.ota_id}").title == "pi-1"
        device.report(*device.steps("1.2.0", ota.ota_id, *HAPPY[:2]))
        part = reader.get(f"{PAGE}/standing", fragment=True)
        assert part.answer.text.lstrip().startswith('<div id="standing"')
        assert [it.get_text() for it in part.soup.select(".otasteps .done")] == ["downloading", "verifying"]
        assert part.one(".otasteps .now").get_text() == "installing"
        page = reader.get(PAGE).submit("Cancel the update")
        assert page.said.startswith("The update is cancelled.")
        assert api.home.store.devices.ota(ota.ota_id).status is OtaStatus.CANCELLED


def test_only_who_decides_what_runs_forces_an_update(api: Api, device: Device) -> None:
    with reading(api, "rosa", Role.RELEASE_MANAGER) as reader:
        page = reader.get(PAGE).submit("Update pi-1", {"Firmware": "app 1.1.0", _FORCE: True})
        assert "--force --yes" in page.cli()[0]
        ota = api.home.store.devices.otas(device.device_id)[0]
        assert ota.forced
        (audited,) = api("GET", "/audit", params={"action": "ota.created"})
        assert audited["after"]["forced"] is True
        assert audited["origin"]["via"] == "console"
    with reading(api, "ben", Role.OPERATOR) as reader:
        csrf = str(reader.get(PAGE).soup.select("input[name=csrf]")[0]["value"])
        fields = [("csrf", csrf), ("firmware", "app 1.2.0"), ("forced", "yes")]
        reader.send("post", f"{PAGE}/ota", fields, expect=403)
    assert len(api.home.store.devices.otas("pi-1")) == 1


_FORCE: Final = "Force it, over disabled updates and holds"


def test_a_device_is_locked_and_unlocked(api: Api, device: Device) -> None:
    release(api, "1.2.0")
    with reading(api, "ben", Role.OPERATOR) as reader:
        page = reader.get(PAGE).submit(f"Lock {device.device_id}", {"Version": "app 1.0.0"})
        assert page.said.startswith("pi-1 is locked to app 1.0.0.")
        assert row(page)[2:4] == ["1.0.0", "locked"]
        refused = page.submit("Update pi-1", {"Firmware": "app 1.2.0"})
        assert "is locked to a version of app; unlock it first" in refused.said
        page = refused.submit("Unlock app")
        assert page.said.startswith("pi-1 follows the releases of app again.")
        assert row(page)[2] == "1.2.0"


def test_its_groups_decide_and_are_changed_here(api: Api, device: Device) -> None:
    api.home.store.catalog.create_group(PRODUCT, "pilots", by="test")
    api.home.store.catalog.create_group(PRODUCT, "hall", query='attributes.site == "hall"', by="test")
    with reading(api, "ben", Role.OPERATOR) as reader:
        page = reader.get(PAGE).submit("Add", {"Add to a group": "pilots"})
        assert page.said.startswith("pi-1 is in group pilots now.")
        assert api.home.store.devices.device("pi-1").groups == ("pilots", "hall", "everyone")
        page = page.submit("take out")
        assert page.said.startswith("pi-1 is out of group pilots.")
        assert not [it for it in page.soup.find_all("button") if it.get_text() == "take out"], "its query decides"
    assert api.home.store.devices.device(device.device_id).groups == ("hall", "everyone")


def test_a_device_is_shut_out_with_a_reason(api: Api, device: Device) -> None:
    with reading(api, "ben", Role.OPERATOR) as reader:
        page = reader.get(PAGE).submit(f"Revoke {device.device_id}", {"Why": "stolen"})
        assert "is shut out" in page.said
        assert "This device is revoked" in page.text
        assert "fleetlift device enrol pi-1 --product thermostat --again" in page.cli()
        assert not page.has("#revoke")
    assert api("GET", "/audit", params={"action": "device.revoked"})[0]["after"]["reason"] == "stolen"


def test_a_turn_is_taken_away_from_one_that_does_not_come_back(api: Api, device: Device) -> None:
    store = api.home.store
    made = release(api)
    store.redundancy.create_set("pair", by="test")
    store.redundancy.add_to_set("pair", ["pi-1"], by="test")
    device.report(*device.steps("1.1.0", made, *HAPPY))
    device.tell(phase=Phase.PROVING)
    with reading(api, "ben", Role.OPERATOR) as reader:
        page = reader.get(PAGE)
        assert "has its turn redundancy set pair" in page.text
        page = page.submit("Take its turn away")
        assert page.said.startswith("pi-1 has its turn no more")


def test_who_may_not_look_learns_nothing(api: Api, device: Device) -> None:
    add_product(api.home)
    join(api.home, "pump-1", OTHER)
    with reading(api, "olaf", Role.ADMIN, OTHER) as reader:
        assert reader.get("/devices/pump-1").title == "pump-1"
        hidden = reader.get(f"/devices/{device.device_id}", expect=404)
        absent = reader.get("/devices/nobody", expect=404)
        assert hidden.text.replace("pi-1", "nobody") == absent.text
    with reading(api, "cat", Role.VIEWER) as reader:
        assert "Did you mean 'pi-1'?" in reader.get("/devices/pi-11", expect=404).text
        csrf = str(reader.get(PAGE).soup.select("input[name=csrf]")[0]["value"])
        for deed in ("ota", "ota/cancel", "lock", "unlock", "revoke", "join", "leave", "turn"):
            reader.send("post", f"{PAGE}/{deed}", [("csrf", csrf), ("ota", "none")], expect=403)


def test_a_device_that_never_said_anything_has_a_page(api: Api) -> None:
    api.home.store.devices.register("pi-1", product=PRODUCT, hardware_model=MODEL, by="test")
    with reading(api) as reader:
        page = reader.get(PAGE)
        assert "has told of nothing that it runs" in page.text
        assert "never" in page.text
        assert "It has taken nothing yet" in page.text
        assert "No published firmware is for hardware model" in page.text


def test_the_other_slot_is_what_the_journal_says_of_it(api: Api, device: Device) -> None:
    made = release(api)

    def other() -> tuple[str, str]:
        tried = api.home.store.journal.history("pi-1")
        slots = slots_of(api.home.store.devices.device("pi-1"), tried, "app")
        return slots.other, slots.note

    assert other()[0] == "not known"
    device.report(*device.steps("1.1.0", made, Phase.DOWNLOADING))
    assert other()[0] == "not known", "a download into a file is no slot"
    device.report(*device.steps("1.1.0", made, Phase.DOWNLOADING, Phase.INSTALLING))
    assert other() == ("1.1.0", "installing now")
    device.take("1.2.0", made)
    assert other() == ("1.0.0", "what it ran before, to fall back on")
