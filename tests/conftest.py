"""Fixtures for every test: brokers, a database server, child processes, their logs in a failed test's report."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import amqtt_broker, broker, mosquitto, require_mosquitto
from tests.support.postgres import postgresql, require_postgresql
from tests.support.processes import Processes

__all__ = ["amqtt_broker", "broker", "mosquitto", "postgresql", "processes"]


IN_MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 8 * 1024**3
LONGEST = ("test_readme.py", "test_keys_document.py", "test_tutorial.py", "test_howtos_run.py", "test_guarding.py")
"""Files whose tests take longest: whoever has one of these last keeps all others waiting."""


def pytest_configure() -> None:
    """Have directories of tests in memory where there is room: what is tested of a disk, tests say by themselves."""
    if IN_MEMORY.is_dir() and os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > ENOUGH_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest; the others keep their order, in which they share what is made once for many."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hold the markers `broker` and `postgresql` to their word."""
    if item.get_closest_marker("broker"):
        require_mosquitto()
    if item.get_closest_marker("postgresql"):
        require_postgresql()


@pytest.fixture
def processes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Processes]:
    """Starts children whose logs lie in `tmp_path/logs`; the rest of them is killed when the test ends."""
    directory = tmp_path / "logs"
    directory.mkdir()
    children = Processes(directory)
    yield children
    children.close()
    request.node.add_report_section("teardown", "child processes", children.logs())
