"""Which time zone a device is in: TZ, then /etc/timezone, then where /etc/localtime points; else UTC."""

from pathlib import Path

import pytest

from device_agent.timezones import is_known, system_timezone


def link(etc: Path, target: str) -> None:
    (etc / "localtime").symlink_to(target)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("Europe/Lisbon", "Europe/Lisbon"),
        (":Asia/Tokyo", "Asia/Tokyo"),
        (":/usr/share/zoneinfo/Asia/Tokyo", "Asia/Tokyo"),
        ("UTC", "UTC"),
        ("", "Europe/Berlin"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "Europe/Berlin"),
        ("Nowhere/At_All", "Europe/Berlin"),
        ("../../etc/passwd", "Europe/Berlin"),
    ],
)
def test_the_environment_counts_first_if_it_names_a_zone(tmp_path: Path, told: str, expected: str) -> None:
    (tmp_path / "timezone").write_text("Europe/Berlin\n", encoding="utf-8")
    assert system_timezone({"TZ": told}, tmp_path) == expected


@pytest.mark.parametrize("target", ["/usr/share/zoneinfo/America/Lima", "../usr/share/zoneinfo/America/Lima"])
def test_the_link_counts_where_nothing_is_written(tmp_path: Path, target: str) -> None:
    link(tmp_path, target)
    assert system_timezone({}, tmp_path) == "America/Lima"
    (tmp_path / "timezone").write_bytes(b"\xff\xfe")
    assert system_timezone({}, tmp_path) == "America/Lima"
    (tmp_path / "timezone").write_text("Asia/Kolkata\n", encoding="utf-8")
    assert system_timezone({}, tmp_path) == "Asia/Kolkata"


def test_a_system_that_says_nothing_is_in_utc(tmp_path: Path) -> None:
    assert system_timezone({}, tmp_path) == ""
    (tmp_path / "localtime").write_bytes(b"TZif2")  # a copy: its name is lost
    assert system_timezone({}, tmp_path) == ""
    assert system_timezone({}, tmp_path / "nothing") == ""


@pytest.mark.parametrize("name", ["x" * 65, "Europe", "/etc/passwd", "Europe/Berlin\0", "europe\n"])
def test_what_is_no_zone(name: str) -> None:
    assert not is_known(name)
