"""`fleetlift doctor` on homes as `init` makes them: served, run by hand, plain, and not running at all."""

from pathlib import Path
from typing import Any

import pytest

from cloud.broker import find_mosquitto
from cloud.config import Home
from cloud.doctor.examination import CHECKS
from tests.cloud.cli.offices import Office
from tests.cloud.homes import MODEL, PRODUCT
from tests.support.brokers import free_port, require_mosquitto
from tests.support.processes import Processes


def not_good(answer: dict[str, Any]) -> set[str]:
    """Return the checks that did not end well; which Mosquitto is installed here is not the home's doing."""
    return {finding["check"] for finding in answer["findings"] if finding["verdict"] != "ok"} - {"broker-version"}


@pytest.fixture
def secured(tmp_path: Path, processes: Processes) -> Office:
    """A home with certificates, whose server does not run."""
    require_mosquitto()
    office = Office(tmp_path, processes, free_port(), free_port())
    ports = ("--port", office.port, "--broker-port", office.broker_port, "--cloud-port", free_port())
    office.call("init", "--product", PRODUCT, "--hardware", MODEL, "--no-passphrase", *ports)
    return office


@pytest.mark.broker
def test_a_home_that_is_served_passes_everything_and_stays_as_it_is(secured: Office) -> None:
    secured.serve()
    home = Home(secured.home)
    unchanging = [*home.broker.glob("*.c*"), *home.ca.iterdir(), *home.tls.iterdir(), home.broker / "acl"]
    before = {path: path.read_bytes() for path in unchanging}
    answer = secured.json("doctor", "--revoke")
    assert [finding["check"] for finding in answer["findings"]] == list(CHECKS)
    assert not_good(answer) == set()
    assert {path: path.read_bytes() for path in unchanging} == before
    assert answer["devices"] == f"127.0.0.1:{secured.broker_port}"
    told = secured.call("doctor")
    assert "not tried" in told.out
    assert f"{len(CHECKS)} checks" in told.out
    assert "1 not made" in told.out


@pytest.mark.broker
def test_mosquitto_runs_by_itself_on_what_init_made(secured: Office) -> None:
    executable = find_mosquitto()
    assert executable is not None
    broker = secured.processes.start(executable, "-c", Home(secured.home).broker / "mosquitto.conf", name="mosquitto")
    broker.wait_for_line(" running")
    assert not_good(secured.json("doctor", "--revoke")) == set()
    assert broker.terminate() == 0


@pytest.mark.broker
def test_without_a_broker_the_exit_code_says_so_and_nothing_is_called_good(secured: Office) -> None:
    answer = secured.json("doctor", expect=1)
    found = {finding["check"]: finding for finding in answer["findings"]}
    assert found["reach"]["verdict"] == "fail"
    assert "--broker" in found["reach"]["mend"]
    assert found["publishing"]["verdict"] == "unknown"
    assert found["access-rules"]["verdict"] == "ok"
    elsewhere = secured.call("doctor", "--broker", f"mqtts://localhost:{free_port()}", expect=1)
    assert "localhost:" in elsewhere.out


def test_a_plain_home_fails_in_words(closed: Office) -> None:
    closed.serve()
    answer = closed.call("doctor", expect=1)
    assert "speaks no TLS" in answer.out
    assert "a device's forgeries were published" in answer.out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--broker", "tcp://x"), 2, "is not mqtt://host"),
        (("--cloud-broker", "x"), 2, "is not mqtt://host"),
        (("--home", "nowhere"), 1, "has no authority"),
    ],
)
def test_a_mistake_is_a_sentence(closed: Office, arguments: tuple[str, ...], code: int, says: str) -> None:
    assert says in closed.call("doctor", *arguments, expect=code).err


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read: No such file"), (b"hunter\xe4\n", "is not text in UTF-8")],
)
def test_a_password_file_that_is_none_is_a_sentence(closed: Office, content: bytes | None, says: str) -> None:
    home = Home(closed.home)
    settings = home.settings_file.read_text()
    home.settings_file.write_text(
        settings.replace("[broker]\n", '[broker]\nusername = "u"\npassword_file = "secret"\n')
    )
    if content is not None:
        home.storage_path("secret").write_bytes(content)
    for command in ("doctor", "serve"):
        told = closed.call(command, expect=2)
        assert f"password file {home.storage_path('secret')} {says}" in told.err
        assert "hunter" not in told.err


@pytest.mark.broker
def test_throw_away_certificates_do_not_stay(secured: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    secured.serve()
    secured.call("doctor")
    assert not list((tmp_path / "scratch").glob("fleetlift-doctor-*"))
