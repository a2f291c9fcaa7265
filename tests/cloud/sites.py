"""A fleet with its running broker, as devices, the cloud and strangers meet it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.broker import HOST, EmbeddedBroker, Secured
from cloud.doctor.visitor import RefusedError, Visit, Visitor
from protocol.topics import Topics
from tests.support.certificates import Fleet, Identity

TOPICS = Topics()
NOT_AUTHORIZED = 0x87
SESSION_S = 3600
CANARY = TOPICS.down("pi-1", "ack")


class Site:
    """A fleet and its running broker."""

    def __init__(self, fleet: Fleet, broker: EmbeddedBroker) -> None:
        self.fleet, self.broker = fleet, broker

    def visit(self, identity: Identity | Path | None, client_id: str = "", **settings: Any) -> Visit:
        """Return how a client comes to the devices' door."""
        name = client_id or (identity.device_id if isinstance(identity, Identity) else "stranger")
        context = self.fleet.context(identity)
        return Visit(host=HOST, port=self.broker.port, client_id=name, context=context, **settings)

    def device(self, device_id: str, **settings: Any) -> Visitor:
        return self.visit(self.fleet.device(device_id), **settings).open()

    def cloud(self, client_id: str = "fleetlift.test") -> Visitor:
        return self.cloud_visit(client_id).open()

    def cloud_visit(self, client_id: str) -> Visit:
        context = self.fleet.cloud.context()
        return Visit(host=HOST, port=self.broker.cloud_port, client_id=client_id, context=context)


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    fleet = Fleet(tmp_path)
    with EmbeddedBroker(fleet.files.directory, secured=Secured(tls=fleet.cloud)) as broker:
        yield Site(fleet, broker)
        request.node.add_report_section("teardown", "broker's log", broker.log_tail(60))


def is_refused(visit: Visit) -> bool:
    try:
        visit.open().close()
    except RefusedError:
        return True
    return False


def eventually_open(visit: Visit) -> None:
    """A reload is over when the broker says so to nobody: poll."""
    deadline = time.monotonic() + 5
    while True:
        try:
            visit.open().close()
        except RefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


def eventually_refused(visit: Visit) -> None:
    deadline = time.monotonic() + 5
    try:
        while True:
            visit.open().close()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    except RefusedError:
        return
