"""Wires to listen in on, which end with the test."""

from collections.abc import Callable, Iterator

import pytest

from tests.end_to_end.security.wire import Wire

Tap = Callable[[int], Wire]


@pytest.fixture
def tap() -> Iterator[Tap]:
    """Puts somebody who listens in before a port of this machine."""
    opened: list[Wire] = []

    def open_wire(target: int) -> Wire:
        opened.append(Wire(target))
        return opened[-1]

    yield open_wire
    for wire in opened:
        wire.close()
