"""Webhooks in the console: added with a secret that is shown once, tested, disabled, removed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from cloud.access.roles import Role
from cloud.webhooks.letters import check_secret
from cloud.webhooks.values import Tried
from tests.cloud.console.releasing import parses, stat
from tests.cloud.console.visits import reading
from tests.cloud.homes import PRODUCT, Api

HOOKS = "/settings/webhooks"
URL = "https://pager.example/hook"


def test_without_webhooks_the_page_says_what_they_are_for(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get(HOOKS)
        parses(page)
        assert "No webhook yet" in page.text


def test_a_webhook_is_added_and_its_secret_shown_once(api: Api) -> None:
    with reading(api) as ann:
        fields = {"Name": "pager", "Address": URL, "Kinds": "rollout.* device.failed", "What happens to": PRODUCT}
        shown = ann.get(HOOKS).submit("Add the webhook", fields)
        secret = next(line for line in shown.cli() if line.startswith("whsec_"))
        assert check_secret(secret) == secret
        assert "set-cookie" not in shown.answer.headers
        page = shown.follow("Done")
        parses(page)
        assert secret not in page.answer.text
        assert page.title == "pager"
        hook = api("GET", "/webhooks/pager")["webhook"]
        assert (hook["product"], hook["kinds"]) == (PRODUCT, ["rollout.*", "device.failed"])
        row = ann.get(HOOKS).rows()[0]
        assert row[:4] == ["pager", URL, "rollout.*, device.failed of thermostat", "good"]


def test_what_is_refused_keeps_what_was_typed_but_no_secret(api: Api) -> None:
    with reading(api) as ann:
        fields = {
            "Name": "pager",
            "Address": "http://127.0.0.1/hook",
            "Secret": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",
        }
        page = ann.get(HOOKS).submit("Add the webhook", fields, expect=422)
        assert "address of this machine" in page.said
        assert page.one("#f-url")["value"] == "http://127.0.0.1/hook"
        assert not page.one("#f-secret")["value"]
        known = page.submit("Add the webhook", fields | {"Kinds": "weather.changed", "Address": URL}, expect=422)
        assert "no kind of event 'weather.changed'" in known.said
        assert api("GET", "/webhooks") == []
        made = page.submit("Add the webhook", fields | {"Allow an address of this machine or network": True})
        assert made.said.startswith("pager is told of what happens from now on.")
        assert "whsec_" not in made.answer.text


@contextlib.contextmanager
def delivering(api: Api, *, taken: bool) -> Iterator[None]:
    """Somebody who tries every delivery once, as the service's own loop does beside the API."""
    ended = threading.Event()
    hooks, changes = api.home.store.webhooks, api.backend.changes

    def deliver() -> None:
        while not ended.wait(0.02):
            for hook, dues in hooks.due(skip=(), limit=10):
                answer = "200 OK" if taken else "503 Service Unavailable"
                later = None if taken else int(time.time() * 1000) + 3_600_000
                hooks.settle(
                    hook.name,
                    [Tried(event=it.event.number, taken=taken, answer=answer, due_at_ms=later) for it in dues],
                )
                changes.bump()

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("taken", "said"), [(True, "pager took the test: 200 OK."), (False, "pager did not take the test: 503 Service")]
)
def test_a_test_says_what_the_receiver_answered(api: Api, taken: bool, said: str) -> None:
    with reading(api) as ann, delivering(api, taken=taken):
        page = ann.get(HOOKS).submit("Add the webhook", {"Name": "pager", "Address": URL}).follow("Done").submit("Test")
        parses(page)
        assert page.said.startswith(said)
        assert page.rows()[0][2] == "webhook.test"
        assert stat(page, "Delivered" if taken else "Pending") == "1"
        assert api("GET", "/audit?action=webhook.tested")[0]["origin"]["via"] == "console"


def test_it_is_disabled_enabled_and_removed(api: Api) -> None:
    with reading(api) as ann:
        shown = ann.get(HOOKS).submit("Add the webhook", {"Name": "pager", "Address": URL})
        page = shown.follow("Done").submit("Disable the webhook")
        parses(page)
        assert page.said.startswith("pager is not told of anything any more.")
        assert "It is disabled" in page.text
        assert not any(it.get_text() == "Test" for it in page.soup.find_all("button"))
        page = page.submit("Enable")
        assert page.said.startswith("pager is told of what happens again")
        page = page.submit("Remove the webhook")
        parses(page)
        assert (page.path, api("GET", "/webhooks")) == (HOOKS, [])


def test_an_admin_of_one_product_adds_webhooks_for_that(api: Api) -> None:
    with reading(api, "ben", Role.ADMIN, PRODUCT) as ben:
        page = ben.get(HOOKS)
        assert [it["value"] for it in page.soup.select("#f-product option")] == [PRODUCT]
        page.submit("Add the webhook", {"Name": "pager", "Address": URL})
    with reading(api, "cat", Role.VIEWER) as cat:
        page = cat.get(f"{HOOKS}/pager")
        assert not page.has(f"form[action^='{HOOKS}']")
        csrf = page.soup.select("input[name=csrf]")[0]["value"]
        assert cat.http.post(f"{HOOKS}/pager/disable", data={"csrf": csrf}).status_code == 403
