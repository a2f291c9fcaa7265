"""Fixtures: a repository with one firmware, and a device of its product."""

from pathlib import Path

import pytest

from tests.device_agent.trust.device import Device
from tests.support.repository import Repository


@pytest.fixture
def repository() -> Repository:
    made = Repository("thermostat", "pump")
    made.add_firmware(b"the image", seq=3)
    made.raise_floor("thermostat", {"app": 2})
    made.publish()
    return made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "metadata"


@pytest.fixture
def device(directory: Path, repository: Repository) -> Device:
    return Device(directory, repository)
