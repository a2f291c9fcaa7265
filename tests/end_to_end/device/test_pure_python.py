"""`pip install .` alone gives a device the agent, on pure-Python libraries; so installed, it takes an update."""

import subprocess
from pathlib import Path

import pytest

from tests.support.device_world import Workshop
from tests.support.distribution import build_wheel, install_as_on_a_device
from tests.support.images import Image, Images

pytestmark = pytest.mark.broker
COMPILED = (".so", ".pyd", ".dylib")


def test_an_agent_of_pure_python_takes_an_update(
    workshop: Workshop, factory: Image, images: Images, tmp_path: Path
) -> None:
    installed = install_as_on_a_device(build_wheel(tmp_path / "wheel"), tmp_path / "venv")
    libraries = [path for path in (tmp_path / "venv" / "lib").rglob("*") if path.suffix in COMPILED]
    assert libraries == []
    known = subprocess.run((installed / "python", "-c", "import cryptography"), check=False, capture_output=True)
    assert known.returncode == 1
    assert b"No module named 'cryptography'" in known.stderr
    device = workshop.enrol(factory)
    new = images.thermostat("1.1.0")
    device.push(new, "--immediate")
    device.begin(program=installed / "fleetlift-agent")
    assert str(tmp_path / "venv").encode() in Path(f"/proc/{device.agent.pid}/cmdline").read_bytes()
    device.expect_success(new)
    device.expect_only(factory, new)
