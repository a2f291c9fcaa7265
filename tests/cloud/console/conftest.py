"""Fixtures over a real home and a real server, with the console."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.homes import Api, OpenHome, open_home, serve_api


@pytest.fixture
def home(tmp_path: Path) -> Iterator[OpenHome]:
    """A home with the product `thermostat`, opened as the server would."""
    with open_home(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def api(home: OpenHome) -> Iterator[Api]:
    """The HTTP API of `home`, served on a free port, with the operator's token."""
    with serve_api(home) as served:
        yield served
