"""A release's page: how far it is, what its gates know, what failed, and the words that steer it."""

import pytest

from cloud.access.roles import Role
from protocol.chunks import describe
from protocol.phases import Phase, Reason
from tests.cloud.console.releasing import CHANNEL, fleet, parses, path_of, release, stat
from tests.cloud.console.visits import Page, reading
from tests.cloud.homes import PRODUCT, Api

TWO = {"phases": [{"percentage": 50, "soak_s": 3600}, {"percentage": 100, "soak_s": 60}]}


def stages(page: Page) -> dict[str, int]:
    """How many devices are in each stage, as the legend says it."""
    found = {}
    for item in page.soup.select(".legend.stages li"):
        number, name = item.get_text(" ", strip=True).split(" ", 1)
        found[name] = int(number)
    return {name: count for name, count in found.items() if count}


def actions(page: Page) -> list[str]:
    return [it.get_text(strip=True) for it in page.soup.select(".steering .button")]


def table(page: Page, heading: str) -> list[list[str]]:
    """The rows of the table below a heading."""
    for section in page.soup.select("section.card"):
        if section.h2 and section.h2.get_text(strip=True) == heading:
            return [
                [cell.get_text(" ", strip=True) for cell in row.find_all("td")] for row in section.select("tbody tr")
            ]
    raise AssertionError(f"no table {heading!r}")


def test_devices_are_counted_by_stage_and_named(api: Api) -> None:
    devices = fleet(api, 5)
    made = release(api, "1.1.0")
    devices[0].take("1.1.0", made["release_id"])
    devices[1].fail("1.1.0", made["release_id"], Reason.HEALTH_FAILED)
    devices[2].report(*devices[2].steps("1.1.0", made["release_id"], Phase.DOWNLOADING))
    devices[3].presence(online=False)
    with reading(api) as ann:
        page = ann.get(path_of(made))
        assert page.title == "app 1.1.0 for everyone: v1"
        assert stages(page) == {"succeeded": 1, "rolled back": 1, "under way": 1, "waiting": 2}
        rows = {row[0]: row for row in table(page, "Device by device")}
        assert rows["pi-02"][1:3] == ["online", "rolled back"]
        assert "health failed" in rows["pi-02"][4]
        assert rows["pi-03"][2:4] == ["under way", "downloading"]
        assert rows["pi-04"][1] == "offline"
        assert table(page, "Failures by reason") == [["health failed", "rolled back", "1"]]
        assert stat(page, "Installs") == "1"
        parses(page)


def test_the_live_part_follows_the_devices(api: Api) -> None:
    devices = fleet(api, 2)
    made = release(api, "1.1.0")
    with reading(api) as ann:
        page = ann.get(path_of(made))
        url = str(page.one("#standing")["hx-get"])
        assert "changed from:#live" in str(page.one("#standing")["hx-trigger"])
        devices[0].take("1.1.0", made["release_id"])
        part = ann.get(url, fragment=True)
        assert stages(part) == {"succeeded": 1, "waiting": 1}
        assert not part.has("header.top")
        assert part.one("#standing")["hx-get"] == url


def test_phases_and_gates_tell_what_they_know(api: Api) -> None:
    devices = fleet(api, 4)
    gates = {
        "failures": {"tolerable_permille": 10, "intolerable_permille": 100, "max_failures": 3},
        "silence": {"quiet_after_s": 7200},
        "health": [{"gauge": "temperature", "at_most": 80}, {"at_most": 2}],
    }
    made = release(api, "1.1.0", plan={"phases": [{"percentage": 100, "soak_s": 3600}], "gates": gates})
    devices[0].fail("1.1.0", made["release_id"], Reason.HEALTH_FAILED)
    with reading(api) as ann:
        page = ann.get(path_of(made))
        assert "All of everyone, soaks for 1 h" in page.text.replace(" ,", ",")
        said = " ".join(it.get_text(" ", strip=True) for it in page.soup.select(".gates li"))
        assert "1 % is tolerable, 10 % is not, or at 4 failures" in said
        assert "1 of 1 that came to an end failed" in said
        assert "go quiet for 2 h, 3 times as often as others" in said
        assert "temperature above 80" in said
        assert "crashes above 2" in said
        assert table(page, "Failures by fingerprint") == [["proving", "health failed", "raspberrypi4", "1.0.0", "1"]]
        assert table(page, "Kinds of device")[0][:3] == ["raspberrypi4", "1.0.0", "1"]
        parses(page)


def test_a_gate_that_stopped_it_says_so_and_resuming_goes_on(api: Api) -> None:
    devices = fleet(api, 4)
    made = release(
        api,
        "1.1.0",
        plan={"phases": [{"percentage": 100, "soak_s": 3600}], "gates": {"failures": {"max_failures": 0}}},
    )
    devices[0].fail("1.1.0", made["release_id"], Reason.HEALTH_FAILED)
    api.home.store.rollouts.reconcile(made["release_id"])
    with reading(api) as ann:
        page = ann.get(path_of(made))
        assert page.one(".waits").get_text(strip=True).startswith("Stopped by gate.")
        assert page.has(".phases li.stopped")
        assert actions(page)[:3] == ["Release now", "Resume", "Abort"]
        page = page.submit("Resume v1")
        assert page.said.startswith("v1 goes on.")
        assert page.has(".phases li.now")
        parses(page)


def test_it_is_steered_and_the_audit_says_by_whom_and_why(api: Api) -> None:
    fleet(api, 4)
    made = release(api, "1.1.0", plan=TWO)
    with reading(api) as ann:
        page = ann.get(path_of(made)).submit("Pause v1", {"Why": "the boilers look odd"})
        assert page.said.startswith("v1 is paused: nobody further takes it.")
        assert page.path == path_of(made)
        last = api.home.store.audit.last(f"release/{made['release_id']}")
        assert last is not None
        assert (last.actor, last.action) == ("ann", "rollout.paused")
        assert last.origin is not None
        assert last.origin["via"] == "console"
        assert "the boilers look odd" in page.text
        page = page.submit("Resume v1").submit("Advance v1")
        assert page.said.startswith("v1 is in its next phase.")
        assert "phase 2 of 2" in page.text
        page = page.submit("Retry v1")
        assert "tried again" in page.said
        page = page.submit("Abort v1", {"Why": "enough"})
        assert "Disabled" in page.text or "Aborted" in page.text
        assert actions(page) == ["Promote", "Roll back to this"]
        parses(page)


def test_what_makes_no_sense_any_more_is_refused_with_the_apis_sentence(api: Api) -> None:
    fleet(api)
    made = release(api, "1.1.0", plan=TWO)
    with reading(api) as ann:
        page = ann.get(path_of(made))
        api("POST", f"{path_of(made)}/pause", {})
        page = page.submit("Pause v1")
        assert "it is paused already" in page.said
        assert "nothing was changed" in page.said
        assert page.has("main .banner.bad")


def test_somebody_else_approves(api: Api) -> None:
    fleet(api)
    api("PATCH", f"/products/{PRODUCT}", {"approvals": 1})
    with reading(api, "ann") as ann, reading(api, "dan", Role.RELEASE_MANAGER) as dan:
        form = ann.get(f"{CHANNEL}/release").submit("Show whom it reaches")
        mine = form.submit("Release")
        assert "Awaiting approval" in mine.text
        assert "0 of 1 approved" in mine.text
        assert "Approve" not in actions(mine), "whoever makes one cannot approve it"
        page = dan.get(mine.path).submit("Approve v1")
        assert page.said.startswith("v1 is approved by you.")
        assert "Running" in page.text
        parses(mine, page)


@pytest.mark.parametrize(
    ("role", "offered"),
    [
        (Role.VIEWER, []),
        (Role.OPERATOR, ["Pause", "Retry", "Abort"]),
        (
            Role.RELEASE_MANAGER,
            ["Advance", "Release now", "Pause", "Retry", "Abort", "Edit", "Promote", "Roll back"],
        ),
    ],
)
def test_only_what_the_role_allows_is_offered_and_done(api: Api, role: Role, offered: list[str]) -> None:
    fleet(api)
    made = release(api, "1.1.0", plan=TWO)
    deeds = {"pause": Role.OPERATOR, "advance": Role.RELEASE_MANAGER, "approve": Role.RELEASE_MANAGER}
    with reading(api, "ben", role) as ben:
        page = ben.get(path_of(made))
        assert actions(page) == offered
        csrf = str(page.one("form[action='/logout'] input[name=csrf]")["value"])
        for deed, needed in deeds.items():
            if not role.covers(needed):
                ben.send("post", f"{path_of(made)}/{deed}", [("csrf", csrf)], expect=403)
    assert api("GET", f"{path_of(made)}/rollout")["status"] == "running"


def test_a_release_of_another_product_is_none(api: Api) -> None:
    fleet(api)
    made = release(api, "1.1.0")
    api.home.store.catalog.create_product("pump", hardware_models=["pi4"], by="test")
    with reading(api, "eve", Role.ADMIN, "pump") as eve:
        for path in ("", "/standing", "/timeline", "/needs", "/edit", "/now", "/promote", "/rollback"):
            eve.get(f"{path_of(made)}{path}", expect=404)
        csrf = str(eve.get("/products").one("form[action='/logout'] input[name=csrf]")["value"])
        for deed in ("disable", "edit", "now", "promote", "rollback"):
            eve.send("post", f"{path_of(made)}/{deed}", [("csrf", csrf)], expect=404)
    assert api("GET", f"{path_of(made)}")["release"]["enabled"] is True


def test_the_timeline_tells_newest_first(api: Api) -> None:
    devices = fleet(api)
    made = release(api, "1.1.0", plan=TWO)
    devices[0].fail("1.1.0", made["release_id"], Reason.HEALTH_FAILED)
    api("POST", f"{path_of(made)}/pause", {"why": "odd"})
    with reading(api) as ann:
        lines = [it.get_text(" ", strip=True) for it in ann.get(path_of(made)).soup.select("#timeline li")]
        assert "paused" in lines[0]
        assert "odd" in lines[0]
        assert "released" in lines[-1]
        assert any("pi-01" in line and "health failed" in line for line in lines)
        part = ann.get(f"{path_of(made)}/timeline", fragment=True)
        assert len(part.soup.select("li")) == len(lines)


def test_what_devices_need_first_is_a_page(api: Api) -> None:
    fleet(api)
    made = release(api, "1.1.0")
    with reading(api) as ann:
        page = ann.get(path_of(made)).follow("Which devices need something else first")
        assert "Every device fits" in page.text
        parses(page)


def test_whatever_publishes_answers_with_the_page_of_what_it_made(api: Api) -> None:
    fleet(api)
    image = b"the image of 1.3.0"
    api("PUT", f"/blobs/{describe([image])[0].digest}", content=image)
    (firmware,) = api("POST", f"/products/{PRODUCT}/role", content=api.home.sign("1.3.0", image), expect=201)
    body = {"product": PRODUCT, "group": "everyone", "component": "app", "version": "1.3.0"}
    made = api("POST", "/releases", body, expect=201)
    ota = api("POST", "/devices/pi-01/ota", {"component": "app", "version": "1.3.0"}, expect=201)
    with reading(api) as ann:
        for answer, title in ((firmware, "1.3.0"), (made, "v1"), (ota, "pi-01")):
            assert answer["link"].startswith("http://api.test/")
            page = ann.get(answer["link"].removeprefix("http://api.test"))
            assert title in page.text
