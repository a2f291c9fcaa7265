"""The sample images: built twice they are the same bytes, and each runs as its description says."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from device_agent.sdk import Updates
from firmware_samples import appliance, build
from firmware_samples.busy_pump.application import busy_at
from firmware_samples.infusion_monitor.application import Window, parse_window, why_not
from firmware_samples.thermostat.application import Room, Thermostat, decide
from tests.device_agent.stand_in import PENDING, TIMEOUT_S, StandInAgent
from tests.support.processes import Processes, Started, wait_until

REPOSITORY = Path(__file__).parents[1]
RENEW = "if the change is meant, run `python -m firmware_samples.build --write-sums` and commit SHA256SUMS"
BIG = "thermostat-3.0.0"
ALL = list(build.catalogue())
RUNNING = [name for name in ALL if name != "thermostat-2.0.1"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    built = build.build_all(tmp_path_factory.mktemp("images"))
    yield built
    built[BIG].unlink()


@dataclass
class Appliance:
    """An image that runs: looked at through its status file and its health port alone."""

    process: Started
    data_dir: Path

    def status(self) -> dict[str, Any]:
        try:
            text = (self.data_dir / "status.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        status: dict[str, Any] = json.loads(text)
        return status

    def wait_for(self, predicate: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        def holds() -> object:
            assert self.process.process.poll() is None, f"{self.process.name} ended by itself"
            status = self.status()
            return status and predicate(status)

        wait_until(holds, TIMEOUT_S, what)
        return self.status()

    def request(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """GET, or POST a body; return the HTTP status and the answer."""
        url = f"http://127.0.0.1:{self.status()['health_port']}{path}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data), timeout=TIMEOUT_S) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


Run = Callable[..., Appliance]


@pytest.fixture
def run(images: dict[str, Path], processes: Processes, tmp_path: Path) -> Run:
    """Starts an image as an agent does: from `current`, with a data directory."""

    def start(name: str, **environment: str) -> Appliance:
        data_dir = tmp_path / f"data-{name}"
        data_dir.mkdir(exist_ok=True)
        current = tmp_path / f"current-{name}"
        current.unlink(missing_ok=True)
        current.symlink_to(images[name])
        surroundings = {"FLEETLIFT_DATA_DIR": str(data_dir), "FLEETLIFT_CONTROL_SOCKET": "", **environment}
        command = (sys.executable, "-I", current)  # -I: nothing of this checkout, only what the image carries
        return Appliance(processes.start(*command, name=name, env=surroundings, cwd=tmp_path), data_dir)

    return start


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[StandInAgent]:
    with StandInAgent(tmp_path / "control.sock") as started:
        yield started


def test_the_images_are_those_that_were_published(images: dict[str, Path]) -> None:
    published = build.SUMS.read_text(encoding="utf-8")
    assert build.sums(images[BIG].parent) == published, RENEW


def test_the_same_sources_give_the_same_bytes_wherever_they_are_built(images: dict[str, Path], tmp_path: Path) -> None:
    """Another process, directory, umask, time zone, hash seed and file times: from a copy of the sources."""
    sources = [*build.SOURCES.rglob("*.py"), build.SOURCES / "catalogue.toml", build.SDK]
    for number, path in enumerate(reversed(sources)):
        copy = tmp_path / "elsewhere" / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
        os.utime(copy, (number * 1e8, number * 1e8))
    command = (sys.executable, "-m", "firmware_samples.build", "--output", str(tmp_path / "again"))
    environment = os.environ | {"TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7", "LC_ALL": "C"}
    ended = subprocess.run(
        command, cwd=tmp_path / "elsewhere", env=environment, umask=0o077, capture_output=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == len(ALL)
    for name, path in images.items():
        for file in (path, path.with_name(f"{name}.json")):
            assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), name


def test_an_image_is_described(images: dict[str, Path]) -> None:
    path = images["thermostat-1.1.0"]
    description = json.loads((path.parent / "thermostat-1.1.0.json").read_text(encoding="utf-8"))
    assert description.pop("notes")
    assert len(description.pop("digest")) == 64
    assert description == {
        "product": "thermostat",
        "component": "app",
        "version": "1.1.0",
        "build": 110,
        "hardware_models": ["raspberrypi4"],
        "size_bytes": path.stat().st_size,
    }


def test_an_image_is_one_file_that_carries_the_sdk(images: dict[str, Path]) -> None:
    with zipfile.ZipFile(images["busy-pump-1.0.0"]) as archive:
        assert archive.testzip() is None
        assert archive.read("device_agent/sdk.py") == build.SDK.read_bytes()
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.namelist() == sorted(archive.namelist())
        assert not [name for name in archive.namelist() if "thermostat" in name]


def test_the_large_image_is_large_to_the_byte_and_does_not_compress(images: dict[str, Path], tmp_path: Path) -> None:
    assert images[BIG].stat().st_size == 64 * 1024 * 1024
    with images[BIG].open("rb") as file:
        file.seek(32 * 1024 * 1024)
        piece = file.read(1024 * 1024)
    assert len(zlib.compress(piece, 9)) > len(piece)
    small = build.build(BIG, tmp_path, size_mib=2)
    assert small.stat().st_size == 2 * 1024 * 1024


def test_a_sample_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(build.UnknownSampleError, match=r"'thermostat-9\.9\.9'.*thermostat-1\.0\.0"):
        build.build("thermostat-9.9.9", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", RUNNING)
def test_an_image_runs_answers_and_ends(name: str, run: Run, images: dict[str, Path]) -> None:
    device = run(name)
    status = device.wait_for(lambda status: status["counts"]["steps"] >= 1, "its first step")
    product, _, version = name.rpartition("-")
    assert (status["product"], status["version"], status["pid"]) == (product, version, device.process.pid)
    assert status["image"] == str(images[name])
    assert time.time() - 60 < status["started_at"] <= status["written_at"] <= time.time()
    assert (status["agent_connected"], status["updates_enabled"]) == (False, product != "infusion-monitor")
    assert device.request("/health")[1]["version"] == version
    assert device.request("/healthy")[0] == 404
    began = time.monotonic()
    assert device.process.terminate() == 0
    assert time.monotonic() - began < 1  # a fifth of that, on a machine that has nothing else to do
    assert "Traceback" not in device.process.log()


def test_the_versions_of_the_thermostat_can_be_told_apart(run: Run) -> None:
    names = [f"thermostat-{version}" for version in ("1.0.0", "1.1.0", "1.2.0")]
    statuses = [run(name).wait_for(lambda _: True, "its first step") for name in names]
    shapes = ["".join(character for character in status["display"] if character.isalpha()) for status in statuses]
    assert shapes == ["C", "CsettoC", "CsettoCheating"]
    assert [status["set_point_c"] for status in statuses] == [20.0, 21.0, 21.0]


def test_the_broken_one_passes_its_first_second_and_never_again(run: Run) -> None:
    device = run("thermostat-2.0.0")
    device.wait_for(lambda _: True, "its first step")
    answers: list[int] = []
    while len(answers) < 3 or answers[-3:] != [503] * 3:
        began = time.time()
        status, answer = device.request("/health")
        ended = time.time()
        assert answer == {"healthy": status == 200, "version": "2.0.0"}
        started = device.status()["started_at"]
        # Whatever the machine's pace: 200 within the first second, 503 after it (but for the clocks' own blur).
        assert status == 200 or ended - started > 0.95
        assert status == 503 or began - started < 1.05
        answers.append(status)
    assert answers == sorted(answers)
    assert device.process.process.poll() is None
    device.wait_for(lambda status: status["healthy"] is False, "its own word for it")
    assert device.process.terminate() == 0


def test_the_crashing_one_ends_with_code_1_and_a_sentence(run: Run) -> None:
    device = run("thermostat-2.0.1")
    assert device.process.wait() == 1
    assert device.process.log() == "thermostat 2.0.1: the sensor's driver is missing\n"
    assert device.status() == {}


def test_a_status_is_always_whole(run: Run) -> None:
    device = run("thermostat-1.2.0")
    (device.data_dir / ".status.json.1").write_text("{", encoding="utf-8")
    first = device.wait_for(lambda _: True, "its first step")["counts"]["steps"]
    seen: set[int] = set()
    while len(seen) < 4:
        seen.add(device.status()["counts"]["steps"])  # json.loads fails on half a file
    assert min(seen) >= first
    device.process.terminate()
    assert [path.name for path in device.data_dir.iterdir()] == ["status.json"]


def test_an_application_whose_work_stands_still_is_not_healthy() -> None:
    version = {"product": "thermostat", "version": "1.0.0", "build": 1, "parameters": {"set_point_c": 21.0}}
    running = appliance._Running(version)
    assert running.healthy() is False  # nothing runs yet
    with Updates() as updates:
        running.application = Thermostat(appliance.Surroundings(version, {}, updates))
    assert running.healthy() is True
    running.stepped -= appliance.STALLED_S
    assert running.healthy() is False


def test_bad_surroundings_end_it_with_a_sentence(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        device = run("thermostat-1.0.0", FLEETLIFT_HEALTH_PORT=str(taken.getsockname()[1]))
        assert device.process.wait() == 1
    assert "the health port cannot be opened: " in device.process.log()
    for port in ("eighty", "99999"):
        assert run("thermostat-1.0.0", FLEETLIFT_HEALTH_PORT=port).process.wait() == 1
    lost = run("infusion-monitor-1.0.0", FLEETLIFT_UPDATE_WINDOW="late")
    assert lost.process.wait() == 1
    assert "Traceback" not in lost.process.log()


def test_commands_are_checked(run: Run) -> None:
    device = run("thermostat-1.0.0")
    device.wait_for(lambda _: True, "its first step")
    assert device.request("/set-point", {"celsius": 19}) == (200, {"result": 19.0})
    device.wait_for(lambda status: status["set_point_c"] == 19.0, "the set point")
    assert device.request("/set-point", {"celsius": 90})[0] == 400
    assert device.request("/set-point", {"celsius": [1]})[0] == 400
    assert device.request("/updates/nothing", {})[0] == 404
    assert device.request("/set-point", {"celsius": "1" * 5000})[0] == 400
    assert "Traceback" not in device.process.log()


def test_the_thermostat_confirms_itself_and_shows_what_it_hears(run: Run, agent: StandInAgent) -> None:
    device = run("thermostat-1.0.0", FLEETLIFT_CONTROL_SOCKET=str(agent.path))
    assert agent.next_heard() == ("confirm", None)
    agent.offer()
    status = device.wait_for(lambda status: status["events"], "the event")
    assert status["events"][0] == {"event": "firmware_update_pending", **PENDING}
    assert (status["agent_connected"], status["updates_pending"], status["updates_forced"]) == (True, True, False)
    assert device.request("/updates/disable", {"until_s": 60, "why": "cleaning"}) == (200, {"result": True})
    assert agent.next_heard()[0] == "disable"
    device.wait_for(lambda status: status["updates_enabled"] is False, "updates disabled")
    for command in ("enable", "ready", "check", "confirm"):
        assert device.request(f"/updates/{command}", {})[0] == 200
        assert agent.next_heard() == (command, None)
    device.wait_for(lambda status: status["updates_enabled"] is True, "updates enabled")
    assert device.request("/updates/defer", {"seconds": -5})[0] == 400
    assert device.request("/updates/disable", {"until_s": -5})[0] == 400


def test_the_pump_disables_updates_only_while_it_is_busy(run: Run, agent: StandInAgent) -> None:
    rhythm = {"FLEETLIFT_PUMP_IDLE_S": "0.5", "FLEETLIFT_PUMP_BUSY_S": "0.5"}
    device = run("busy-pump-1.0.0", FLEETLIFT_CONTROL_SOCKET=str(agent.path), **rhythm)
    heard = [agent.next_heard() for _ in range(6)]
    assert [what for what, _ in heard] == ["enable", "confirm", "disable", "enable", "disable", "enable"]
    until, why = heard[2][1]
    assert why == "pumping"
    assert time.time() < until < time.time() + 15  # a pump that is killed does not disable updates for ever
    device.wait_for(lambda status: status["busy"] and not status["updates_enabled"], "a stroke")
    device.wait_for(lambda status: not status["busy"] and status["updates_enabled"], "a pause")
    agent.server.publish({"event": "restarting", "component": "app", "version": "1.1.0"})
    status = device.wait_for(lambda status: status["parked"] and not status["busy"], "the pump at rest")
    assert status["pumped_l"] > 0


def test_the_infusion_monitor_takes_updates_only_in_its_window(run: Run, agent: StandInAgent) -> None:
    device = run("infusion-monitor-1.0.0", FLEETLIFT_CONTROL_SOCKET=str(agent.path))
    assert agent.next_heard() == ("disable", (None, "outside the update window"))
    assert agent.next_heard() == ("confirm", None)
    device.wait_for(lambda status: status["updates_enabled"] is False, "updates disabled")
    agent.offer()
    device.wait_for(lambda status: status["prompt"] == "version 1.1.0 waits for the update window", "the prompt")
    device.request("/window/open", {})
    assert agent.next_heard() == ("enable", None)
    device.request("/infusion/start", {})
    (hold,) = agent.next_holds()
    assert hold.scope == {"download", "install", "restart"}
    assert agent.next_heard() == ("disable", (None, "infusion runs"))
    device.wait_for(lambda status: status["infusing"] and status["infused_ml"] > 0, "the infusion")
    device.request("/infusion/stop", {})
    assert agent.next_heard() == ("enable", None)
    assert agent.next_holds() == ()
    device.request("/window/close", {})
    assert agent.next_heard() == ("disable", (None, "outside the update window"))
    device.request("/infusion/start", {})
    assert len(agent.next_holds()) == 1
    device.process.kill()
    assert agent.next_holds() == ()
    assert agent.enabled is False


def test_the_infusion_monitor_asks_at_the_bedside_and_never_answers_itself(run: Run, agent: StandInAgent) -> None:
    asked = {"component": "app", "version": "1.1.0", "optional": True, "state": "asked"}
    agent.more_status = {"attention": asked}
    device = run("infusion-monitor-1.0.0", FLEETLIFT_CONTROL_SOCKET=str(agent.path))
    assert [agent.next_heard()[0] for _ in range(2)] == ["disable", "confirm"]
    prompt = "version 1.1.0 asks to be installed: consent, defer or decline"
    status = device.wait_for(lambda status: status["prompt"] == prompt, "the question")
    assert status["attention"] == asked
    assert device.request("/updates/defer", {"seconds": 60}) == (200, {"result": True})
    assert agent.next_heard() == ("defer", (60, None))
    for command in ("consent", "decline"):
        assert device.request(f"/updates/{command}", {}) == (200, {"result": True})
        assert agent.next_heard() == (command, None)


def test_the_infusion_monitor_opens_by_the_hour(run: Run, agent: StandInAgent) -> None:
    run("infusion-monitor-1.0.0", FLEETLIFT_CONTROL_SOCKET=str(agent.path), FLEETLIFT_UPDATE_WINDOW="0-86400")
    assert agent.next_heard() == ("enable", None)


def test_the_window_in_the_day() -> None:
    night, over_midnight, never = parse_window("7200-14400"), parse_window("82800-3600"), parse_window("")
    assert [night.contains(second) for second in (7199, 7200, 14399, 14400)] == [False, True, True, False]
    assert [over_midnight.contains(second) for second in (82799, 82800, 0, 3599, 3600)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert not any(never.contains(second) for second in range(0, 86400, 600))
    for text in ("7200", "a-b", "7200-90000", "-5-10"):
        with pytest.raises(ValueError, match=r"window|float"):
            parse_window(text)


@pytest.mark.parametrize(
    ("infusing", "opened", "second", "expected"),
    [
        (False, False, 0, "outside the update window"),
        (False, False, 7200, None),
        (False, True, 0, None),
        (True, False, 7200, "infusion runs"),
        (True, True, 7200, "infusion runs"),
    ],
)
def test_when_the_infusion_monitor_may_be_updated(
    *, infusing: bool, opened: bool, second: float, expected: str | None
) -> None:
    assert why_not(infusing=infusing, opened=opened, window=Window(7200, 14400), second_of_day=second) == expected


def test_the_pumps_rhythm() -> None:
    assert [busy_at(second, 3, 2) for second in (0, 2.9, 3, 4.9, 5, 7.9, 8)] == [
        False,
        False,
        True,
        True,
        False,
        False,
        True,
    ]


def test_the_thermostat_keeps_the_room_in_its_band() -> None:
    room, heating, temperatures = Room(18.0), False, []
    for step in range(1000):
        room.live(0.2, heating=heating)
        heating = decide(room.read(step * 0.2), 21.0, heating=heating)
        temperatures.append(room.temperature_c)
    assert all(20 < temperature < 22 for temperature in temperatures[200:])
    assert {decide(21.0, 21.0, heating=heating) for heating in (True, False)} == {True, False}
