"""Fixtures for every test: brokers, a database server, child processes, their logs in a failed test's report."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import amqtt_broker, broker, mosquitto, require_mosquitto
from tests.support.postgres import postgresql, require_postgresql
from tests.support.processes import Processes

__all__ = ["amqtt_broker", "broker", "mosquitto", "postgresql", "processes"]


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
