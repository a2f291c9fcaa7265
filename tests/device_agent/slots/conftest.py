"""Fixtures for tests of the slots."""

from pathlib import Path

import pytest

from device_agent.slots.files import FilesSlots
from tests.device_agent.slots.firmware import COMPONENT


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "components" / COMPONENT


@pytest.fixture
def slots(directory: Path) -> FilesSlots:
    return FilesSlots(directory, COMPONENT)
