"""Pages under the hands of whoever uses them: mistakes beside fields, nothing that jumps, focus that is seen."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from protocol.phases import Phase
from protocol.up import Progress
from tests.cloud.homes import MODEL, Api
from tests.cloud.store.fleets import Device
from tests.console.addresses import addresses
from tests.console.conftest import log_in, url_of, window

MOVED = """() => new PerformanceObserver((list) => {
  for (const it of list.getEntries()) window.moved = (window.moved || 0) + it.value;
}).observe({type: "layout-shift", buffered: true})"""
LOADED_BYTES, WHOLE_BYTES = 30_000, 100_000
PUSH = """() => new Promise((done) => {
  new PerformanceObserver(() => done()).observe({type: "layout-shift"});
  document.querySelector("main").prepend(document.createElement("hr"));
})"""
TOO_WIDE = """() => [...document.querySelectorAll("main .card:not(:has(> .scroll))")]
  .filter((it) => it.scrollWidth > it.clientWidth + 1).map((it) => it.textContent.trim().slice(0, 60))"""


def moved(page: Page) -> float:
    """How much moved so far by itself, as browsers measure it: 0 is nothing, 1 the whole window."""
    return float(page.evaluate("window.moved || 0"))


def test_a_mistake_is_told_beside_its_field_and_what_was_typed_stays(browser: Browser, small: Api) -> None:
    with window(browser, url_of(small)) as page:
        log_in(page)
        page.goto(addresses(small.backend.store)["release-form"])
        page.get_by_label("Target range").fill(">=nonsense")
        page.get_by_label("Description").fill("as it was typed")
        page.get_by_role("button", name="Show whom it reaches").click()
        wrong = page.get_by_label("Target range")
        expect(wrong).to_be_focused()
        expect(wrong).to_have_attribute("aria-invalid", "true")
        expect(wrong).to_have_accessible_description(re.compile("'nonsense' is not a semantic version"))
        expect(page.get_by_label("Description")).to_have_value("as it was typed")


def test_nothing_moves_as_live_data_comes_in(browser: Browser, small: Api) -> None:
    device = Device(small.backend.store, "looked-at-1", {"app": "1.2.0"}, model=MODEL)
    device.hello()
    device.presence(online=True)
    with window(browser, url_of(small)) as page:
        log_in(page)
        page.add_init_script(f"({MOVED})()")
        page.goto("/devices/looked-at-1")
        expect(page.locator("#live .said")).to_have_text("live")
        before = moved(page)
        loading = Progress(attempt_id="a-1", component="app", done_bytes=LOADED_BYTES, total_bytes=WHOLE_BYTES)
        device.tell(phase=Phase.DOWNLOADING, progress=loading)
        small.backend.changes.bump()
        expect(page.locator("#standing .bar").first).to_be_visible()
        device.presence(online=False)
        small.backend.changes.bump()
        expect(page.locator("#standing .presence").first).to_have_text("offline")
        assert moved(page) == pytest.approx(before, abs=0.001)
        page.evaluate(PUSH)
        assert moved(page) > before + 0.001  # so it would have been seen


@pytest.mark.parametrize("width", [1280, 1000, 760])
def test_no_table_leaves_its_card(width: int, browser: Browser, small: Api) -> None:
    pages = addresses(small.backend.store)
    with window(browser, url_of(small), width=width) as page:
        log_in(page)
        for name in ("devices", "enrolment", "person", "audit", "release", "groups", "firmware"):
            page.goto(pages[name])
            assert page.evaluate(TOO_WIDE) == [], name
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name


def test_by_keyboard_the_first_stop_leads_past_the_menu_and_each_is_seen(browser: Browser, small: Api) -> None:
    with window(browser, url_of(small)) as page:
        log_in(page)
        page.goto("/audit")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
        page.keyboard.press("Enter")
        expect(page.get_by_role("main")).to_be_focused()
        for _ in range(12):  # the filters, with the parts of two times
            page.keyboard.press("Tab")
            seen = "getComputedStyle(document.activeElement).outlineStyle"
            assert page.evaluate(seen) == "solid", page.evaluate("document.activeElement.outerHTML")
