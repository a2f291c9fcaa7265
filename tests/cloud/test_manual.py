"""The documents beside a server: refused requests lead to them, it serves their site, and nothing beside it."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from cloud.config import ServerSettings
from cloud.manual import ManualSite, manual_of
from protocol.errors import UserError
from tests.cloud.homes import OpenHome, open_home, serve_api


@pytest.fixture
def home(tmp_path: Path) -> Iterator[OpenHome]:
    with open_home(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def built(tmp_path: Path) -> Path:
    directory = tmp_path / "site"
    (directory / "reference").mkdir(parents=True)
    (directory / "index.html").write_text("<h1>Documents</h1>")
    (directory / "reference" / "index.html").write_text("<h1>Reference</h1>")
    (tmp_path / "secret.html").write_text("secret")
    return directory


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({}, "https://ota.example/docs/troubleshooting.html#busy"),
        ({"docs_dir": "site"}, "https://ota.example/docs/troubleshooting.html#busy"),
        ({"docs_url": "https://docs.example/fleetlift/"}, "https://docs.example/fleetlift/troubleshooting.html#busy"),
        ({"docs_dir": "site", "docs_url": "https://docs.example"}, "https://docs.example/troubleshooting.html#busy"),
    ],
)
def test_a_code_is_explained_where_the_documents_are(settings: dict[str, str], place: str) -> None:
    manual = manual_of(ServerSettings.model_validate(settings), "https://ota.example")
    assert manual.explain("busy") == place


def test_a_refused_request_leads_to_the_entry_of_its_code_and_the_log_names_it(
    home: OpenHome, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_api(home) as api, caplog.at_level(logging.INFO, logger="cloud.api.problems"):
        said = api("POST", "/products", {"name": "No!", "hardware_models": ["pi"]}, expect=422)
        assert said["help"] == f"http://api.test/docs/troubleshooting.html#{said['error']}"
        huge = api("POST", "/products", {"name": "x" * 5_000_000}, expect=413)
        assert huge["help"].endswith("#too_large")
    assert f"POST '/api/v1/products' was refused: 422 {said['error']}" in caplog.text


def test_the_site_is_served_below_docs_with_headers_and_links_to_it(home: OpenHome, built: Path) -> None:
    with serve_api(home, docs_dir=str(built)) as api:
        said = api("GET", "/devices/none", expect=404)
        assert said["help"] == "http://api.test/docs/troubleshooting.html#not_found"
    site = ManualSite(built)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await site(scope, receive, send)

    async def look() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ota.test") as http:
            there = await http.get("/docs")
            assert (there.status_code, there.headers["location"]) == (307, "/docs/")
            page = await http.get("/docs/")
            assert (page.status_code, page.text) == (200, "<h1>Documents</h1>")
            assert "script-src" not in page.headers["content-security-policy"]
            assert page.headers["content-security-policy"].startswith("default-src 'self';")
            assert (await http.get("/docs/reference/")).text == "<h1>Reference</h1>"
            for path in ("/docs/../secret.html", "/docs/%2e%2e/secret.html", "/docs/..%2fsecret.html", "/docs/none"):
                assert (await http.get(path)).status_code == 404, path

    asyncio.run(look())


def test_a_site_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make docs"):
        ManualSite(tmp_path)
