"""A simulated world, its cloud, and an agent that is started in it as often as a test likes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.values import FirmwareRef
from tests.device_agent.runner.playing import Start
from tests.support.simulated_cloud import Cloud
from tests.support.simulated_device import Device, no_fsync
from tests.support.simulated_world import World


@pytest.fixture(autouse=True)
def _fast_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_fsync)
    monkeypatch.setattr(os, "fdatasync", no_fsync)


@pytest.fixture
def world(tmp_path: Path) -> World:
    directory = tmp_path / "device"
    directory.mkdir()
    return World(directory)


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def start(world: World, cloud: Cloud) -> Iterator[Start]:
    """Starts the agent, once or (after the one before was switched off) again."""
    lives: list[Device] = []

    def begin(**settings: Any) -> Device:
        for life in lives:
            life.power_off()
        lives[:] = [Device(world, cloud, **settings)]
        return lives[0].start()

    yield begin
    for life in lives:
        assert "internal_error" not in life.journal.refused()
        life.power_off()


@pytest.fixture
def old(world: World, cloud: Cloud, start: Start) -> FirmwareRef:
    """1.0.0, which the device runs for good."""
    image = world.image("1.0.0")
    cloud.release(image)
    start().run()
    assert world.running == image.digest
    return image
