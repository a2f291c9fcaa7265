"""`make screenshots`: a picture of every page of the console, light, dark and as on a phone, into docs/screenshots.

They show a small fleet that was made up, at a time that stands still, so that the same pages give the same pictures.
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.cloud.homes import serve_api
from tests.console.addresses import addresses
from tests.console.conftest import CHROMIUM, log_in, url_of, window
from tests.console.stage import staged

INTO = Path(__file__).parents[2] / "docs" / "screenshots"
LOOKS = (("light", 1280, False), ("dark", 1280, True), ("phone", 390, False))
TALLEST = 1600
"""Long lists end there."""
DRAWN_MS = 1500
"""How long a plot and what is counted in the background may take; nothing tells a picture that they are done."""


def main() -> int:
    """Write them all; return 0."""
    INTO.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fleetlift-pictures-") as scratch,
        staged(Path(scratch) / "home", "small") as home,
        serve_api(home) as api,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        pages = addresses(api.backend.store)
        for look, width, dark in LOOKS:
            _photograph(browser, url_of(api), pages, look, width=width, dark=dark)
        browser.close()
    return 0


def _photograph(browser: Browser, url: str, pages: dict[str, str], look: str, *, width: int, dark: bool) -> None:
    with window(browser, url, width=width, dark=dark) as page:
        page.goto("/login")
        page.screenshot(path=INTO / f"login-{look}.png")
        log_in(page)
        for name, where in pages.items():
            page.goto(where)
            page.wait_for_timeout(DRAWN_MS)
            height = min(TALLEST, page.evaluate("document.documentElement.scrollHeight"))
            page.set_viewport_size({"width": width, "height": height})
            page.screenshot(path=INTO / f"{name}-{look}.png")
            page.set_viewport_size({"width": width, "height": 900})
            print(f"{name}-{look}.png", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
