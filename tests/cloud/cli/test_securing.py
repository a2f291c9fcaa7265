"""What the server does with the files of its broker, and with a broker that is not ready for news."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.broker_files import BrokerFilesError
from cloud.cli import securing
from cloud.cli.securing import Security, secure
from cloud.config import Home, Settings
from tests.support.processes import wait_until


@pytest.fixture
def security(tmp_path: Path) -> Security:
    """A home whose broker has to be told of its files."""
    home, settings = Home(tmp_path / "home"), Settings()
    home.operator.mkdir(parents=True)
    home.cloud.mkdir()
    secure(home, settings, home)
    return Security.open(home, settings)


@pytest.fixture
def starting(security: Security) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is called like the broker and has not come to catching signals yet."""
    program = security.home.root / "mosquitto"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as process:
        (security.broker_files.directory / "mosquitto.pid").write_text(f"{process.pid}\n")
        wait_until(lambda: security.broker_files.pid() == process.pid, what="the process' name")
        yield process
        process.kill()


def test_a_broker_that_starts_is_not_killed_by_the_news(
    security: Security, starting: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(securing, "STARTING_S", 0.1)
    with pytest.raises(BrokerFilesError, match="told later"):
        security.tell_broker(devices=["stolen-1"])
    assert starting.poll() is None
    starting.kill()
    starting.wait()
    security.tell_broker(devices=["stolen-1"])
    assert "user stolen-1" in (security.broker_files.directory / "acl").read_text()
