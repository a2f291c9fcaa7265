"""Every page in a real browser: accessible by axe-core, in both themes, usable by keyboard and at 390 pixels."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.cloud.homes import Api
from tests.console.addresses import addresses
from tests.console.conftest import log_in, url_of, window

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
NAMES = (
    *("overview", "products", "product", "channel", "release-form", "release", "release-stopped", "release-edit"),
    *("release-now", "promote", "roll-back", "devices", "device", "groups", "group", "firmware", "firmware-one"),
    *("enrolment", "people", "person", "audit", "webhooks"),
)


@pytest.fixture(scope="module")
def light(browser: Browser, small: Api) -> Iterator[Page]:
    with window(browser, url_of(small)) as page:
        log_in(page)
        yield page


@pytest.fixture(scope="module")
def dark(browser: Browser, small: Api) -> Iterator[Page]:
    with window(browser, url_of(small), dark=True) as page:
        log_in(page)
        yield page


@pytest.fixture(scope="module")
def narrow(browser: Browser, small: Api) -> Iterator[Page]:
    with window(browser, url_of(small), width=390) as page:
        log_in(page)
        yield page


def violations(page: Page) -> list[str]:
    """What axe-core finds, a line each."""
    found = Axe().run(page, options=RULES).response["violations"]
    return [
        f"{it['id']}: {node['html'][:160]} ({node['failureSummary'][:300]})" for it in found for node in it["nodes"]
    ]


def test_the_list_of_pages_is_whole(small: Api) -> None:
    assert set(addresses(small.backend.store)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_accessible_in_light_and_dark_and_on_a_phone(
    name: str, light: Page, dark: Page, narrow: Page, small: Api
) -> None:
    where = addresses(small.backend.store)[name]
    for page in (light, dark, narrow):
        answer = page.goto(where)
        assert answer is not None
        assert answer.status == 200
        assert violations(page) == []
    widest = narrow.evaluate("document.documentElement.scrollWidth")
    assert widest <= 390, f"{where} is {widest} pixels wide on a phone"


def test_the_door_and_an_error_are_accessible(browser: Browser, small: Api) -> None:
    for dark in (False, True):
        with window(browser, url_of(small), dark=dark) as page:
            page.goto("/login")
            assert violations(page) == []
            log_in(page)
            page.goto("/nowhere")
            assert page.get_by_role("alert").inner_text().startswith("There is no page /nowhere")
            assert violations(page) == []


def test_an_empty_fleet_is_told_what_to_do_first(browser: Browser, empty: Api) -> None:
    with window(browser, url_of(empty)) as page:
        log_in(page)
        for where in (
            "/",
            "/products",
            "/devices",
            "/groups",
            "/firmware",
            "/enrolment",
            "/audit",
            "/settings/webhooks",
        ):
            page.goto(where)
            assert violations(page) == [], where
        page.goto("/devices")
        assert "fleetlift" in page.get_by_role("main").inner_text()


def test_the_keyboard_is_enough(browser: Browser, small: Api) -> None:
    with window(browser, url_of(small)) as page:
        log_in(page)
        page.goto("/devices")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.goto(addresses(small.backend.store)["release"])
        pause = page.locator("details.confirm summary", has_text="Pause").first
        pause.focus()
        page.keyboard.press("Enter")
        button = page.get_by_role("button", name="Pause v4")
        button.wait_for()
        page.keyboard.press("Escape")
        button.wait_for(state="hidden")
        assert page.evaluate("document.activeElement.textContent").strip() == "Pause"


def test_without_scripts_all_but_live_data_works(browser: Browser, small: Api) -> None:
    context = browser.new_context(base_url=url_of(small), java_script_enabled=False)
    page = context.new_page()
    log_in(page)
    page.goto("/devices")
    page.get_by_role("link", name="bench-01").click()
    assert page.get_by_role("heading", level=1).inner_text() == "bench-01"
    page.locator("summary", has_text="ann").click()
    page.get_by_role("button", name="Log out").click()
    assert page.url.endswith("/login")
    context.close()


def test_times_are_the_readers_own_and_exact_on_hover(browser: Browser, small: Api) -> None:
    with window(browser, url_of(small)) as page:
        log_in(page)
        page.goto("/audit")
        shown = page.locator("time[data-local]").first
        page.wait_for_function("document.querySelector('time[data-local]').title.includes('(')")
        # In one go: the page is live, and another row may come between two looks.
        exact, title, text, hour = shown.evaluate(
            "it => [it.dateTime, it.title, it.innerText, new Date(it.dateTime).getHours()]"
        )
        assert exact in title
        assert text[11:13] == f"{hour:02}"
