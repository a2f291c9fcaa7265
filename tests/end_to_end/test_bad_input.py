"""Bad input at every door: a sentence and an exit code, nothing lost, nothing half-done."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import AGENT, Device, Fleet

TABLES = ("product", "device_group", "membership", "firmware", "channel", "release", "pin", "ota", "audit", "token")


@pytest.fixture
def device(fleet: Fleet) -> Device:
    """A device in the group `doors`, with a release that it runs and one that is disabled."""
    image = fleet.images.thermostat("21.0.0")
    if not fleet.query("SELECT 1 FROM device WHERE id = 'doors-1'"):
        device = fleet.join("doors-1", image=image)
        fleet.group("doors", device)
        fleet.push(image, "--group", "doors")
        fleet.push(fleet.images.thermostat("21.0.1"), "--group", "doors")
        fleet.call("release", "disable", "v2", "--group", "doors")
        fleet.settle(device)
        return device
    return Device("doors-1", fleet.directory / "devices" / "doors-1", 0, fleet.office.processes)


def new_home(fleet: Fleet, directory: Path) -> Path:
    home = directory / "home"
    fleet.call(
        "init", "--home", home, "--port", 0, "--broker", fleet.broker.url, "--cloud-port", fleet.broker.cloud_port
    )
    return home


def everything(fleet: Fleet) -> dict[str, list[dict[str, Any]]]:
    """What was decided so far."""
    return {table: fleet.query(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}  # noqa: S608


COMMANDS = [
    ("release push 21.0.0 --group door --yes", 1, "no group 'door'"),
    ("release push 21.0.0 --product thermostta --yes", 1, "Did you mean 'thermostat'?"),
    ("release push 77.7.7 --group doors --yes", 1, "77.7.7"),
    ("release push nothing-here --group doors --yes", 2, "neither a file or directory here nor a version"),
    ("release push 21.0.0 --group doors --range 1.x.y --yes", 2, "is not a semantic version"),
    ("release show v1 --group door", 1, "no group 'door'"),
    ("release show v7 --group doors", 1, "has v1 to v2"),
    ("release show rel-none", 1, "rel-none"),
    ("release patch v1 --group doors", 2, "nothing to change was said"),
    ("release patch v2 --group doors --percentage 100", 5, "is disabled; enable it first"),
    ("release patch v1 --group doors --percentage 99", 5, "a percentage only rises"),
    ("release rollback v2 --group doors --yes", 5, "succeeded on no device"),
    ("release rollback v1 --group doors --yes", 5, "Live already"),
    ("release promote v2 --group doors --to everyone --yes", 5, "succeeded on no device"),
    ("release frobnicate", 2, "No such command"),
    ("group add door doors-1", 1, "no group 'door'"),
    ("group add doors doors-9", 1, "doors-9"),
    ("group create doors", 5, "already"),
    ("group create Doors", 2, "is not an id"),
    ("group create backwards --rank 0", 2, "0"),
    ("device show doors-11", 1, "Did you mean 'doors-1'?"),
    ("device lock doors-11 21.0.0", 1, "doors-11"),
    ("device lock doors-1 77.7.7", 1, "77.7.7"),
    ("device unlock doors-1", 1, "not locked"),
    ("ota doors-11 21.0.0", 1, "doors-11"),
    ("ota doors-1 77.7.7", 1, "77.7.7"),
    ("ota doors-1 21.0.0 --component motor", 1, "motor"),
    *(
        (f"release {words} --percentage {percentage}", 2, "a percentage is a whole number from 1 to 100")
        for words in ("push 21.0.0 --group doors --yes", "patch v1 --group doors")
        for percentage in ("0", "101", "ten", "9.5")
    ),
]


@pytest.mark.parametrize(("command", "code", "says"), COMMANDS)
def test_a_command_that_cannot_be_says_so_and_changes_nothing(
    fleet: Fleet, device: Device, command: str, code: int, says: str
) -> None:
    before = everything(fleet)
    said = fleet.call(*command.split(), "-o", "json", expect=code)
    assert says in said.err
    assert said.out == ""
    assert everything(fleet) == before
    assert fleet.attempts(device) == []


@pytest.mark.parametrize("percentage", [0, 101, -1, "ten", "50", 50.5, True, None, [50]])
def test_a_percentage_that_is_none_is_refused_by_rest_too(fleet: Fleet, device: Device, percentage: object) -> None:
    before = everything(fleet)
    (live,) = [page["release"] for page in fleet.json("release", "list", "--group", "doors") if page["release"]["live"]]
    release = {"product": "thermostat", "group": "doors", "component": "app", "version": "21.0.0"}
    said = fleet.api("POST", "/releases", release | {"percentage": percentage}, expect=422)
    assert set(said) == {"error", "message", "help"}
    assert "percentage" in said["message"]
    if percentage is not None:  # left out, as null says, nothing is changed
        fleet.api("PATCH", f"/releases/{live['release_id']}", {"percentage": percentage}, expect=422)
    assert everything(fleet) == before


def test_requests_that_are_none_are_refused_by_name(fleet: Fleet, device: Device) -> None:
    before = everything(fleet)
    release = {"product": "thermostat", "group": "doors", "component": "app", "version": "21.0.0"}
    for body, status, says in (
        (release | {"percent": 10}, 422, "percent"),
        (release | {"urgency": "soon"}, 422, "urgency"),
        ({key: value for key, value in release.items() if key != "group"}, 422, "group"),
        (release | {"description": "x" * 501}, 422, "description"),
        (release | {"group": "../doors"}, 404, "../doors"),
        (release | {"version": "21"}, 404, "21"),
        ([], 422, ""),
    ):
        assert says in fleet.api("POST", "/releases", body, expect=status)["message"], body
    for content in (b"{", b"\xff\xfe", b'{"product": NaN}'):
        fleet.api("POST", "/releases", content=content, headers={"Content-Type": "application/json"}, expect=422)
    assert everything(fleet) == before


def test_a_version_that_exists_keeps_its_image(fleet: Fleet, device: Device) -> None:
    before = everything(fleet)
    source = fleet.office.application("print('another')", name="another")
    for words in (("release", "push", source, "--group", "doors", "--yes"), ("firmware", "upload", "another.img")):
        if "upload" in words:
            fleet.call("firmware", "build", source, "--version", "21.0.0", "--to", "another.img")
        said = fleet.call(*words, "--version", "21.0.0", expect=5)
        assert "21.0.0 of thermostat/app exists already, with another image" in said.err
    assert everything(fleet) == before


def test_exit_codes_say_how_it_ended(fleet: Fleet, device: Device, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("somebody-elses\n")
    ends = {
        ("device", "show", "doors-1"): 0,
        ("device", "show", "doors-9"): 1,
        ("release", "push"): 2,
        ("ota", "doors-1", "21.0.1", "--gradual", "--wait", "--timeout", "0.2"): 3,
        ("device", "list", "--token-file", str(wrong)): 4,
        ("group", "create", "doors"): 5,
    }
    for command, code in ends.items():
        said = fleet.office.run(*command, "-o", "json")
        assert said.code == code, said
        assert "Traceback" not in said.err
        if code in (0, 3):
            json.loads(said.out)
        else:
            assert said.out == "", "standard output is for answers"
            assert said.err


def test_with_json_standard_output_holds_one_document_and_nothing_else(fleet: Fleet) -> None:
    image = fleet.images.thermostat("21.1.0")
    device = fleet.join("pure-1")
    group = fleet.group("pure", device)
    said = fleet.office.run(
        *("release", "push", image.path, "--group", group, "--immediate", "--yes", "--wait", "-o", "json")
    )
    assert said.code == 0, said
    assert set(said.json) >= {"release", "metrics", "link", "forecast", "devices"}
    for person in ("reaches 1 of 1 devices", "Uploading", "is released", "pure-1: succeeded", "1 device updated"):
        assert person in said.err
    for command in (
        ("release", "disable", "v1", "--group", group),
        ("group", "add", group, "pure-1"),
        ("device", "lock", "pure-1", "21.1.0"),
        ("device", "why", "pure-1"),
        ("firmware", "show", "21.1.0"),
        ("product", "list"),
    ):
        fleet.json(*command)  # fails on anything but one document


def test_a_typo_in_a_file_is_named_by_file_line_and_key(fleet: Fleet, tmp_path: Path) -> None:
    home = new_home(fleet, tmp_path)
    for file, wrong, command, says in (
        ("cloud/fleetlift.toml", "[server]\nprot = 8080\n", "serve", "line 2: the key 'server.prot'"),
        ("cloud/fleetlift.toml", '[server]\nport = "8080"\n', "serve", "line 2: the key 'server.port'"),
        ("cloud/fleetlift.toml", "[server]\nport = \n", "serve", "line 2: at the key 'port': not TOML"),
        ("operator/context.toml", '# me\nprodukt = "x"\n', "product list", "line 2: the key 'produkt'"),
    ):
        good = (home / file).read_text()
        (home / file).write_text(wrong)
        said = fleet.call(*command.split(), "--home", home, expect=2)
        assert f"{home / file}, {says}" in said.err
        (home / file).write_text(good)
    device = fleet.enrol("typo-1")
    settings = device.directory / "agent.toml"
    settings.write_text(settings.read_text().replace("soak_s", "soaks_s"))
    line = next(n for n, text in enumerate(settings.read_text().splitlines(), 1) if "soaks_s" in text)
    agent = fleet.office.processes.start(AGENT, "run", "--config", settings)
    assert agent.wait() == 2
    assert f"{settings}:{line}: components.app.soaks_s: not a key of this table" in agent.log()
    assert not device.state_dir.exists(), "it began"


def test_a_home_of_a_newer_version_is_not_touched(fleet: Fleet, tmp_path: Path) -> None:
    home = new_home(fleet, tmp_path)
    database = home / "cloud" / "fleetlift.db"
    connection = sqlite3.connect(database)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    before = database.read_bytes()
    said = fleet.office.run("serve", "--home", home, "--port", 0)
    assert said.code == 1, said
    assert "was written by a newer version of Fleetlift (schema 9999" in said.err
    assert "Nothing was changed" in said.err
    assert database.read_bytes() == before


def test_a_device_directory_of_a_newer_version_or_in_use_is_not_touched(fleet: Fleet) -> None:
    image = fleet.images.thermostat("21.2.0")
    device = fleet.join("in-use-1", image=image)
    second = fleet.office.processes.start(AGENT, "run", "--config", device.directory / "agent.toml")
    assert second.wait() == 5
    assert "another agent runs on" in second.log()
    assert device.runs(image)
    device.stop()
    journal = device.state_dir / "journal.db"
    connection = sqlite3.connect(journal)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    before = journal.read_bytes()
    newer = fleet.office.processes.start(AGENT, "run", "--config", device.directory / "agent.toml")
    assert newer.wait() in (1, 2)
    assert "newer" in newer.log()
    assert "Traceback" not in newer.log()
    assert journal.read_bytes() == before


def test_a_second_server_on_a_home_does_not_start(fleet: Fleet) -> None:
    said = fleet.office.run("serve", "--port", 0)
    assert said.code == 5, said
    assert "another server runs on" in said.err
    assert fleet.api("GET", "/system")["joining"] == "known"
