"""An operator's day in a real browser, over a real server, broker and agents."""

import re

from playwright.sync_api import Browser, Page, expect

from tests.console.conftest import log_in, window
from tests.support.fleet import Fleet

OWN = "an operator's own words"
CHANNEL = "/products/thermostat/app/everyone"


def first_login(page: Page, fleet: Fleet) -> str:
    """Come in by the link of the command line, and set a password; return who it is."""
    link = fleet.json("console")["url"]
    page.goto(link)
    page.get_by_role("button", name="Open the console").click()
    page.get_by_role("heading", name="Overview").wait_for()
    name = page.locator("details.person summary").inner_text().strip()
    page.goto(f"/people/{name}")
    page.get_by_label("New password (needed)", exact=True).fill(OWN)
    page.get_by_label("New password again").fill(OWN)
    page.get_by_role("button", name="Set the password").click()
    if page.url.endswith("/login") or page.get_by_label("Password", exact=True).count():
        log_in(page, name, OWN)
    return name


def release(page: Page, version: str, description: str, reach: int) -> None:
    """Fill the form in, look whom it reaches, and release."""
    page.goto(f"{CHANNEL}/release")
    page.get_by_label("Firmware").select_option(version)
    page.get_by_label("Description").fill(description)
    page.get_by_label(re.compile("Release now")).check()
    page.get_by_role("button", name="Show whom it reaches").click()
    expect(page.locator(".stat", has_text="Reaches").locator(".number")).to_have_text(str(reach))
    page.get_by_role("button", name=re.compile("^Release")).click()
    page.locator("#standing").wait_for()


def test_an_operators_day_from_first_login_to_a_bad_release_and_back(browser: Browser, fleet: Fleet) -> None:
    base = fleet.images.thermostat("1.0.0")
    good, bad = fleet.images.thermostat("1.1.0"), fleet.images.thermostat("1.2.0", fails_after_s=0.0)
    devices = [fleet.join(f"day-{number}", "--prove-timeout", 2, image=base) for number in range(3)]
    for image in (good, bad):
        fleet.call("firmware", "upload", image.path)
    with window(browser, fleet.url) as page:
        who = first_login(page, fleet)
        expect(page.locator("#live .said")).to_have_text("live")
        page.goto("/devices")
        for device in devices:
            page.get_by_role("link", name=device.device_id, exact=True).wait_for()

        release(page, "1.1.0", "the good one", 3)
        expect(page.locator(".stages li", has_text="succeeded").locator("b")).to_have_text("3")
        for device in devices:
            device.expect(good)

        release(page, "1.2.0", "the bad one", 3)
        expect(page.locator(".stages li", has_text="rolled back").locator("b")).to_have_text("3")
        expect(page.locator("#standing")).to_contain_text("health failed")
        page.locator("summary", has_text="Disable").first.click()
        page.get_by_role("button", name=re.compile("Disable v2")).click()
        expect(page.locator("main")).to_contain_text("Disabled")
        for device in devices:
            device.expect(good)

        page.goto(CHANNEL)
        expect(page.locator("article", has_text="1.1.0")).to_contain_text("Live")
        page.goto("/audit")
        expect(page.locator("main")).to_contain_text(who)
        page.goto("/devices/day-0")
        expect(page.locator("main")).to_contain_text("rolled back")


def test_two_operators_at_once_see_and_do_not_overrun_each_other(browser: Browser, fleet: Fleet) -> None:
    base = fleet.images.thermostat("1.0.0")
    fleet.join("pair-0", image=base)
    fleet.call("firmware", "upload", fleet.images.thermostat("1.3.0").path)
    with window(browser, fleet.url) as one, window(browser, fleet.url) as other:
        who = first_login(one, fleet)
        log_in(other, who, OWN)
        for page in (one, other):
            page.goto(f"{CHANNEL}/release")
            page.get_by_label("Firmware").select_option("1.3.0")
            page.get_by_role("button", name="Show whom it reaches").click()
            page.locator(".stat", has_text="Reaches").wait_for()
        one.get_by_role("button", name=re.compile("^Release")).click()
        one.locator("#standing").wait_for()
        other.get_by_role("button", name=re.compile("^Release")).click()
        expect(other.get_by_role("alert").first).to_contain_text(
            re.compile("nothing was released|Nothing was", re.IGNORECASE)
        )
        other.goto(CHANNEL)
        expect(other.locator("article")).to_have_count(1)
        one.locator("summary", has_text="Disable").first.click()
        one.get_by_role("button", name=re.compile("Disable v1")).click()
        expect(other.locator("article")).to_contain_text("disabled")


def test_the_broker_is_gone_and_back(browser: Browser, fleet: Fleet) -> None:
    base = fleet.images.thermostat("1.0.0")
    device = fleet.join("gone-0", image=base)
    image = fleet.images.thermostat("1.4.0")
    fleet.call("firmware", "upload", image.path)
    with window(browser, fleet.url) as page:
        first_login(page, fleet)
        page.goto("/")
        fleet.broker.stop()
        expect(page.locator("#health")).to_contain_text("the broker is not reached")
        release(page, "1.4.0", "made without a broker", 1)
        expect(page.locator("#health")).to_contain_text("What you decide is kept")
        fleet.broker.start()
        expect(page.locator("#health")).not_to_contain_text("the broker is not reached")
        expect(page.locator(".stages li", has_text="succeeded").locator("b")).to_have_text("1")
        device.expect(image)
