"""Real brokers for tests: fixtures over the embedded broker, and what happens when a service is missing."""

import contextlib
import itertools
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from cloud.broker import EPHEMERAL_PORT, FIRST_PORT, HOST, BrokerKind, EmbeddedBroker, find_mosquitto


def _own_ports() -> Iterator[int]:
    """This process's part of the ports, from anywhere in it and around: other workers of pytest have other parts."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (EPHEMERAL_PORT - FIRST_PORT) // workers
    first, start = FIRST_PORT + worker * size, secrets.randbelow(size)
    return itertools.islice(itertools.cycle(range(first, first + size)), start, None)


_PORTS = _own_ports()


def free_port() -> int:
    """Return a TCP port on loopback that nobody listens on, and that no other test is given before it is used."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise AssertionError("the ports have no end")


def missing_service(reason: str) -> NoReturn:
    """Skip with the reason; under `CI=true`, where `.ci/run` installs every service, fail instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and under CI=true a missing service is a failure (see .ci/run)")
    pytest.skip(reason)


def require_mosquitto() -> None:
    """Skip or fail where there is no Mosquitto."""
    if find_mosquitto() is None:
        missing_service("Mosquitto is not installed")


def _running(kind: BrokerKind, directory: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(directory / f"broker-{kind}", kind=kind)
    with broker:
        yield broker
        request.node.add_report_section("teardown", f"{kind} log", broker.log_tail(60))


@pytest.fixture
def mosquitto(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedBroker]:
    """A running Mosquitto on a free port, configured by the project's `mosquitto.conf`."""
    require_mosquitto()
    yield from _running("mosquitto", tmp_path, request)


@pytest.fixture
def amqtt_broker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedBroker]:
    """A running amqtt on a free port."""
    yield from _running("amqtt", tmp_path, request)


@pytest.fixture(params=[pytest.param("mosquitto", marks=pytest.mark.broker), "amqtt"])
def broker(request: pytest.FixtureRequest) -> EmbeddedBroker:
    """Each of the two brokers in turn: for what must hold on both."""
    fixture = "mosquitto" if request.param == "mosquitto" else "amqtt_broker"
    running: EmbeddedBroker = request.getfixturevalue(fixture)
    return running
