"""`release`: what a push does and says before and after, what it refuses, and waiting for devices."""

import json
import os
import re
import shutil
import subprocess
import threading
from typing import Any

import pytest

from protocol.values import Via
from tests.cloud.cli.deeds import push, refusal, take
from tests.cloud.cli.offices import FLEETLIFT, Answer, Office


def test_one_action_packages_signs_uploads_and_releases(office: Office) -> None:
    source = office.application(name="one-action")
    said = office.run("release", "push", source, "--version", "1.0.0", "--yes", "--description", "first")
    assert said.code == 0, said
    assert "Uploading thermostat-app-1.0.0.img: 100 %" in said.err
    assert f"http://127.0.0.1:{office.port}/releases/rel-" in said.out
    (firmware,) = [item for item in office.json("firmware", "list") if item["version"] == "1.0.0"]
    assert firmware["published"] is True
    page = office.json("release", "show", "v1")
    assert (page["release"]["firmware"]["digest"], page["release"]["description"]) == (firmware["digest"], "first")


def test_json_is_alone_on_standard_output(office: Office) -> None:
    said = office.run("release", "push", office.application(name="json"), "--version", "1.0.1", "--yes", "-o", "json")
    assert said.code == 0
    assert set(said.json) >= {"release", "metrics", "link", "forecast"}
    assert "is released" in said.err
    for command in (
        ("product", "list"),
        ("group", "list"),
        ("release", "list"),
        ("device", "list"),
        ("firmware", "list"),
    ):
        assert isinstance(office.json(*command), list)


def test_before_it_asks_it_says_whom_it_reaches_and_whom_not(office: Office) -> None:
    office.call("group", "create", "asked")
    with office.device("asked-1"), office.device("asked-2"):
        office.call("group", "add", "asked", "asked-1", "asked-2")
        push(office, "2.0.0")
        office.call("device", "lock", "asked-2", "2.0.0")
        source = office.application("print('2.0.1')", name="asked")
        said = office.call("release", "push", source, "--version", "2.0.1", "--group", "asked", expect=2)
    assert "2.0.1 to asked: reaches 1 of 2 devices" in said.out
    assert "not 1: pinned: asked-2" in said.out
    assert "Add --yes" in said.err
    assert "2.0.1" not in [item["version"] for item in office.json("firmware", "list")], "it was uploaded unasked"
    assert office.json("release", "list", "--group", "asked") == []


def test_a_release_that_reaches_nobody_is_made_and_says_so(office: Office) -> None:
    said = push(office, "2.1.0", "--range", "77.x")
    assert "reaches nobody" in said.out
    assert "is released" in said.out


def test_what_is_published_is_released_again_by_its_version(office: Office) -> None:
    push(office, "2.2.0")
    office.call("group", "create", "again")
    said = office.call("release", "push", "2.2.0", "--group", "again", "--percentage", "30", "--yes", "-o", "json")
    assert (said.json["release"]["label"], said.json["release"]["percentage"]) == (1, 30)
    assert "Uploading" not in said.err


def test_pushing_the_same_image_again_uploads_nothing(office: Office) -> None:
    push(office, "2.3.0")
    again = push(office, "2.3.0")
    assert "Uploading" not in again.err
    assert len([item for item in office.json("firmware", "list") if item["version"] == "2.3.0"]) == 1


def test_a_version_never_changes_its_image(office: Office) -> None:
    push(office, "2.4.0")
    said = push(office, "2.4.0", text="print('other')\n", expect=5)
    assert "2.4.0 of thermostat/app exists already, with another image" in said.err
    assert "Give this image a new version" in said.err


def test_the_same_image_under_a_new_version_is_told(office: Office) -> None:
    office.call("group", "create", "same")
    push(office, "2.6.0", "--group", "same", text="print('the same')\n")
    digest = office.json("firmware", "show", "2.6.0")["digest"]
    with office.device("same-1", version="2.6.0", digest=digest):
        office.call("group", "add", "same", "same-1")
        again = push(office, "2.6.1", "--group", "same", text="print('the same')\n")
        assert "already published as 2.6.0 (same digest)" in again.err
        assert "not 1: up to date: same-1 (runs the same image as 2.6.0)" in again.out
        watched = push(office, "2.6.1", "--group", "same", "--wait", text="print('the same')\n")
    assert "same-1: already (runs the same image as 2.6.0)" in watched.err
    assert "same digest" not in push(office, "2.6.2", "--group", "same").err


@pytest.mark.parametrize("streams", [("stdout",), ("stdout", "stderr")])
def test_what_was_agreed_to_is_done_though_nobody_reads_on(office: Office, streams: tuple[str, ...]) -> None:
    version = f"2.7.{len(streams)}"
    source = office.application(f"print('{version}')", name=f"unread-{version}")
    reader, writer = os.pipe()
    os.close(reader)
    command = (FLEETLIFT, "release", "push", source, "--version", version, "--yes", "--home", office.home)
    to: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | dict.fromkeys(streams, writer)
    done = subprocess.run(command, **to, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, "roken" in (done.stderr or ""), "Traceback" in (done.stderr or "")) == (0, False, False)
    assert version in [page["release"]["firmware"]["version"] for page in office.json("release", "list")]


@pytest.mark.parametrize("percentage", ["0", "101", "ten", "5.5", "-1", ""])
def test_a_percentage_that_is_none(office: Office, percentage: str) -> None:
    push(office, "2.5.0")
    for command in (("push", "2.5.0", "--yes"), ("patch", "v1")):
        said = refusal(office, "release", *command, "--percentage", percentage, code=2)
        assert "a percentage is a whole number from 1 to 100" in said
        assert "Nothing was changed" in said


def test_a_disabled_release_is_only_enabled(office: Office) -> None:
    office.call("group", "create", "brake")
    push(office, "3.0.0", "--group", "brake")
    push(office, "3.0.1", "--group", "brake")
    said = office.call("release", "disable", "v2", "--group", "brake")
    assert "v1 (3.0.0) is Live" in said.out
    assert "disabled" in refusal(office, "release", "patch", "v2", "--group", "brake", "--percentage", "100", code=5)
    assert "v2 is enabled and Live" in office.call("release", "enable", "v2", "--group", "brake").out


def test_a_roll_back_to_what_never_succeeded_is_refused(office: Office) -> None:
    office.call("group", "create", "back")
    push(office, "3.1.0", "--group", "back")
    push(office, "3.1.1", "--group", "back")
    said = refusal(office, "release", "rollback", "v1", "--group", "back", "--yes", code=5)
    assert "succeeded on no device" in said
    assert len(office.json("release", "list", "--group", "back")) == 2


def test_waiting_follows_devices_to_their_success_and_rollback_and_promotion_follow(office: Office) -> None:
    for group in ("wait", "field"):
        office.call("group", "create", group)
    with office.device("wait-1", journal_id="j-wait-1") as peer:
        office.call("group", "add", "wait", "wait-1")
        source = office.application("print('4.0.0')", name="wait")
        waiting = office.start(
            "release",
            "push",
            source,
            "--version",
            "4.0.0",
            "--group",
            "wait",
            "--yes",
            "--wait",
            "--timeout",
            "60",
            name="push",
        )
        waiting.wait_for_line("wait-1: waiting")
        (page,) = office.json("release", "list", "--group", "wait")
        take(office, peer, "wait-1", page["release"]["release_id"], "4.0.0")
        assert waiting.wait() == 0, waiting.log()
    assert "wait-1: succeeded" in waiting.log()
    assert "1 device updated" in waiting.log()
    assert "1 device" in office.call("firmware", "show", "4.0.0").out
    assert "1 device" in office.call("firmware", "show", "4.0.0").out
    rolled = office.call("release", "rollback", "v1", "--group", "wait", "--yes", expect=5)
    assert "Live" in rolled.err
    made = office.json("release", "promote", "v1", "--group", "wait", "--to", "field", "--percentage", "20", "--yes")
    assert (made["release"]["channel"]["group"], made["release"]["percentage"]) == ("field", 20)
    push(office, "4.0.1", "--group", "wait")
    back = office.call("release", "rollback", "v1", "--group", "wait", "--yes", "--immediate")
    assert "v3 (references v1) is Live" in back.out
    assert office.json("release", "show", "v3", "--group", "wait")["release"]["urgency"] == "immediate"
    history = office.call("device", "history", "wait-1").out
    assert "succeeded" in history
    assert "wait v1" in history


def test_waiting_for_a_device_that_falls_back_fails(office: Office) -> None:
    with office.device("bad-1", journal_id="j-bad-1") as peer:
        push(office, "4.1.0", "--range", "77.x")
        waiting = office.start("ota", "bad-1", "4.1.0", "--wait", "--timeout", "60", "-o", "json", name="ota")
        waiting.wait_for_line("bad-1: waiting")
        ota = office.json("device", "show", "bad-1")["otas"][0]["ota_id"]
        take(office, peer, "bad-1", ota, "4.1.0", good=False, via=Via.OTA)
        assert waiting.wait() == 1, waiting.log()
    assert "bad-1: rolled back (health_failed: 503)" in waiting.log()
    assert json.loads(waiting.log()[waiting.log().index("{") :])["ota"]["status"] == "rolled_back"


def test_waiting_ends_with_the_time(office: Office) -> None:
    office.call("group", "create", "late")
    with office.device("late-1"):
        office.call("group", "add", "late", "late-1")
        said = push(office, "4.2.0", "--group", "late", "--wait", "--timeout", "0.5", expect=3)
    assert "1 still open (late-1)" in said.out
    assert "The decision stands" in said.out


def test_a_gradual_release_is_made_immediate(office: Office) -> None:
    office.call("group", "create", "soon")
    push(office, "4.3.0", "--group", "soon", "--percentage", "50")
    assert office.json("release", "now", "v1", "--group", "soon", "--yes")["release"]["urgency"] == "immediate"
    said = office.call("release", "patch", "v1", "--group", "soon", "--percentage", "75", "--mandatory").out
    assert "75 % of the devices" in said


def properties(text: str) -> dict[str, str]:
    """The lines of a page: each a name, two spaces at least, and a value."""
    return dict(re.split(r" {2,}", line.rstrip(), maxsplit=1) for line in text.splitlines())


def test_a_release_page_says_how_long_it_was_live(office: Office) -> None:
    office.call("group", "create", "lived")
    push(office, "4.5.0", "--group", "lived")
    shown = properties(office.call("release", "show", "v1", "--group", "lived").out)
    assert shown["deployment id"] == office.json("release", "show", "v1", "--group", "lived")["release"]["release_id"]
    assert shown["live for"].endswith(" s")
    push(office, "4.5.1", "--group", "lived")
    shown = properties(office.call("release", "show", "v1", "--group", "lived").out)
    assert "live for" not in shown
    assert shown["was live for"].endswith(" s")


def test_a_patch_says_all_that_it_changed(office: Office) -> None:
    office.call("group", "create", "patched")
    push(office, "4.6.0", "--group", "patched", "--percentage", "10")
    everything = ("--percentage", "45", "--immediate", "--mandatory", "--description", "now")
    for options, says in (
        (("--percentage", "30"), "is changed: 30 % of the devices."),
        (everything, "is changed: 45 % of the devices, mandatory, the description 'now', immediate."),
        (("--percentage", "45", "--gradual", "--optional"), "is changed: optional, gradual."),
        (("--description", ""), "is changed: no description."),
        (("--percentage", "45", "--gradual"), "was so already and is not changed: 45 % of the devices, gradual."),
    ):
        assert f"v1 {says}" in office.call("release", "patch", "v1", "--group", "patched", *options).out


def test_one_device_is_asked_for_in_the_singular(office: Office) -> None:
    office.call("group", "create", "single")
    push(office, "4.7.0", "--range", "77.x")
    with office.device("single-1"):
        office.call("group", "add", "single", "single-1")
        asked = ("release", "push", "4.7.0", "--group", "single")
        assert "Release it to 1 device?" in refusal_of(office, *asked)
        assert "FORCED, over disabled updates and holds: release it to 1 device?" in refusal_of(
            office, *asked, "--force"
        )
        office.call(*asked, "--yes")
        assert "for the 1 device that waits for it?" in refusal_of(office, "release", "now", "v1", "--group", "single")


def refusal_of(office: Office, *arguments: str) -> str:
    """What is asked where nobody is there to answer."""
    return office.call(*arguments, expect=2).err


def test_operators_who_push_at_once_from_homes_of_their_own_all_succeed(office: Office) -> None:
    versions = [f"6.0.{number}" for number in range(3)]
    answers: dict[str, Answer] = {}

    def one(version: str) -> None:
        home = office.directory / f"home-{version}"
        shutil.copytree(office.home / "operator", home / "operator")
        source = office.application(f"print('{version}')", name=f"race-{version}")
        answers[version] = office.run("release", "push", source, "--version", version, "--yes", "--home", home)

    threads = [threading.Thread(target=one, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {version: answer.code for version, answer in answers.items()} == dict.fromkeys(versions, 0), answers
    seqs = {item["version"]: item["seq"] for item in office.json("firmware", "list") if item["version"] in versions}
    assert len(set(seqs.values())) == 3


def test_a_plan_tells_people_and_programs_what_would_be_refused(office: Office) -> None:
    """Devices that leave a group with the version would be told to go back, by what is Live for the others."""
    office.call("group", "create", "flipping")
    push(office, "8.0.0", "--group", "flipping")
    office.call("group", "create", "by-version", "--where", 'app == "7.9.9" and device_id == "flip-1"', "--rank", "1")
    with office.device("flip-1", version="7.9.9"):
        office.call("group", "add", "flipping", "flip-1")
        office.call("group", "create", "published-for")
        push(office, "8.1.0", "--group", "published-for")
        asked = ("release", "plan", "8.1.0", "--group", "by-version")
        said = office.call(*asked)
        (warning,) = office.json(*asked)["warnings"]
        assert "this release would be refused" in warning
        assert warning in said.err
        assert warning not in said.out
        assert office.json("release", "plan", "8.1.0", "--group", "flipping")["warnings"] == []
        refused = refusal(office, "release", "push", "8.1.0", "--group", "by-version", "--yes", code=5)
        assert warning.partition(";")[0][:40] in refused
