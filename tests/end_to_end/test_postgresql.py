"""The server on PostgreSQL: real broker, real agents, and a database that goes away and comes back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, open_fleet
from tests.support.images import Images
from tests.support.postgres import Cluster, running_cluster

pytestmark = [pytest.mark.broker, pytest.mark.postgresql]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster of the test's own, which it may stop."""
    with running_cluster() as running:
        yield running


@pytest.fixture
def postgresql_fleet(
    tmp_path_factory: pytest.TempPathFactory, images: Images, cluster: Cluster, request: pytest.FixtureRequest
) -> Iterator[Fleet]:
    opened = open_fleet(tmp_path_factory.mktemp("fleet"), images, cluster)
    yield opened
    opened.close()
    request.node.add_report_section("teardown", "fleet", opened.logs())
    request.node.add_report_section("teardown", "database", cluster.log_path.read_text()[-4000:])


def test_a_device_takes_a_release_and_what_it_says_while_the_database_is_away_is_not_lost(
    postgresql_fleet: Fleet, cluster: Cluster
) -> None:
    fleet = postgresql_fleet
    assert not list((fleet.office.home / "cloud").glob("*.db*"))
    base, image, later = (fleet.images.thermostat(version) for version in ("1.0.0", "1.1.0", "1.2.0"))
    device = fleet.join("pg-1", image=base)
    page = fleet.push(image, "--immediate")
    device.expect(image)
    fleet.expect_outcome(device, image)
    fleet.expect_metrics(page, attempts=1, downloads=1, installs=1)
    assert fleet.api("GET", "/audit")[0]["number"] == 1

    fleet.call("firmware", "upload", later.path)
    cluster.stop()
    said = fleet.call("device", "show", "pg-1", expect=1).err
    assert "the database could not be read" in said
    device.restart()
    cluster.start()
    fleet.expect_online(device)
    fleet.push(later, "--immediate")
    device.expect(later)
    fleet.expect_outcome(device, later)
    fleet.expect_told(device)
    assert fleet.outcomes(device) == ["succeeded", "succeeded"]
    assert fleet.office.server is not None
    assert "Traceback" not in fleet.office.server.log()


def test_a_database_is_of_one_home_alone(tmp_path: Path, postgresql: Cluster, images: Images) -> None:
    fleet = open_fleet(tmp_path, images, postgresql)
    assert fleet.postgresql is not None
    url = postgresql.url(fleet.postgresql[1])
    before = fleet.query("SELECT * FROM audit ORDER BY number")
    said = fleet.call("init", "--home", tmp_path / "other", "--database", url, expect=5).err
    secret = url.replace("fleetlift@", "fleetlift:secret@")
    refused = fleet.call("init", "--home", tmp_path / "other", "--database", secret, expect=2).err
    fleet.close()
    assert "a password on a command line is seen by everybody" in refused
    assert "the database is another home's already. Nothing was made" in said
    assert not (tmp_path / "other").exists()
    assert fleet.query("SELECT * FROM audit ORDER BY number") == before
