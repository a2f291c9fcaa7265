"""A channel in the console: its releases as cards, with what became of each and what can be done with it."""

import re

import pytest

from cloud.access.roles import Role
from protocol.phases import Reason
from tests.cloud.console.releasing import CHANNEL, fleet, parses, path_of, release, stat
from tests.cloud.console.visits import Page, reading
from tests.cloud.homes import PRODUCT, Api


def card(made: dict[str, str]) -> str:
    return f"#card-{made['release_id']}"


def _timeless(text: str) -> str:
    """What a card says without how long its release is Live: a second may pass between two answers."""
    return re.sub(r"Live for\s*[\w ]+", "Live for ", text)


def buttons(page: Page, within: str) -> list[str]:
    """What is offered: links and the summaries of questions."""
    return [it.get_text(strip=True) for it in page.soup.select(f"{within} footer .button")]


def test_a_channel_without_a_release_says_what_to_do_first(api: Api) -> None:
    fleet(api)
    with reading(api) as ann:
        page = ann.get(CHANNEL)
        assert "Nothing is released here yet" in page.text
        parses(page)
        assert page.follow("New release").title == "New release: v1"
        assert ann.get(f"/products/{PRODUCT}/app/nowhere", expect=404).title == "404 Not Found"
        assert ann.get(f"/products/{PRODUCT}/app/NOT%20ONE", expect=422).title


def test_a_card_says_what_was_decided_and_what_became_of_it(api: Api) -> None:
    devices = fleet(api, 4)
    made = release(api, "1.1.0", description="A calmer curve", mandatory=True, target_range="1.x")
    devices[0].take("1.1.0", made["release_id"])
    devices[1].fail("1.1.0", made["release_id"], Reason.HEALTH_FAILED)
    with reading(api) as ann:
        page = ann.get(CHANNEL)
        said = page.one(card(made)).get_text(" ", strip=True)
        for words in ("v1", "1.1.0", "Live", "mandatory", "A calmer curve", "1.x", "Live for", made["release_id"]):
            assert words in said, words
        numbers = {name: stat(page, name, card(made)) for name in ("Rollout", "Active", "Downloads", "Installs")}
        assert numbers == {"Rollout": "100 %", "Active": "25.0 %", "Downloads": "2", "Installs": "1"}
        assert stat(page, "Roll-backs", card(made)) == "1"
        assert "1 health failed" in said
        parses(page)


def test_newest_first_and_live_is_the_highest_enabled(api: Api) -> None:
    fleet(api)
    first, second = release(api, "1.1.0"), release(api, "1.2.0")
    with reading(api) as ann:
        page = ann.get(CHANNEL)
        cards = [it["id"] for it in page.soup.select("article.release")]
        assert cards == [card(second)[1:], card(first)[1:]]
        page = page.submit("Disable v2")
        assert page.said.startswith("v2 is disabled.")
        assert page.path == CHANNEL
        assert "Live" in page.one(card(first)).get_text()
        page = page.submit("Enable v2")
        assert "Live" in page.one(card(second)).get_text()
        parses(page)


def test_what_is_offered_depends_on_the_role(api: Api) -> None:
    fleet(api)
    made = release(api, "1.1.0")
    offered = {}
    for name, role in (("cat", Role.VIEWER), ("ben", Role.OPERATOR), ("dan", Role.RELEASE_MANAGER)):
        with reading(api, name, role) as reader:
            page = reader.get(CHANNEL)
            offered[role] = buttons(page, card(made))
            assert (page.has("a.button.main")) is (role is Role.RELEASE_MANAGER)
    assert offered == {
        Role.VIEWER: [],
        Role.OPERATOR: ["Disable"],
        Role.RELEASE_MANAGER: ["Release now", "Disable", "Edit", "Promote", "Roll back"],
    }


def test_a_release_by_plan_is_steered_on_its_card(api: Api) -> None:
    fleet(api)
    made = release(api, "1.1.0", plan={"phases": [{"percentage": 10, "soak_s": 600}, {"percentage": 100}]})
    with reading(api) as ann:
        page = ann.get(CHANNEL)
        assert buttons(page, card(made)) == [
            *("Advance", "Release now", "Pause", "Retry", "Abort", "Edit", "Promote", "Roll back"),
        ]
        page = page.submit("Pause v1", {"Why": "the boilers look odd"})
        assert page.said.startswith("v1 is paused")
        assert "paused" in page.one(card(made)).get_text()
        page = page.submit("Resume v1")
        assert "running" in page.one(card(made)).get_text()
        page = page.submit("Abort v1")
        assert buttons(page, card(made)) == ["Promote", "Roll back to this"]
        parses(page)


def test_many_releases_come_page_by_page(api: Api) -> None:
    fleet(api, 1)
    for number in range(23):
        release(api, ("1.1.0", "1.2.0")[number % 2])
    with reading(api) as ann:
        seen, page = [], ann.get(CHANNEL)
        while True:
            seen += [it.get_text(strip=True) for it in page.soup.select("article.release h2 a")]
            parses(page)
            if not page.has("a[rel=next]"):
                break
            page = page.follow("Next page")
        assert seen == [f"v{number}" for number in range(23, 0, -1)]
        assert page.follow("First page").path == CHANNEL
        assert "No release is older" in ann.get(f"{CHANNEL}?before=1").text
        assert ann.get(f"{CHANNEL}?before=nonsense").has("article.release")


def test_the_live_part_is_the_same_as_in_the_page(api: Api) -> None:
    fleet(api, 1)
    release(api, "1.1.0")
    with reading(api) as ann:
        page = ann.get(CHANNEL)
        url = str(page.one("#cards")["hx-get"])
        part = ann.get(url, fragment=True)
        assert _timeless(part.one("#cards").get_text()) == _timeless(page.one("#cards").get_text())
        assert not part.has("header.top")


@pytest.mark.parametrize("succeeded", [True, False])
def test_roll_back_leads_to_the_earlier_releases(api: Api, *, succeeded: bool) -> None:
    devices = fleet(api, 2)
    first = release(api, "1.1.0")
    if succeeded:
        devices[0].take("1.1.0", first["release_id"])
    release(api, "1.2.0")
    with reading(api) as ann:
        page = ann.get(CHANNEL).follow("Roll back")
        assert page.title == "Roll back to which release?"
        assert "v2 , 1.2.0" in page.text or "v2, 1.2.0" in page.text
        if succeeded:
            assert page.follow("Roll back to v1").path == f"{path_of(first)}/rollback"
        else:
            assert "succeeded nowhere" in page.text
