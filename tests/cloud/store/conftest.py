"""Fixtures for the store's tests: a store on a real SQLite file, and the clock that it reads."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.store.store import Store
from tests.cloud.store.fleets import ANN, MODEL, PRODUCT, Clock, publish


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of the store's database."""
    return f"sqlite:///{tmp_path / 'fleetlift.db'}"


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one product and its firmware 1.0.0, 1.1.0 and 1.2.0, published; each test has a copy."""
    path = tmp_path_factory.mktemp("furnished") / "fleetlift.db"
    with Store.open(f"sqlite:///{path}", Clock()) as opened:
        opened.catalog.create_product(PRODUCT, hardware_models=[MODEL], by=ANN)
        publish(opened, "1.0.0", "1.1.0", "1.2.0")
    return path


@pytest.fixture
def store(furnished: Path, url: str, clock: Clock) -> Iterator[Store]:
    """The furnished store, on a file of its own."""
    shutil.copy(furnished, url.removeprefix("sqlite:///"))
    with Store.open(url, clock) as opened:
        yield opened
