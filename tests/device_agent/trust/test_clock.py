"""Time as data: 1970, ten years ahead, a floor that is damaged; what a wrong clock costs, and for how long."""

import json
from pathlib import Path

import pytest

from device_agent.trust import Distrust, _check, refreshed_at_s
from tests.device_agent.trust.device import DAY_S, PATH, Device
from tests.support.repository import NOW_S

YEARS_10 = 3650 * DAY_S


def test_in_1970_what_is_new_is_taken_and_no_floor_is_made_of_it(device: Device, directory: Path) -> None:
    device.now_s = 0.0
    device.update()
    assert device.trust.signed_firmware(PATH).length == 9
    assert refreshed_at_s(directory) == 0.0


def test_in_1970_the_floor_is_the_time(device: Device, directory: Path) -> None:
    device.update()
    assert refreshed_at_s(directory) == NOW_S
    device.repository.now_s = NOW_S - 3 * DAY_S  # what it signs now has expired by the floor, and not by the clock
    device.repository.publish()
    device.now_s = 0.0
    device.restart()
    device.trust.offer_bundle(device.repository.bundle())
    device.refuses(Distrust.EXPIRED)
    device.repository.now_s = NOW_S
    device.repository.publish()
    device.update()
    assert refreshed_at_s(directory) == NOW_S


def test_ten_years_ahead_nothing_is_taken_and_nothing_is_spoilt(device: Device, directory: Path) -> None:
    device.update()
    device.now_s = NOW_S + YEARS_10
    for _ in range(2):
        device.repository.publish()
        device.trust.offer_bundle(device.repository.bundle())
        device.refuses(Distrust.EXPIRED)
        device.restart()
        device.refuses(Distrust.EXPIRED)
    assert refreshed_at_s(directory) == NOW_S
    device.now_s = NOW_S + 3600
    device.trust.refresh()
    assert device.trust.signed_firmware(PATH).length == 9


def test_a_clock_cannot_push_the_floor_beyond_what_the_timestamp_lives(device: Device, directory: Path) -> None:
    for ahead_s in (YEARS_10, 2 * DAY_S, DAY_S, DAY_S - 1):
        device.now_s = NOW_S + ahead_s
        device.trust.offer_bundle(device.repository.bundle())
        if ahead_s >= DAY_S:
            device.refuses(Distrust.EXPIRED)
            assert refreshed_at_s(directory) == 0.0
    device.trust.refresh()
    assert refreshed_at_s(directory) == NOW_S + DAY_S - 1
    device.now_s = NOW_S  # it is set right: for a day its floor is ahead, then it is not any more
    device.repository.now_s = NOW_S + DAY_S
    device.repository.publish()
    device.restart()
    device.update()


def test_the_floor_only_rises(device: Device, directory: Path) -> None:
    floors = []
    for days in (0.0, 2.0, 1.0, -30.0, 3.0, -20_000.0):
        device.now_s = NOW_S + days * DAY_S
        device.repository.now_s = NOW_S + 4 * DAY_S
        device.repository.publish()
        device.restart()
        device.update()
        floors.append(refreshed_at_s(directory))
    assert floors == [NOW_S + days * DAY_S for days in (0, 2, 2, 2, 3, 3)]


def test_any_bit_of_the_floor_that_falls_over_costs_the_floor_and_not_the_device(
    device: Device, directory: Path
) -> None:
    """A digit more would else be centuries, and everything that comes would have expired."""
    device.update()
    path = directory / "clock.json"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert refreshed_at_s(directory) in (0.0, NOW_S), bytes(content)
    path.write_bytes(whole)
    assert refreshed_at_s(directory) == NOW_S


@pytest.mark.parametrize("value", [-1.0, 1e300, float("inf"), float("nan"), 1e12])
def test_a_floor_that_is_no_time_is_none(directory: Path, value: float) -> None:
    directory.mkdir(parents=True)
    (directory / "clock.json").write_text(json.dumps({"refreshed_at_s": value, "check": _check(value)}))
    assert refreshed_at_s(directory) == 0.0


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"refreshed_at_s": "soon"}', '{"refreshed_at_s": 1.0}', "[" * 9999),
        *(f'{{"refreshed_at_s": 1{"0" * zeros}}}' for zeros in (400, 5000)),
    ],
)
def test_a_floor_that_cannot_be_read_is_none(directory: Path, content: str) -> None:
    directory.mkdir(parents=True)
    (directory / "clock.json").write_text(content)
    assert refreshed_at_s(directory) == 0.0
