"""One fleet for each worker: its server and broker run from the first test to the last; devices are a test's own."""

from collections.abc import Iterator

import pytest

from tests.support.brokers import require_mosquitto
from tests.support.fleet import Fleet, open_fleet
from tests.support.images import Images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Builds images of the sample thermostat."""
    return Images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory, images: Images) -> Iterator[Fleet]:
    """The server and broker of a worker."""
    require_mosquitto()
    opened = open_fleet(tmp_path_factory.mktemp("fleet"), images)
    yield opened
    opened.close()


@pytest.fixture
def fleet(shared_fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """The worker's fleet; the agents that a test starts end with it. Groups, ids and versions are to be its own."""
    first = len(shared_fleet.office.processes.started)
    yield shared_fleet
    shared_fleet.stop_devices()
    request.node.add_report_section("teardown", "fleet", shared_fleet.logs(first))


@pytest.fixture
def own_fleet(
    tmp_path_factory: pytest.TempPathFactory, images: Images, request: pytest.FixtureRequest
) -> Iterator[Fleet]:
    """A fleet of the test's own, whose server and broker it may kill."""
    require_mosquitto()
    opened = open_fleet(tmp_path_factory.mktemp("own-fleet"), images)
    yield opened
    opened.close()
    request.node.add_report_section("teardown", "fleet", opened.logs())
