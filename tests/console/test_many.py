"""A hundred thousand devices in a real browser: the list, a filter, the last page, one device."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.cloud.homes import Api, serve_api
from tests.console.conftest import log_in, url_of, window
from tests.console.stage import staged

DEVICES = 100_000


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server with a huge fleet."""
    with staged(tmp_path_factory.mktemp("huge") / "home", "huge", devices=DEVICES) as home, serve_api(home) as api:
        yield api


def test_a_hundred_thousand_devices_are_listed_filtered_and_opened(browser: Browser, huge: Api) -> None:
    with window(browser, url_of(huge)) as page:
        log_in(page)
        page.goto("/devices")
        expect(page.get_by_role("main")).to_contain_text("100\N{NARROW NO-BREAK SPACE}000")
        page.get_by_role("link", name="Next page").click()
        expect(page.get_by_role("link", name="device-000000", exact=True)).to_have_count(0)
        page.goto("/devices?text=device-099999")
        page.get_by_role("link", name="device-099999", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("device-099999")
        page.goto("/")
        expect(page.get_by_role("main")).to_contain_text("100\N{NARROW NO-BREAK SPACE}000")
