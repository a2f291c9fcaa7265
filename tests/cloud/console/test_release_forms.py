"""The form that makes a release: filled in, locked to its channel, and held to what was shown."""

from datetime import UTC, datetime
from typing import Any

import pytest

from cloud.access.roles import Role
from tests.cloud.cli.trees import parse
from tests.cloud.console.releasing import CHANNEL, fleet, parses, path_of, release, stat
from tests.cloud.console.visits import Page, reading
from tests.cloud.homes import PRODUCT, Api

FORM = f"{CHANNEL}/release"
SHOW = "Show whom it reaches"


def value(page: Page, name: str) -> str:
    return str(page.one(f"[name={name}]").get("value", ""))


def only(api: Api) -> Any:
    """The one release that there is."""
    (page,) = api("GET", "/releases")
    return page["release"]


def test_the_form_is_filled_in_and_its_channel_is_locked(api: Api) -> None:
    fleet(api)
    release(api, "1.1.0", target_range="1.x", mandatory=True)
    with reading(api) as ann:
        page = ann.get(FORM)
        assert page.title == "New release: v2"
        for name, said in (("product", PRODUCT), ("component", "app"), ("group", "everyone")):
            control = page.one(f"#f-{name}")
            assert control["value"] == said
            assert control.has_attr("readonly")
            assert not control.has_attr("name"), "what is locked is said by the address alone"
        assert page.one("#f-version option[selected]")["value"] == "1.2.0"
        assert "released here as v1" in page.one("#f-version").get_text()
        assert (value(page, "target_range"), value(page, "description")) == ("1.x", "What is new in 1.2.0.")
        assert page.one("[name=mandatory]").has_attr("checked")
        assert value(page, "percentage") == "100"
        parses(page)
        assert ann.get(f"{FORM}?version=1.0.0").one("#f-version option[selected]")["value"] == "1.0.0"


def test_it_says_that_firmware_is_signed_elsewhere(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get(FORM)
        assert "Firmware is signed where its key is, which is never here" in page.text
        assert page.cli()[0].startswith("fleetlift release push IMAGE")
        parses(page)


def test_what_it_would_do_is_shown_and_then_done(api: Api) -> None:
    fleet(api, 3)
    api.home.store.devices.pin("pi-03", "app", "1.0.0", by="test")
    with reading(api) as ann:
        review = ann.get(FORM).submit(SHOW, {"Description": "calmer"})
        assert review.title == "Release app 1.2.0 to everyone?"
        assert stat(review, "Reaches") == "2"
        assert "reaches 2 of 3 devices" in review.text
        assert [it.get_text(strip=True) for it in review.soup.select("details.verdict[open] li")] == ["pi-01", "pi-02"]
        assert "locked to 1.0.0" in review.text
        assert api("GET", "/releases") == []
        page = review.submit("Release")
        assert page.said.startswith(f"{PRODUCT}/everyone/app v1 is released.")
        assert page.has("#standing"), "it answers with live progress"
        made = only(api)
        assert made["firmware"]["version"] == "1.2.0"
        assert (made["description"], made["percentage"], made["urgency"]) == ("calmer", 100, "gradual")
        parses(review, page)


def test_nothing_is_released_when_the_world_is_another(api: Api) -> None:
    devices = fleet(api, 3)
    with reading(api) as ann:
        review = ann.get(FORM).submit(SHOW)
        api.home.join("pi-99")
        again = review.submit("Release", expect=409)
        assert "The world is not as it was planned" in again.said
        assert "takes was 3 and is 4" in again.said
        assert api("GET", "/releases") == []
        assert stat(again, "Reaches") == "4"
        again.submit("Release")
        assert len(api("GET", "/releases")) == 1
        assert len(devices) == 3


@pytest.mark.parametrize("typed", ["", "11", "120", "twelve"])
def test_above_ten_devices_their_number_is_typed(api: Api, typed: str) -> None:
    fleet(api, 12)
    with reading(api) as ann:
        review = ann.get(FORM).submit(SHOW)
        label = "Type the number of devices that it reaches: 12"
        page = review.submit("Release", {label: typed}, expect=409)
        assert "Nothing was released" in page.said
        assert api("GET", "/releases") == []
        assert page.submit("Release", {label: "12"}).said.startswith(f"{PRODUCT}/everyone/app v1 is released.")


def test_up_to_ten_devices_nothing_is_typed(api: Api) -> None:
    fleet(api, 10)
    with reading(api) as ann:
        review = ann.get(FORM).submit(SHOW)
        assert not review.has("[name=count]")
        review.submit("Release")
    assert len(api("GET", "/releases")) == 1


def test_release_now_is_immediate(api: Api) -> None:
    fleet(api, 2)
    with reading(api) as ann:
        page = ann.get(FORM)
        radio = page.one("[name=urgency][value=immediate]")
        page.one("[name=urgency][value=gradual]").attrs.pop("checked")
        radio["checked"] = ""
        review = page.submit(SHOW)
        assert "online devices take it at once" in review.text
        page = review.submit("Release now")
        assert only(api)["urgency"] == "immediate"
        parses(review, page)


def by_plan(page: Page) -> Page:
    """Tick that it goes by a plan."""
    page.one("[name=by][value=percentage]").attrs.pop("checked")
    page.one("[name=by][value=plan]")["checked"] = ""
    return page


def fill(page: Page, **values: str) -> Page:
    """Write into fields by name: those of a table have no label that is seen."""
    for name, text in values.items():
        control = page.one(f"[name={name}]")
        if control.name == "select":
            for option in control.find_all("option"):
                option.attrs.pop("selected", None)
                if option["value"] == text:
                    option["selected"] = ""
        elif control.name == "textarea":
            control.string = text
        elif control.get("type") == "checkbox":
            control.attrs.pop("checked", None)
            if text:
                control["checked"] = ""
        else:
            control["value"] = text
    return page


def test_a_plan_with_all_that_a_push_can_say(api: Api) -> None:
    fleet(api, 4)
    api("POST", "/groups", {"product": PRODUCT, "group": "pilot"}, expect=201)
    with reading(api) as ann:
        page = fill(
            by_plan(ann.get(FORM)),
            who0="pilot",
            soak0="1h",
            who1="percentage",
            share1="25%",
            soak1="30m",
            who2="",
            ramp="4h",
            ramp_soak="1h",
            hold_back="5",
            approvals="1",
            on_gate="roll-back",
            tolerable="1",
            intolerable="10%",
            max_failures="3",
            quiet_after="2h",
            max_quiet="0",
            health="crashes<=2\n\ntemperature<=80:2%/20%",
            window="mon-fri 02:00-04:00\n22:00-02:00",
            not_before="2035-01-31T02:00",
            deadline="2035-07-31T02:00",
            zone="Europe/Berlin",
            attention="yes",
            optional="yes",
            base_first="yes",
            forced="yes",
            target_range="1.x",
        )
        review = page.submit(SHOW)
        assert "By a plan, to everyone" in review.text
        assert "forced, on devices that run 1.x" in review.text
        page = review.submit("Release")
        parses(review, page)
        line = next(it for it in page.cli() if it.startswith("fleetlift release push"))
    made = only(api)
    rollout = api("GET", f"{path_of(made)}/rollout")
    assert [(it["group"], it["percentage"], it["ramp_s"], it["soak_s"]) for it in rollout["phases"]] == [
        ("pilot", None, 0, 3600),
        (None, 25, 0, 1800),
        (None, 100, 14400, 3600),
    ]
    assert (rollout["hold_back"], rollout["approvals"], rollout["status"]) == (5, 1, "awaiting_approval")
    gates = rollout["gates"]
    assert (gates["failures"]["tolerable_permille"], gates["failures"]["max_failures"]) == (10, 3)
    assert (gates["silence"]["quiet_after_s"], gates["silence"]["max_quiet"]) == (7200, 0)
    assert [(it["gauge"], it["at_most"]) for it in gates["health"]] == [("", 2), ("temperature", 80)]
    assert {it["then"] for it in (gates["failures"], gates["silence"], *gates["health"])} == {"roll_back"}
    terms = made["terms"]
    assert [it["start_minute"] for it in terms["windows"]] == [120, 1320]
    assert terms["not_before_ms"] == round(datetime(2035, 1, 31, 1, 0, tzinfo=UTC).timestamp() * 1000)
    assert terms["deadline_ms"] - terms["not_before_ms"] == (181 * 24 - 1) * 3_600_000, "summer time begins in between"
    assert terms["attention"] is terms["optional"] is terms["base_first"] is True
    assert made["forced"] is True
    options = parse(line).params
    assert options["phase"] == ("pilot:1h", "25%:30m")
    assert options["on_gate"] == "roll-back"


def test_what_the_command_line_says_is_the_same_release(api: Api) -> None:
    fleet(api, 2)
    with reading(api) as ann:
        page = by_plan(ann.get(FORM)).submit(SHOW)
        plan = next(line for line in page.cli() if line.startswith("fleetlift release plan"))
        options = parse(plan).params
        assert options["phase"] == ("5%:30m", "25%:1h", "100%:1h")
        assert options["group"] == "everyone"
        assert options["product"] == PRODUCT
        assert (options["ramp"], options["pace"], options["approvals"]) == (None, None, None)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"soak0": "soon"}, "a time is a number and s, m, h, d or w"),
        ({"share0": ""}, "Phase 1 says no percentage"),
        ({"share1": "3"}, "the percentages of a plan rise"),
        ({"health": "hot"}, "a gate is failures"),
        ({"window": "sometimes"}, "a window is days"),
        ({"not_before": "2035-01-31T02:00", "zone": "Nowhere/Land"}, "is not a time zone"),
        ({"pace": "5", "ramp": "4h", "who2": ""}, "a pace makes ramps of its own"),
        ({"max_failures": "many"}, "is not a whole number"),
        ({"optional": "yes"}, "who may decline has to be asked"),
        ({"who0": "", "who1": "", "who2": ""}, "A plan has a phase at least"),
        ({"target_range": "newest"}, "newest"),
        ({"tolerable": "30"}, "make the second more than the first"),
    ],
)
def test_what_cannot_be_is_refused_and_what_was_typed_stays(api: Api, fields: dict[str, str], sentence: str) -> None:
    fleet(api, 2)
    with reading(api) as ann:
        page = fill(by_plan(ann.get(FORM)), description="typed", **fields).submit(SHOW, expect=422)
        assert sentence.lower() in page.said.lower()
        assert "othing was changed" in page.said
        assert value(page, "description") == "typed"
        assert page.one("[name=by][value=plan]").has_attr("checked")
    assert api("GET", "/releases") == []


@pytest.mark.parametrize("percentage", ["0", "101", "half"])
def test_a_percentage_that_is_none_is_refused(api: Api, percentage: str) -> None:
    fleet(api, 2)
    with reading(api) as ann:
        page = fill(ann.get(FORM), percentage=percentage).submit(SHOW, expect=422)
        assert "othing was changed" in page.said
        assert value(page, "percentage") == percentage


def test_changing_it_keeps_what_was_typed(api: Api) -> None:
    fleet(api, 2)
    with reading(api) as ann:
        page = fill(by_plan(ann.get(FORM)), description="typed", health="crashes<=2", soak1="9h").submit(SHOW)
        page = page.submit("Change it")
        assert value(page, "description") == "typed"
        assert value(page, "soak1") == "9h"
        assert page.one("[name=health]").get_text() == "crashes<=2"
        assert not page.one("[name=mandatory]").has_attr("checked")


def test_many_devices_are_named_page_by_page(api: Api) -> None:
    fleet(api, 45)
    with reading(api) as ann:
        review = ann.get(FORM).submit(SHOW)
        first = [it.get_text(strip=True) for it in review.soup.select("details.verdict[open] li")]
        rest = review.submit("More of these").soup.select("details.verdict[open] li")
        assert first + [it.get_text(strip=True) for it in rest] == [f"pi-{number:02}" for number in range(1, 46)]


def test_an_operator_may_look_and_a_viewer_not(api: Api) -> None:
    fleet(api, 2)
    with reading(api, "ben", Role.OPERATOR) as ben, reading(api, "cat", Role.VIEWER) as cat:
        review = ben.get(FORM).submit(SHOW)
        assert "A release manager may make it" in review.text
        assert not any(it.get_text(strip=True) == "Release" for it in review.soup.find_all("button"))
        csrf = str(review.one("main form input[name=csrf]")["value"])
        ben.send("post", FORM, [("csrf", csrf), ("step", "release"), ("version", "1.2.0")], expect=403)
        page = cat.get(FORM)
        assert not page.has("main form")
        csrf = str(page.one("form[action='/logout'] input[name=csrf]")["value"])
        cat.send("post", FORM, [("csrf", csrf), ("step", "plan"), ("version", "1.2.0")], expect=403)
    assert api("GET", "/releases") == []


def test_the_same_release_again_is_said_to_be_one(api: Api) -> None:
    fleet(api, 2)
    release(api, "1.2.0")
    with reading(api) as ann:
        review = ann.get(FORM).submit(SHOW)
        assert "v1 says the same already" in review.text
        review = ann.get(f"{FORM}?version=1.1.0").submit(SHOW)
        assert "says the same" not in review.text


def test_a_review_says_why_it_would_be_refused_and_offers_no_deed(api: Api) -> None:
    """Devices would leave the group with the version, and go back by what was released before."""
    fleet(api, 2)
    release(api, "1.0.0")
    body = {"product": PRODUCT, "group": "old", "query": 'app < "1.2.0"'}
    api("POST", "/groups", body, expect=201)
    with reading(api) as ann:
        page = ann.get(f"/products/{PRODUCT}/app/old/release").submit(SHOW)
        (said,) = page.soup.select("main .banner.bad")
        assert "It cannot be made so" in said.get_text()
        assert "this release would be refused" in said.get_text()
        assert not page.has("main button[value=release]")
        assert page.submit("Change it").title == "New release: v1"
    assert len(api("GET", "/releases")) == 1
