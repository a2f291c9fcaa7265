"""Real brokers for tests: fixtures over the embedded broker, and what happens when a service is missing."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from cloud.broker import BrokerKind, EmbeddedBroker, find_mosquitto, free_port

__all__ = ["free_port"]


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
