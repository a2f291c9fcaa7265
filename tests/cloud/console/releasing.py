"""A product with devices that take what is released, for the tests of the pages of releases."""

from __future__ import annotations

from typing import Any

from tests.cloud.cli.trees import parse
from tests.cloud.console.visits import Page
from tests.cloud.homes import MODEL, PRODUCT, Api
from tests.cloud.store.fleets import Device, image_of

CHANNEL = f"/products/{PRODUCT}/app/everyone"


def fleet(api: Api, devices: int = 3, *versions: str) -> list[Device]:
    """Publish versions, and have devices say hello that run 1.0.0."""
    for version in versions or ("1.0.0", "1.1.0", "1.2.0"):
        api.home.publish(version, image_of("app", version), notes=f"What is new in {version}.")
    found = [Device(api.home.store, f"pi-{number:02}", model=MODEL) for number in range(1, devices + 1)]
    for device in found:
        device.hello()
        device.presence(online=True)
    return found


def release(api: Api, version: str, group: str = "everyone", **more: Any) -> dict[str, Any]:
    """Release it over the API, and return it."""
    body = {"product": PRODUCT, "group": group, "component": "app", "version": version} | more
    made: dict[str, Any] = api("POST", "/releases", body, expect=201)["release"]
    return made


def path_of(made: dict[str, Any]) -> str:
    """The address of its page."""
    return f"/releases/{made['release_id']}"


def parses(*pages: Page) -> None:
    """Every command line that pages tell is one."""
    for page in pages:
        for line in page.cli():
            parse(line)


def stat(page: Page, name: str, within: str = "main") -> str:
    """The number of this name."""
    for found in page.soup.select(f"{within} .stat"):
        if found.dt and found.dt.get_text(strip=True) == name:
            number = found.select_one(".number")
            return number.get_text(strip=True) if number else ""
    raise AssertionError(f"no number {name!r} in {page.path}")
