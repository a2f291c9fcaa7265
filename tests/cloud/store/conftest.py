"""Fixtures for the store's tests: a store on a real SQLite file or PostgreSQL, and the clock that it reads."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.store.store import Store
from tests.cloud.store.fleets import ANN, MODEL, PRODUCT, Clock, publish
from tests.support.postgres import Cluster

EVERYTHING = "FLEETLIFT_TEST_POSTGRESQL"
"""With `all` in this variable every test runs on PostgreSQL too: for who changes the schema or a query."""
SAMPLED = {
    "test_catalog": ("test_a_product_comes", "test_groups_are_ranked", "test_a_group_with", "test_firmware_comes"),
    "test_dynamic_groups": ("test_a_group_by_a_query", "test_a_state_with_other", "test_another_query"),
    "test_importing": ("test_a_device_comes", "test_the_same_again"),
    "test_releases": ("test_labels_count", "test_two_operators", "test_a_rollback_to", "test_a_success_is_promoted"),
    "test_rollouts": ("test_health_beyond", "test_time_alone", "test_the_failed_try", "test_an_abort_is_final"),
}
"""Of the longest modules, the tests that run on PostgreSQL every time, by how their names begin."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out of each run on PostgreSQL what is long and shows nothing new."""
    if os.environ.get(EVERYTHING) == "all":
        return
    left_out = [item for item in items if _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _is_left_out(item)]


def _is_left_out(item: pytest.Item) -> bool:
    begins = SAMPLED.get(item.path.stem) if item.path.parent == Path(__file__).parent else None
    return begins is not None and "postgresql" in item.keywords and not item.name.startswith(begins)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of the store's database, a copy of the furnished one: each of the two kinds in turn."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("furnished"), tmp_path / "fleetlift.db")
        yield f"sqlite:///{tmp_path / 'fleetlift.db'}"
        return
    cluster: Cluster = request.getfixturevalue("postgresql")
    database = cluster.create(request.getfixturevalue("furnished_postgresql"))
    yield cluster.url(database)
    cluster.drop(database)


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one product and its firmware 1.0.0, 1.1.0 and 1.2.0, published; each test has a copy."""
    path = tmp_path_factory.mktemp("furnished") / "fleetlift.db"
    furnish(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def furnished_postgresql(postgresql: Cluster) -> str:
    """The same on PostgreSQL."""
    database = postgresql.create()
    furnish(postgresql.url(database))
    return database


def furnish(url: str) -> None:
    with Store.open(url, Clock()) as opened:
        opened.catalog.create_product(PRODUCT, hardware_models=[MODEL], by=ANN)
        publish(opened, "1.0.0", "1.1.0", "1.2.0")


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    """The furnished store, on a database of its own."""
    with Store.open(url, clock) as opened:
        yield opened
