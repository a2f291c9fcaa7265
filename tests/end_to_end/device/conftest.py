"""Watched devices for the tests of this room."""

from collections.abc import Iterator

import pytest

from tests.support.device_world import Watched, Workshop
from tests.support.fleet import Fleet
from tests.support.images import Image, Images


@pytest.fixture
def factory(images: Images) -> Image:
    """What devices run when they leave the factory."""
    return images.thermostat("1.0.0")


@pytest.fixture
def workshop(fleet: Fleet) -> Iterator[Workshop]:
    """Makes devices; their agents and applications end with the test."""
    with fleet.http as http:
        opened = Workshop(fleet, http)
        yield opened
        opened.close()


@pytest.fixture
def device(workshop: Workshop, factory: Image) -> Watched:
    """A device as it left the factory, whose agent and application run."""
    return workshop.device(factory)
