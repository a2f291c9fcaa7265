"""The overview: numbers, the plot, who needs somebody, what runs, what fails; and what to do with an empty fleet."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from cloud.access.roles import Role
from cloud.console.first_steps import steps_of
from cloud.console.plotting import SHOWN, lines_of
from cloud.models import DeviceRow
from cloud.roles import utc_now
from cloud.sparing import MANY
from cloud.store.samples import HistoryPoint, HistorySeries
from cloud.values import ChannelKey, ReleaseDraft, ReleaseView
from protocol.phases import Reason, Wait
from protocol.up import Pending
from tests.cloud.cli.trees import parse
from tests.cloud.console.visits import Page, reading
from tests.cloud.homes import MODEL, PRODUCT, Api
from tests.cloud.store.fleets import Device, digest_of, image_of
from tests.cloud.troubled import troubled
from tests.cloud.visitors import OTHER, add_product, join
from tests.support.processes import wait_until

DAY_MS = 86_400_000


def devices_of(api: Api, *ids: str) -> list[Device]:
    found = [Device(api.home.store, it, {"app": "1.0.0"}, model=MODEL) for it in ids]
    for device in found:
        device.hello()
    return found


def release(api: Api, version: str) -> ReleaseView:
    api.home.publish(version, image_of("app", version))
    draft = ReleaseDraft(channel=ChannelKey(PRODUCT, "everyone", "app"), version=version)
    return api.home.store.releases.create(draft, by="test")


def numbers(page: Page) -> dict[str, str]:
    names = [it.get_text(strip=True) for it in page.soup.select("#numbers dt")]
    return dict(zip(names, [it.get_text(strip=True) for it in page.soup.select("#numbers .number")], strict=True))


def troubles(page: Page) -> list[str]:
    return [" ".join(it.get_text(" ", strip=True).split()) for it in page.soup.select(".trouble h3")]


def steps(page: Page) -> list[bool]:
    """Which of the first steps are ticked off."""
    return ["done" in (it.get("class") or []) for it in page.soup.select(".steps > li")]


def test_an_empty_fleet_is_told_step_by_step_what_to_do_first(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get("/")
        assert steps(page) == [True, True, False, False, False]
        assert page.one("[aria-current=step]").strong.text == "Enrol a device"  # type: ignore[union-attr]
        assert page.cli()[0] == "fleetlift token create --product thermostat"
        for line in page.cli():
            parse(line)
        assert not page.has("[data-plot]")
        of_empty = str(page.one("#steps")["hx-get"])
        assert "HX-Refresh" not in ann.get(of_empty, fragment=True).answer.headers
        (device,) = devices_of(api, "pi-1")
        assert ann.get(of_empty, fragment=True).answer.headers["HX-Refresh"] == "true"
        page = ann.get("/")
        assert steps(page) == [True, True, True, False, False]
        assert numbers(page)["Devices"] == "1"
        made = release(api, "2.0.0")
        assert steps(ann.get("/overview/steps", fragment=True)) == [True, True, True, True, False]
        device.take("2.0.0", made.release_id)
        assert steps(ann.get("/overview/steps", fragment=True)) == []
        assert "First steps" not in ann.get("/").text


def test_without_a_product_the_first_step_is_one() -> None:
    found = steps_of((), released=frozenset(), running=frozenset())
    assert [step.done for step in found] == [True, False, False, False, False]
    assert found[1].lines == ("fleetlift product create thermostat --hardware raspberrypi4",)


def test_the_fleet_in_numbers_and_by_version(api: Api) -> None:
    one, two, three = devices_of(api, "pi-1", "pi-2", "pi-3")
    made = release(api, "2.0.0")
    one.take("2.0.0", made.release_id)
    two.fail("2.0.0", made.release_id)
    three.presence(online=False)
    with reading(api) as ann:
        page = ann.get("/")
        assert numbers(page) == {"Devices": "3", "Online": "2", "Failed": "1", "Quiet": "0"}
        assert page.rows("figure table") == [["1.0.0", "2", "1"], ["2.0.0", "1", "1"]]
        assert page.follow("1.0.0").path == "/devices?product=thermostat&component=app&version=1.0.0"
        assert numbers(ann.get("/overview/numbers", fragment=True)) == numbers(page)
        assert "fleetlift status --product thermostat --component app --over 30d" in page.cli()
        for line in page.cli():
            parse(line)


def test_the_plot_is_of_samples_and_ends_with_how_it_is_now(api: Api) -> None:
    (one, _) = devices_of(api, "pi-1", "pi-2")
    api.home.store.samples.take()
    one.take("2.0.0", release(api, "2.0.0").release_id)
    with reading(api) as ann:
        page = ann.get("/")
        told: dict[str, Any] = ann.http.get(str(page.one("[data-plot]")["data-plot"])).json()
        lines = {line["name"]: [count for _, count in line["points"]] for line in told["series"]}
        assert lines == {"1.0.0": [2, 1], "2.0.0": [1]}
        all_ = ann.get("/").submit("Show", {"Component": "-", "Time": 7})
        assert all_.path == "/?product=thermostat&component=-&days=7"
        told = ann.http.get(str(all_.one("[data-plot]")["data-plot"])).json()
        assert [(line["name"], [count for _, count in line["points"]]) for line in told["series"]] == [
            ("devices", [2, 2]),
            ("online", [2, 2]),
        ]
        assert ann.http.get("/plots/versions?product=toaster").json()["series"] == []
        assert ann.get("/?component=nothing&days=5").has("[data-plot*='component=app&days=30']")


def test_who_needs_somebody_and_why(api: Api) -> None:
    failed, blocked, shouting = devices_of(api, "pi-1", "pi-2", "pi-3")
    made = release(api, "2.0.0")
    failed.fail("2.0.0", made.release_id)
    item = Pending(
        component="app",
        version="2.0.0",
        digest=digest_of("2.0.0"),
        source_id=made.release_id,
        why=Wait.REQUIREMENT,
        detail="os <b>2</b> is needed",
    )
    blocked.tell(pending=(item,))
    api.backend.refusals.note(shouting.device_id, "report", "bad_message", "a field is missing")
    with reading(api) as ann:
        page = ann.get("/")
        assert troubles(page) == ["1 Rolled back", "1 Messages refused", "1 Blocked"]
        assert "app 2.0.0: os <b>2</b> is needed" in page.text
        assert page.follow("health failed").path == "/devices?failed=health_failed&revoked=false"
        assert ann.get("/overview/lists", fragment=True).has("#lists .trouble")
        blocked.tell()
        failed.take("2.0.0", made.release_id)
        api.backend.refusals.__init__()  # type: ignore[misc]
        calm = ann.get("/")
        assert troubles(calm) == []
        assert "No device needs anybody" in calm.text


def test_many_in_need_are_counted_and_led_to(api: Api) -> None:
    made = release(api, "2.0.0")
    for device in devices_of(api, *(f"pi-{number}" for number in range(8))):
        device.fail("2.0.0", made.release_id, Reason.HEALTH_FAILED)
    with reading(api) as ann:
        page = ann.get("/")
        assert troubles(page) == ["8 Rolled back"]
        assert len(page.soup.select(".trouble li")) == 5
        assert page.follow("All 8").path == "/devices?trouble=rolled_back"


def test_each_number_leads_to_a_list_of_so_many(api: Api) -> None:
    troubled(api)
    add_product(api.home)
    join(api.home, "pump-1")
    with reading(api) as ann:
        page = ann.get("/")
        assert troubles(page) == [
            *("2 Said two things", "3 Failed", "4 Rolled back", "3 Messages refused", "2 Certificate ends"),
            *("2 Blocked", "1 Quiet", "1 Held back", "1 Wait for a turn"),
        ], "every kind is there"
        found = {
            str(it["href"]): int(str(it.get("data-count") or "".join(filter(str.isdigit, it.text))))
            for it in page.soup.select('main a[href^="/devices"]')
            if it.parent is None or it.parent.name != "li" or it.get("data-count")
        }
        assert len(found) > 16
        for address, count in found.items():
            total = ann.get(address).one(".total strong").text
            assert (address, int("".join(filter(str.isdigit, total)))) == (address, count)
    with reading(api, "ben", Role.VIEWER, PRODUCT) as ben:
        page = ben.get("/")
        for it in page.soup.select("main a[data-count]"):
            assert ben.get(str(it["href"])).one(".total strong").text == it["data-count"], it["href"]


def test_signed_metadata_that_expires_is_told_with_what_renews_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    with reading(api) as ann:
        assert not ann.get(f"/products/{PRODUCT}").has(".banner")
        devices_of(api, "pi-1")
        for days, badge, how in ((330, "expires soon", "expires"), (400, "expired", "has expired")):
            at = utc_now() + timedelta(days=days)
            monkeypatch.setattr("cloud.api.fleet.utc_now", lambda at=at: at)
            page = ann.get("/")
            assert f"{badge} Signed metadata of {PRODUCT}" in troubles(page)
            assert f"fleetlift key renew {PRODUCT}" in page.cli()
            page = ann.get(f"/products/{PRODUCT}")
            assert f"The signed metadata of {PRODUCT}, version 1, {how}" in page.text
            assert f"Devices take no firmware of {PRODUCT}" in page.text
            assert f"fleetlift key renew {PRODUCT}" in page.cli()
            for line in page.cli():
                parse(line)


def test_what_runs_is_shown_until_every_device_has_settled(api: Api) -> None:
    one, two = devices_of(api, "pi-1", "pi-2")
    made = release(api, "2.0.0")
    one.take("2.0.0", made.release_id)
    with reading(api) as ann:
        page = ann.get("/")
        runs = " ".join(page.one(".runs").get_text(" ", strip=True).split())
        assert "1 updated" in runs
        assert "1 waiting" in runs
        assert page.follow(f"{PRODUCT} 2.0.0").path == f"/releases/{made.release_id}"
        two.take("2.0.0", made.release_id)
        assert not ann.get("/").has(".runs")


def test_of_a_large_fleet_nobody_waits_for_the_count(api: Api) -> None:
    row = {"product": PRODUCT, "hardware_model": MODEL, "registered_at_ms": 1, "attributes": {}, "encodings": []}
    with api.home.store._database.changing() as change:
        change.session.execute(insert(DeviceRow), [row | {"id": f"many-{number:05}"} for number in range(MANY)])
    with reading(api) as ann:
        api.home.store.samples.take()
        first = ann.get("/")
        assert first.has("[data-plot]"), "what was sampled is there at once"
        assert numbers(first)["Devices"] in ("…", "2\N{NARROW NO-BREAK SPACE}000")
        wait_until(lambda: numbers(ann.get("/overview/numbers"))["Devices"].startswith("2"), what="the count")
        page = ann.get("/")
        assert "counted 20" in page.text, "how old it is"


def test_somebody_with_one_product_sees_that_one(api: Api) -> None:
    add_product(api.home)
    join(api.home, "pump-1")
    devices_of(api, "pi-1", "pi-2")
    with reading(api, "ben", Role.VIEWER, OTHER) as ben:
        page = ben.get("/")
        assert numbers(page)["Devices"] == "1"
        assert PRODUCT not in page.text
        assert ben.http.get(f"/plots/versions?product={PRODUCT}").json()["series"] == []


@pytest.mark.parametrize(("versions", "now"), [(3, 3), (SHOWN, SHOWN), (SHOWN + 4, SHOWN + 4), (3, SHOWN + 4)])
def test_a_plot_has_so_many_lines_and_loses_nobody(versions: int, now: int) -> None:
    series = tuple(
        HistorySeries(
            version=f"1.{number}", others=False, points=(HistoryPoint(at_ms=1, devices=10 + number, online=0),)
        )
        for number in range(versions)
    )
    rest = HistorySeries(version="", others=True, points=(HistoryPoint(at_ms=1, devices=5, online=0),))
    for given in (series, (*series, rest)):
        lines = lines_of(given, {f"1.{number}": 100 + number for number in range(now)}, 2)
        assert len(lines) <= SHOWN
        points = [point for line in lines for point in line["points"]]
        assert sum(count for at_ms, count in points if at_ms == 2) == sum(100 + number for number in range(now))
        before = sum(10 + number for number in range(versions)) + (5 if rest in given else 0)
        assert sum(count for at_ms, count in points if at_ms == 1) == before
