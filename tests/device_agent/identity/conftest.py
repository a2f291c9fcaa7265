"""A fleet with its authorities, an enrolment desk over HTTPS, and one device's empty identity directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.clock import DeviceClock
from device_agent.identity.store import IdentityStore
from tests.device_agent.identity.applicants import Device
from tests.support.certificates import Fleet
from tests.support.enrolment_desk import EnrolmentDesk


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    directory = tmp_path / "fleet"
    directory.mkdir()
    return Fleet(directory)


@pytest.fixture
def desk(fleet: Fleet) -> Iterator[EnrolmentDesk]:
    with EnrolmentDesk(fleet) as desk:
        yield desk


@pytest.fixture
def store(tmp_path: Path) -> IdentityStore:
    return IdentityStore(tmp_path / "device" / "identity")


@pytest.fixture
def clock() -> DeviceClock:
    return DeviceClock(lambda: 0.0)


@pytest.fixture
def device(store: IdentityStore, desk: EnrolmentDesk, clock: DeviceClock) -> Device:
    return Device(store, desk, clock)
