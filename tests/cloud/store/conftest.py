"""Fixtures for the store's tests: a store on a real SQLite file, and the clock that it reads."""

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


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    """A store with one product and its firmware 1.0.0, 1.1.0 and 1.2.0, published."""
    with Store.open(url, clock) as opened:
        opened.catalog.create_product(PRODUCT, hardware_models=[MODEL], by=ANN)
        publish(opened, "1.0.0", "1.1.0", "1.2.0")
        yield opened
