"""What `pip install` puts on a machine: the agent alone on a device, and no file twice."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.distribution import REPOSITORY, build_wheel, install_as_on_a_device


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def device_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_as_on_a_device(wheel, tmp_path_factory.mktemp("device") / "venv")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_wheel_carries_the_rooms_the_samples_and_the_one_mosquitto_conf(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        rooms = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" not in name}
        assert rooms == {"protocol", "cloud", "device_agent", "firmware_samples"}
        assert archive.read("cloud/mosquitto.conf") == (REPOSITORY / "mosquitto.conf").read_bytes()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


def test_on_a_device_the_operators_command_says_what_to_install(device_bin: Path) -> None:
    ended = run(device_bin / "fleetlift", "--help")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "pip install 'fleetlift[cloud]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_device_imports_every_room_that_it_needs_without_compiled_libraries(device_bin: Path) -> None:
    ended = run(
        device_bin / "python",
        "-c",
        "import importlib, pkgutil, protocol, device_agent\n"
        "for package in (protocol, device_agent):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(found.name)\n"
        "try:\n"
        "    import cryptography\n"
        "except ImportError:\n"
        "    print('none compiled')\n",
    )
    assert (ended.stdout, ended.returncode) == ("none compiled\n", 0), ended.stderr
