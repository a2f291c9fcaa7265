"""Ids, versions, ranges and buckets."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from protocol.errors import IdentityError
from protocol.identity import Installed, VersionRange, bucket, check_digest, check_id, check_version


@pytest.mark.parametrize("text", ["", "A", "a/b", "a b", "+", "#", "..", "a" * 65, "ä", "a\n", "pi.1", "a_b"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(IdentityError):
        check_id(text)


@pytest.mark.parametrize("text", ["a", "0", "-", "pi-1", "a" * 64])
def test_what_is_an_id(text: str) -> None:
    assert check_id(text) == text


@pytest.mark.parametrize(
    "text", ["1", "1.0", "v1.0.0", "01.0.0", "1.0.0 ", "1.0.0\n", "1.0.0-" + "a" * 64, "", "1.0.0-é"]
)
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(IdentityError):
        check_version(text)


@pytest.mark.parametrize("text", ["A" * 64, "a" * 63, "a" * 65, "g" * 64, "../" + "a" * 61, "a" * 63 + "\n"])
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(IdentityError):
        check_digest(text)


@pytest.mark.parametrize(
    ("text", "version", "build", "inside"),
    [
        ("*", "1.0.0", 1, True),
        ("1.2.0", "1.2.0", 1, True),
        ("=1.2.0", "1.2.1", 1, False),
        ("==1.2.0", "1.2.0", 1, True),
        ("!=1.2.0", "1.2.0", 1, False),
        (">=1.2.0 <2.0.0", "1.9.9", 1, True),
        (">=1.2.0 <2.0.0", "2.0.0", 1, False),
        (">=1.2.0 <2.0.0", "2.0.0-rc.1", 1, True),
        ("<1.0.0 || >=2.0.0", "1.5.0", 1, False),
        ("<1.0.0 || >=2.0.0", "2.5.0", 1, True),
        ("1.x", "1.99.0", 1, True),
        ("1.x", "2.0.0", 1, False),
        ("1.2.x", "1.2.77", 1, True),
        ("1.2.*", "1.3.0", 1, False),
        ("!=1.x", "2.0.0", 1, True),
        ("build>=7", "1.0.0", 7, True),
        ("build<7", "1.0.0", 7, False),
        ("os:>=5.0.0", "1.0.0", 1, True),
        ("os:build=3", "1.0.0", 1, True),
        ("os:<5.0.0", "1.0.0", 1, False),
        ("radio:1.0.0", "1.0.0", 1, False),
        ("radio:*", "1.0.0", 1, True),
        ("1.0.0-rc.2", "1.0.0-rc.2", 1, True),
        (">1.0.0-rc.2", "1.0.0-rc.10", 1, True),
        ("1.0.0", "1.0.0+linux", 1, True),
    ],
)
def test_ranges(text: str, version: str, build: int, inside: bool) -> None:
    installed = {"app": Installed(version=version, build=build), "os": Installed(version="5.0.1", build=3)}
    assert VersionRange.parse(text).matches("app", installed) is inside


@pytest.mark.parametrize(
    "text", ["", " ", "||", "1.0.0 ||", "1.0", ">=x", "build", "build>=x", "build7", ">1.x", "!=*", "~1.0.0", "a" * 300]
)
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(IdentityError):
        VersionRange.parse(text)


@pytest.mark.parametrize("white", ["\t", "\n", "\r", "\v", "\f", "\x1c", "\x85", "\u00a0", "\u2003", "\u3000"])
@pytest.mark.parametrize(
    "text", [">=1.0.0{}<2.0.0", "{}1.0.0", "1.0.0{}", "1.0.0 ||{}2.0.0", "{}", ">=1.0.0 {} <2.0.0"]
)
def test_nothing_but_spaces_separates_comparisons(text: str, white: str) -> None:
    with pytest.raises(IdentityError):
        VersionRange.parse(text.format(white))


def test_spaces_may_be_many() -> None:
    assert VersionRange.parse("  >=1.0.0   <2.0.0  ||  3.x ").matches(
        "app", {"app": Installed(version="3.1.0", build=1)}
    )


def test_a_device_without_the_component_is_in_the_widest_range_alone() -> None:
    assert VersionRange.parse("*").matches("app", {})
    assert not VersionRange.parse(">=0.0.0").matches("app", {})


def test_the_bucket_is_what_the_protocol_says() -> None:
    digest = hashlib.sha256(b"fleetlift bucket 1\x00pi-1\x00r-1").digest()
    assert bucket("pi-1", "r-1") == int.from_bytes(digest[:8], "big") % 100


def test_buckets_are_even_and_independent() -> None:
    devices = [f"pi-{number}" for number in range(10_000)]
    for release in ("r-1", "r-2"):
        share = sum(bucket(device, release) < 10 for device in devices)
        assert 850 < share < 1150, "10 % of 10,000, within five standard deviations"
    both = sum(all(bucket(device, release) < 10 for release in ("r-1", "r-2")) for device in devices)
    assert 50 < both < 150, "who is first in one release is not first in the next"
    assert any(bucket(a, "r-1") != bucket(b, "r-1") for a, b in itertools.pairwise(devices))
