"""The operator's other commands, and mistakes: against a server that runs."""

import json
import re
from pathlib import Path

import httpx
import pytest

from device_agent.config import load
from device_agent.health import HttpCheck
from protocol.codec import encode
from tests.cloud.cli.deeds import push, refusal
from tests.cloud.cli.offices import TOPICS, Office
from tests.cloud.homes import MODEL, PRODUCT, hello_of
from tests.support.processes import wait_until


def test_the_common_options_stand_before_or_after_the_command(office: Office) -> None:
    before = office.call("-o", "json", "product", "show", PRODUCT).json
    after = office.call("product", "show", PRODUCT, "--output", "json").json
    assert before == after


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
        (("device", "list", "--group", "everyon"), "Did you mean 'everyone'?"),
        (("device", "list", "--group", "everyon", "--product", PRODUCT, "--online"), "Did you mean 'everyone'?"),
        (("device", "list", "--product", "thermostta"), "Did you mean 'thermostat'?"),
        (("release", "list", "--group", "everyon"), "Did you mean 'everyone'?"),
        (("firmware", "list", "--product", "thermostta"), "Did you mean 'thermostat'?"),
        (("group", "list", "--product", "thermostta"), "Did you mean 'thermostat'?"),
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


def test_a_list_that_is_empty_says_why(office: Office) -> None:
    assert "No device matches." in office.call("device", "list", "--version", "77.7.7").out
    assert "No device matches." in office.call("device", "list", "--component", "nothing", "--pending").out
    assert office.json("device", "list", "--version", "77.7.7") == []


def test_a_device_is_locked_and_unlocked(office: Office) -> None:
    with office.device("lock-1"):
        push(office, "4.4.0", "--range", "77.x")
        said = office.call("device", "lock", "lock-1", "4.4.0").out
        assert "lock-1 is locked to app 4.4.0" in said
        assert office.json("device", "list")[0]["device_id"]
        assert "app: 4.4.0 is to be taken, by a lock of this device" in office.call("device", "why", "lock-1").out
        assert office.json("device", "unlock", "lock-1")["pins"] == []
        refusal(office, "device", "unlock", "lock-1", code=1)


def test_what_a_device_says_wrong_is_shown_with_it_and_counted_without_it(office: Office) -> None:
    with office.device("wrong-1") as peer:
        for payload in (b"{}", b'{"journal_id": 5}'):
            peer.publish(TOPICS.up("wrong-1", "report"), payload)
        peer.publish(TOPICS.up("wrong-2", "hello"), encode(hello_of(product="toaster")))

        def shown() -> list[dict[str, object]]:
            found: list[dict[str, object]] = office.json("device", "show", "wrong-1")["refused_messages"]
            return found

        wait_until(lambda: [item["count"] for item in shown()] == [2], what="both refused")
        text = " ".join(office.call("device", "show", "wrong-1").out.split())
        assert "its messages refused report (bad_message), 2 times, last 2" in text
        assert "Report: str expected, not int" in text
        wait_until(lambda: "toaster" in refusal(office, "device", "show", "wrong-2", code=1), what="the hello refused")
    said = refusal(office, "device", "show", "wrong-2", code=1)
    assert "speaks to the server, and its last hello was refused: there is no product toaster." in said
    token = (office.home / "operator" / "token").read_text().strip()
    url = f"http://127.0.0.1:{office.port}/api/v1/metrics"
    metrics = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False).text
    assert 'fleetlift_refused_total{kind="report_bad_message"} 2.0' in metrics
    assert 'fleetlift_refused_total{kind="hello_unknown_product"} 1.0' in metrics
    assert "wrong-" not in metrics


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
    assert re.search(r"^agent +- *$", office.call("device", "show", "twice-1").out, re.MULTILINE), "it never said hello"
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


def test_an_image_says_of_which_schema_its_data_is_and_which_it_takes_over(office: Office) -> None:
    source = office.application("print('migrating')", name="migrating")
    schemas = ("--data-schema", "3", "--reads-schema", "2", "--reads-schema", "1", "--reads-schema", "2")
    office.json("firmware", "build", source, "--version", "5.4.0", "--to", "migrating.img", *schemas)
    office.call("firmware", "upload", "migrating.img")
    shown = office.json("firmware", "show", "5.4.0")
    assert (shown["data_schema"], shown["reads_schemas"]) == (3, [1, 2])
    (line,) = [line for line in office.call("firmware", "list").out.splitlines() if " 5.4.0 " in line]
    assert "3, reads 1, 2" in line


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
