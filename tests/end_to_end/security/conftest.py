"""Wires to listen in on, and a fleet that has been there for a while; both end with the test."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from unittest import mock

import pytest

from cloud.pki.authorities import Authorities
from cloud.roles import utc_now
from tests.end_to_end.security.wire import Wire
from tests.support.brokers import require_mosquitto
from tests.support.fleet import Fleet, open_fleet
from tests.support.images import Images

AGE = timedelta(days=200)
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


@pytest.fixture
def old_fleet(
    tmp_path_factory: pytest.TempPathFactory, images: Images, request: pytest.FixtureRequest
) -> Iterator[Fleet]:
    """A fleet of the test's own whose authorities were made long ago, so that certificates can be old."""
    require_mosquitto()
    made_then = partial(Authorities.create, now=lambda: utc_now() - AGE)
    with mock.patch.object(Authorities, "create", made_then):
        opened = open_fleet(tmp_path_factory.mktemp("old-fleet"), images)
    yield opened
    opened.close()
    request.node.add_report_section("teardown", "fleet", opened.logs())
