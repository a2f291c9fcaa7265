"""`init` and `serve`: a home is made whole or not at all, and a server starts, ends and comes back."""

import os
import signal
import socket
import sqlite3
import stat
from pathlib import Path

import httpx
import pytest

from tests.cloud.cli.offices import Office
from tests.support.processes import Processes, is_alive, wait_until


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_home_is_private_to_its_owner(closed: Office) -> None:
    for path in (closed.home, *closed.home.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_no_offline_key_is_in_the_servers_part(closed: Office) -> None:
    keys = [path.read_bytes() for path in (closed.home / "operator" / "keys").glob("*.pem")]
    assert len(keys) == 5
    served = [path.read_bytes() for path in (closed.home / "cloud").rglob("*") if path.is_file()]
    token = (closed.home / "operator" / "token").read_bytes().strip()
    for secret in (*keys, token):
        assert not any(secret in content for content in served)


def test_a_home_is_never_overwritten(closed: Office) -> None:
    before = {path: path.read_bytes() for path in closed.home.rglob("*") if path.is_file()}
    refused = closed.run("init")
    assert refused.code == 5
    assert "Nothing was changed" in refused.err
    assert {path: path.read_bytes() for path in closed.home.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--product", "Thermo Stat", "--hardware", "a"), "is not an id"),
        (("--product", "root", "--hardware", "a"), "cannot be called 'root'"),
        (("--product", "thermostat"), "go together"),
        (("--broker", "http://broker"), "is not mqtt://host"),
        (("--port", "70000"), "is not in the range"),
    ],
)
def test_an_init_that_cannot_be_leaves_nothing(closed: Office, arguments: tuple[str, ...], says: str) -> None:
    there = closed.directory / "other"
    before = sorted(closed.directory.iterdir())
    refused = closed.call("init", *arguments, "--home", there, expect=1 if "root" in arguments else 2)
    assert says in refused.err
    assert sorted(closed.directory.iterdir()) == before


def test_a_home_below_a_file_is_a_sentence(closed: Office) -> None:
    (closed.directory / "file").write_text("x")
    refused = closed.call("init", "--home", closed.directory / "file" / "home", expect=2)
    assert "could not be made" in refused.err


def test_a_server_says_where_it_is_and_ends_when_told(closed: Office) -> None:
    server = closed.serve()
    said = server.log()
    assert f"operators at http://127.0.0.1:{closed.port}" in said
    assert f"devices at mqtt://127.0.0.1:{closed.broker_port}" in said
    assert httpx.get(f"http://127.0.0.1:{closed.port}/readyz", trust_env=False).json() == {"status": "ready"}
    brokers = children_of(server.pid)
    assert brokers
    assert server.terminate() == 0
    wait_until(lambda: not any(is_alive(pid) for pid in brokers), what="the broker's end")
    assert "Traceback" not in server.log()


def test_an_interrupt_from_the_terminal_ends_it_as_well(closed: Office) -> None:
    server = closed.serve()
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0


def test_a_long_poll_does_not_keep_a_server_from_ending(closed: Office) -> None:
    server = closed.serve()
    with closed.device("pi-1"):
        push = ("release", "push", closed.application(), "--version", "1.1.0", "--yes", "--wait")
        waiting = closed.start(*push, name="waiting")
        waiting.wait_for_line("pi-1: waiting")
    assert server.terminate(timeout_s=10) == 0
    waiting.kill()


def test_before_the_first_device_the_list_says_so(closed: Office) -> None:
    closed.serve()
    assert closed.call("device", "list").out == "There is no device yet.\n"


def test_a_second_server_on_the_same_home_is_refused(closed: Office) -> None:
    server = closed.serve()
    refused = closed.run("serve", "--port", "0")
    assert refused.code == 5
    assert f"pid {server.pid}" in refused.err
    assert httpx.get(f"http://127.0.0.1:{closed.port}/livez", trust_env=False).is_success


def test_a_server_that_was_killed_comes_back_with_everything(closed: Office) -> None:
    server = closed.serve()
    closed.call("release", "push", closed.application(), "--version", "1.0.0", "--yes")
    server.kill()
    closed.serve()
    (page,) = closed.json("release", "list")
    assert (page["release"]["firmware"]["version"], page["release"]["live"]) == ("1.0.0", True)


def test_an_embedded_broker_that_dies_is_started_again(closed: Office) -> None:
    server = closed.serve()
    with closed.device("pi-1"):
        pass
    for pid in children_of(server.pid):
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"mosquitto" in name or b"broker_amqtt" in name:
            os.kill(pid, signal.SIGKILL)
    server.wait_for_line("the embedded broker ended")

    def ready() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", closed.broker_port)) == 0

    wait_until(ready, what="the broker's return")
    wait_until(
        lambda: httpx.get(f"http://127.0.0.1:{closed.port}/readyz", trust_env=False).is_success, what="readiness"
    )
    with closed.device("pi-2"):
        assert len(closed.json("device", "list")) == 2


def test_a_typo_in_the_settings_names_file_line_and_key(closed: Office) -> None:
    path = closed.home / "cloud" / "fleetlift.toml"
    path.write_text(path.read_text().replace("port =", "prot =", 1))
    refused = closed.run("serve")
    assert refused.code == 2
    assert f"{path}, line 5: the key 'server.prot' is not known (did you mean 'port'?)" in refused.err


def test_a_typo_in_the_context_names_file_line_and_key(closed: Office) -> None:
    path = closed.home / "operator" / "context.toml"
    path.write_text("server = 5\n")
    assert f"{path}, line 1: the key 'server'" in closed.call("product", "list", expect=2).err


def test_a_home_of_a_newer_version_is_refused_and_not_changed(closed: Office) -> None:
    database = closed.home / "cloud" / "fleetlift.db"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_from_the_future'")
    connection.close()
    before = database.read_bytes()
    refused = closed.run("serve")
    assert refused.code == 1
    assert "newer" in refused.err
    assert "Traceback" not in refused.err
    assert database.read_bytes() == before


def test_a_port_that_is_taken_is_a_sentence(closed: Office) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = closed.run("serve", "--port", taken.getsockname()[1])
        assert refused.code == 1
        assert "Nothing was started" in refused.err
    with socket.create_server(("127.0.0.1", closed.broker_port)):
        refused = closed.run("serve")
        assert refused.code == 1
        assert f"port {closed.broker_port}" in refused.err


def test_serve_makes_a_home_where_there_is_none(tmp_path: Path, processes: Processes) -> None:
    office = Office(tmp_path, processes, 0, 0)
    server = office.start("serve", "--port", "0", "--broker", "mqtt://127.0.0.1:1", name="serve")
    server.wait_for_line("is made")
    server.wait_for_line("127.0.0.1:1")
    assert (office.home / "operator" / "token").is_file()
    assert server.terminate() == 0


def test_serve_on_a_directory_that_is_no_home_is_a_sentence(tmp_path: Path, processes: Processes) -> None:
    office = Office(tmp_path, processes, 0, 0)
    office.home.mkdir()
    assert "`fleetlift init` makes one" in office.call("serve", expect=2).err
