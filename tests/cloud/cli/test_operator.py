"""The operator's commands against a server that runs: what they do, what they say, what they refuse."""

import dataclasses
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from device_agent.config import load
from device_agent.health import HttpCheck
from protocol.codec import encode
from protocol.phases import Outcome, Phase, Reason
from protocol.up import AttemptEntry, Entry, Report
from protocol.values import ComponentState, Via
from tests.cloud.cli.offices import TOPICS, Answer, Office
from tests.cloud.homes import MODEL, PRODUCT, hello_of
from tests.support.mqtt import Peer


def push(office: Office, version: str, *more: object, text: str = "", expect: int = 0) -> Answer:
    source = office.application(text or f"print('{version}')\n", name=f"app-{version}")
    return office.call("release", "push", source, "--version", version, "--yes", *more, expect=expect)


def refusal(office: Office, *arguments: object, code: int) -> str:
    """Run a command that must be refused; return what it says, on standard error alone."""
    answer = office.call(*arguments, expect=code)
    assert answer.err
    return answer.err


def take(
    office: Office, peer: Peer, device_id: str, source: str, version: str, *, good: bool = True, via: Via = Via.RELEASE
) -> None:
    """Play a device that takes a firmware."""
    firmware = office.json("firmware", "show", version)
    plain = AttemptEntry(
        attempt_id=f"{device_id}-{source}",
        source_id=source,
        via=via,
        component="app",
        version=version,
        digest=firmware["digest"],
        phase=Phase.DOWNLOADING,
    )
    runs = ComponentState(component="app", version=version, build=0, digest=firmware["digest"])
    state = dataclasses.replace(hello_of().state, seq=50, phase=Phase.COMMITTING, components=(runs,))
    if good:
        last = {"phase": Phase.COMMITTING, "outcome": Outcome.SUCCEEDED, "booted_digest": firmware["digest"]}
    else:
        how = {"outcome": Outcome.ROLLED_BACK, "reason": Reason.HEALTH_FAILED, "detail": "503"}
        last = {"phase": Phase.ROLLING_BACK, **how}
    steps: list[dict[str, Any]] = [{}, {"phase": Phase.INSTALLING}, last]
    for number, step in enumerate(steps, start=1):
        if step is last and good:
            peer.publish(TOPICS.up(device_id, "state"), encode(state))
        entry = Entry(seq=number, at_ms=1, attempt=dataclasses.replace(plain, **step))
        peer.publish(TOPICS.up(device_id, "report"), encode(Report(journal_id=f"j-{device_id}", entries=(entry,))))


def test_one_action_packages_signs_uploads_and_releases(office: Office) -> None:
    source = office.application(name="one-action")
    said = office.run("release", "push", source, "--version", "1.0.0", "--yes", "--description", "first")
    assert said.code == 0, said
    assert "Uploading thermostat-app-1.0.0.img: 100 %" in said.err
    assert f"http://127.0.0.1:{office.port}/api/v1/releases/rel-" in said.out
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


def test_the_common_options_stand_before_or_after_the_command(office: Office) -> None:
    before = office.call("-o", "json", "product", "show", PRODUCT).json
    after = office.call("product", "show", PRODUCT, "--output", "json").json
    assert before == after


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


@pytest.mark.parametrize("percentage", ["0", "101", "ten", "5.5", "-1", ""])
def test_a_percentage_that_is_none(office: Office, percentage: str) -> None:
    push(office, "2.5.0")
    for command in (("push", "2.5.0", "--yes"), ("patch", "v1")):
        said = refusal(office, "release", *command, "--percentage", percentage, code=2)
        assert "a percentage is a whole number from 1 to 100" in said
        assert "Nothing was changed" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("release", "push", "9.9.9", "--yes"), "9.9.9"),
        (("release", "push", "no-such-file", "--yes"), "neither a file or directory here nor a version"),
        (("release", "push", "1.0.0", "--group", "everyon", "--yes"), "Did you mean 'everyone'?"),
        (("release", "show", "v99"), "here is no v99 in thermostat/everyone/app, which has v1 to v"),
        (("release", "show", "v1", "--group", "everyon"), "Did you mean 'everyone'?"),
        (("release", "patch", "v1"), "othing to change was said"),
        (("device", "show", "nobody-9"), "nobody-9"),
        (("device", "lock", "nobody-9", "1.0.0"), "nobody-9"),
        (("ota", "nobody-9", "1.0.0"), "nobody-9"),
        (("group", "add", "nogroup", "nobody-9"), "nogroup"),
        (("product", "show", "thermostta"), "Did you mean 'thermostat'?"),
        (("product", "create", "root", "--hardware", "a"), "cannot be called 'root'"),
        (("group", "create", "Bad Name"), "is not an id"),
        (("release", "push", "1.0.0", "--range", ">>1", "--yes"), "is not a comparison"),
    ],
)
def test_a_mistake_is_a_sentence(office: Office, arguments: tuple[str, ...], says: str) -> None:
    if not any(item["version"] == "1.0.0" for item in office.json("firmware", "list")):
        push(office, "1.0.0")
    answer = office.call(*arguments, expect=_expected(arguments))
    assert says in answer.err
    assert answer.out == ""


def _expected(arguments: tuple[str, ...]) -> int:
    usage = ("no-such-file", "patch", "Bad Name", ">>1")
    return 2 if set(usage) & set(arguments) else 1


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
    rolled = office.call("release", "rollback", "v1", "--group", "wait", "--yes", expect=5)
    assert "Live" in rolled.err
    made = office.json("release", "promote", "v1", "--group", "wait", "--to", "field", "--percentage", "20", "--yes")
    assert (made["release"]["channel"]["group"], made["release"]["percentage"]) == ("field", 20)
    push(office, "4.0.1", "--group", "wait")
    back = office.call("release", "rollback", "v1", "--group", "wait", "--yes")
    assert "v3 (references v1) is Live" in back.out
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


def test_a_device_is_locked_and_unlocked(office: Office) -> None:
    with office.device("lock-1"):
        push(office, "4.4.0", "--range", "77.x")
        said = office.call("device", "lock", "lock-1", "4.4.0").out
        assert "lock-1 is locked to app 4.4.0" in said
        assert office.json("device", "list")[0]["device_id"]
        assert "app: take 4.4.0" in office.call("device", "why", "lock-1").out
        assert office.json("device", "unlock", "lock-1")["pins"] == []
        refusal(office, "device", "unlock", "lock-1", code=1)


def test_members_are_changed_and_a_group_is_deleted(office: Office) -> None:
    with office.device("member-1"), office.device("member-2"):
        office.call("group", "create", "club", "--device", "member-1")
        assert "1 device new" in office.call("group", "add", "club", "member-1", "member-2").out
        assert office.json("group", "show", "club")["members"] == ["member-1", "member-2"]
        assert "1 device taken out" in office.call("group", "remove", "club", "member-1").out
    assert office.call("group", "delete", "club", expect=2).err.count("--yes") == 1
    office.call("group", "delete", "club", "--yes")
    assert "club" not in [group["group"] for group in office.json("group", "list")]
    refusal(office, "group", "create", "half", "--device", "nobody-9", code=1)
    assert "half" not in [group["group"] for group in office.json("group", "list")]


def test_a_product_is_made_and_its_updates_switched(office: Office) -> None:
    made = office.json("product", "create", "camera", "--hardware", "cm4", "--hardware", "cm5")
    assert made["hardware_models"] == ["cm4", "cm5"]
    assert office.json("product", "disable", "camera", "--yes")["ota_enabled"] is False
    assert office.json("product", "enable", "camera")["ota_enabled"] is True
    refusal(office, "product", "create", "camera", "--hardware", "cm4", code=5)
    said = push(office, "1.0.0", "--product", "camera")
    assert "camera/everyone/app v1 is released" in said.out


def test_an_enrolled_device_has_settings_that_its_agent_takes(office: Office) -> None:
    office.call("group", "create", "enrolled")
    made = office.json(
        *("device", "enrol", "enrol-1", "--group", "enrolled", "--health-url", "http://127.0.0.1:8080/health"),
        *("--soak", "0.5", "--app-env", 'GREETING=say "hi" \\ é', "--attribute", "site=lab", "--capacity", "1000000"),
    )
    settings = load(office.directory / made["settings"])
    assert (settings.device_id, settings.product, settings.hardware_model) == ("enrol-1", PRODUCT, MODEL)
    assert settings.broker.url == f"mqtt://127.0.0.1:{office.broker_port}"
    assert settings.attributes == {"site": "lab"}
    app = settings.components["app"]
    assert (app.command, app.soak_s) == (("{python}", "{image}"), 0.5)
    assert app.health.check == HttpCheck(url="http://127.0.0.1:8080/health")
    assert app.env == {"GREETING": 'say "hi" \\ é'}
    root = (office.home / "operator" / "keys" / "1.root.json").read_bytes()
    assert settings.root.read_bytes() == root
    assert office.json("device", "show", "enrol-1")["groups"] == ["enrolled", "everyone"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("Bad_Id",), 2, "is not an id"),
        (("new-1", "--broker", "tcp://x"), 2, "is not mqtt://host"),
        (("new-1", "--group", "nogroup"), 1, "nogroup"),
        (("new-1", "--app-env", "novalue"), 2, "NAME=VALUE is expected"),
        (("new-1", "--product", "thermostta"), 1, "Did you mean 'thermostat'?"),
    ],
)
def test_an_enrolment_that_cannot_be_leaves_nothing(
    office: Office, arguments: tuple[str, ...], code: int, says: str
) -> None:
    assert says in refusal(office, "device", "enrol", *arguments, code=code)
    assert not (office.directory / "new-1").exists()
    refusal(office, "device", "show", "new-1", code=1)


def test_an_enrolled_directory_is_not_overwritten(office: Office) -> None:
    office.call("device", "enrol", "twice-1")
    before = (office.directory / "twice-1" / "agent.toml").read_bytes()
    assert "exists already" in refusal(office, "device", "enrol", "twice-1", code=5)
    assert (office.directory / "twice-1" / "agent.toml").read_bytes() == before
    assert "already" in refusal(office, "device", "enrol", "twice-1", "--directory", "elsewhere", code=5)
    assert not (office.directory / "elsewhere").exists()
    office.call("device", "enrol", "twice-1", "--directory", "elsewhere", "--again")
    assert (office.directory / "elsewhere" / "agent.toml").read_bytes() == before


def test_firmware_is_signed_without_a_network(office: Office) -> None:
    source = office.application("print('offline')", name="offline")
    built = office.json("firmware", "build", source, "--version", "5.0.0", "--to", "x.img", "--notes", "by hand")
    office.call("firmware", "role", "--to", "current.json")
    unreachable = ("--server", "http://127.0.0.1:1")
    office.call("firmware", "sign", "x.img", "--role", "current.json", *unreachable)
    assert "5.0.0" not in [item["version"] for item in office.json("firmware", "list")]
    shown = office.json("firmware", "upload", "x.img")
    assert (shown["version"], shown["digest"], shown["notes"]) == ("5.0.0", built["digest"], "by hand")
    assert shown["published"] is True


def test_building_twice_gives_the_same_image(office: Office) -> None:
    source = office.application("print('same')", name="same")
    for name in ("a.img", "b.img"):
        office.call("firmware", "build", source, "--version", "5.1.0", "--to", name)
    assert (office.directory / "a.img").read_bytes() == (office.directory / "b.img").read_bytes()
    described = json.loads((office.directory / "a.img.json").read_text())
    assert described["version"] == "5.1.0"
    assert "was not said" in refusal(office, "firmware", "build", source, code=2)


def test_an_image_that_changed_since_it_was_built_is_refused(office: Office) -> None:
    source = office.application("print('changed')", name="changed")
    office.call("firmware", "build", source, "--version", "5.2.0", "--to", "changed.img")
    with (office.directory / "changed.img").open("ab") as image:
        image.write(b"more")
    assert "its digest is another" in refusal(office, "release", "push", "changed.img", "--yes", code=2)
    assert "5.2.0" not in [item["version"] for item in office.json("firmware", "list")]


def test_a_description_beside_the_image_says_what_it_is(office: Office) -> None:
    source = office.application("print('described')", name="described")
    (source / "firmware.json").write_text(
        json.dumps({"version": "5.3.0", "build": 53, "requires": {"components": {"os": ">=2.0.0"}}})
    )
    said = office.call("release", "push", source, "--yes")
    assert "5.3.0, build 53" in said.out
    shown = office.json("firmware", "show", "5.3.0")
    assert (shown["build"], shown["requires"]["components"]) == (53, {"os": ">=2.0.0"})
    (source / "firmware.json").write_text('{"verison": "5.3.1"}')
    assert "did you mean 'version'?" in refusal(office, "release", "push", source, "--yes", code=2)


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


def test_a_server_that_is_not_there_is_a_sentence(office: Office) -> None:
    said = office.run("product", "list", "--server", "http://127.0.0.1:1")
    assert said.code == 1
    assert "cannot be reached" in said.err
    assert "fleetlift serve" in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_token_that_is_wrong_or_missing_is_a_sentence(office: Office, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("not-the-token\n")
    said = office.run("product", "list", "--token-file", wrong)
    assert said.code == 4
    assert "not known here" in said.err
    assert "not-the-token" not in said.err
    assert "cannot be read" in refusal(office, "product", "list", "--token-file", tmp_path / "none", code=4)
    wrong.write_bytes(b"\xff\x00")
    refusal(office, "product", "list", "--token-file", wrong, code=4)
    wrong.write_text("two words")
    refusal(office, "product", "list", "--token-file", wrong, code=4)


def test_an_address_that_is_none_or_of_somebody_else_is_a_sentence(office: Office) -> None:
    for server in ("nonsense", "http://", "ftp://127.0.0.1", f"http://127.0.0.1:{office.port}/elsewhere"):
        said = office.call(
            "product", "list", "--server", server, expect=1 if "elsewhere" in server else _code_of(server)
        )
        assert said.out == ""


def _code_of(server: str) -> int:
    return 2 if server == "http://:x" else 1


def test_the_environment_says_where_the_home_is(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETLIFT_SERVER", "http://127.0.0.1:1")
    refusal(office, "product", "list", code=1)
    monkeypatch.setenv("FLEETLIFT_TOKEN_FILE", "/nothing")
    refusal(office, "product", "list", "--server", f"http://127.0.0.1:{office.port}", code=4)


@pytest.mark.parametrize(
    "arguments", [("relese",), ("release", "lst"), ("release", "push"), ("device", "list", "--onlin")]
)
def test_a_mistyped_command_is_answered_with_usage(office: Office, arguments: tuple[str, ...]) -> None:
    said = refusal(office, *arguments, code=2)
    assert "Usage: fleetlift" in said
