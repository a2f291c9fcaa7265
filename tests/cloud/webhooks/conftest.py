"""Fixtures: a desk over the store's furnished database, and a receiver."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.changes import Changes
from cloud.store.store import Store
from cloud.webhooks.secret_files import SecretFiles
from tests.cloud.store.conftest import clock, furnished, store
from tests.cloud.store.fleets import Clock
from tests.cloud.webhooks.desks import Desk
from tests.support.receivers import Receiver, receiving

__all__ = ["clock", "desk", "furnished", "receiver", "store", "url"]


@pytest.fixture
def url(furnished: Path, tmp_path: Path) -> str:
    """A copy of the furnished database: what is tested here is the same on every kind of database."""
    shutil.copy(furnished, tmp_path / "fleetlift.db")
    return f"sqlite:///{tmp_path / 'fleetlift.db'}"


@pytest.fixture
def desk(store: Store, clock: Clock, tmp_path: Path) -> Desk:
    return Desk(store, clock, SecretFiles(tmp_path / "webhooks"), Changes(), tmp_path)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as opened:
        yield opened
