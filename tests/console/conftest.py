"""A real browser, and what it looks at: fleets that were made up, and one with a broker, a server and agents."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.cloud.console.visits import PASSWORD
from tests.cloud.homes import Api, serve_api
from tests.console.stage import ANN, staged
from tests.support.brokers import require_mosquitto
from tests.support.fleet import Fleet, open_fleet
from tests.support.images import Images

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
TIMEOUT_MS = 30_000


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    if not Path(CHROMIUM).exists():
        reason = "no Chromium on this machine"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


class Complaints(list[str]):
    """What the browser had to complain about: errors of scripts, refusals by the policy, answers of 500."""


@contextmanager
def window(browser: Browser, url: str, *, width: int = 1280, dark: bool = False) -> Iterator[Page]:
    """A fresh window on a server; whatever its pages complain about fails the test."""
    context = browser.new_context(
        base_url=url,
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        ignore_https_errors=True,
        locale="en-GB",
        timezone_id="Europe/Berlin",
    )
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    complaints = Complaints()
    page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
    page.on(
        "console",
        lambda said: complaints.append(f"{page.url}: {said.text}") if "Content Security" in said.text else None,
    )
    page.on("response", lambda it: complaints.append(f"{it.status} {it.url}") if it.status >= 500 else None)
    try:
        yield page
    except BaseException as error:
        error.add_note(f"{page.url} says: {page.content()[:8000]}")
        raise
    finally:
        context.close()
    assert complaints == []


def log_in(page: Page, name: str = ANN, password: str = PASSWORD) -> None:
    """Come in by the door."""
    page.goto("/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Overview").wait_for()


@pytest.fixture(scope="package")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A small fleet with three weeks behind it, served without a broker."""
    with staged(tmp_path_factory.mktemp("small") / "home", "small") as home, serve_api(home) as api:
        yield api


@pytest.fixture(scope="package")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server that was just set up."""
    with staged(tmp_path_factory.mktemp("empty") / "home", "empty") as home, serve_api(home) as api:
        yield api


def url_of(api: Api) -> str:
    """Where the console of a server is."""
    url = api.http.base_url
    return f"http://{url.host}:{url.port}"


@pytest.fixture(scope="package")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Builds images of the sample thermostat."""
    return Images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory, images: Images, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A broker, a server and agents of the test's own, each a real process."""
    require_mosquitto()
    opened = open_fleet(tmp_path_factory.mktemp("console-fleet"), images)
    yield opened
    opened.close()
    request.node.add_report_section("teardown", "fleet", opened.logs())
