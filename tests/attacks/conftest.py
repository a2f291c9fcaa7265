"""One fleet for all attacks of a worker, an intruder with all rights on its broker, and a victim for each file."""

import itertools
from collections.abc import Iterator

import pytest

from tests.attacks.attacker import FalseCloud, Intruder
from tests.attacks.scene import Scene
from tests.support.brokers import require_mosquitto
from tests.support.fleet import Fleet, open_fleet
from tests.support.images import Images

NUMBERS = itertools.count(1)


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
    """The worker's fleet, and what it said in the report of a test that failed."""
    yield shared_fleet
    request.node.add_report_section("teardown", "fleet", shared_fleet.logs())


@pytest.fixture(scope="session")
def intruder(shared_fleet: Fleet) -> Iterator[Intruder]:
    """Somebody who has the broker, by the cloud's stolen certificate: with all rights, and there from the beginning."""
    broker = shared_fleet.broker
    assert broker.secured is not None
    with Intruder(broker.cloud_port, broker.secured.tls.context()) as somebody:
        yield somebody


@pytest.fixture(scope="module")
def shared_scene(shared_fleet: Fleet, intruder: Intruder) -> Iterator[Scene]:
    """A victim of the file's own, in a group of its own; it runs firmware that it took over the air."""
    scene = Scene.begin(shared_fleet, intruder, f"victim-{next(NUMBERS)}")
    yield scene
    scene.device.stop()
    shared_fleet.devices.remove(scene.device)


@pytest.fixture
def scene(shared_scene: Scene, fleet: Fleet) -> Scene:
    """The file's victim, at rest."""
    return shared_scene


@pytest.fixture
def false_cloud(scene: Scene) -> FalseCloud:
    """What stands in for the cloud."""
    assert scene.fleet.office.server is not None
    return FalseCloud(scene.intruder, scene.fleet.office.server.pid)
