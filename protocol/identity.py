"""Names, versions and version ranges: what they look like, and how they compare."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import semver

from protocol.errors import IdentityError

MAX_ID_LENGTH: Final = 64
MAX_VERSION_LENGTH: Final = 64
MAX_RANGE_LENGTH: Final = 200
MAX_INTEGER: Final = 2**53 - 1
"""The largest integer in a message: what every JSON implementation reads exactly (RFC 8259, section 6)."""

_ID = re.compile(r"[a-z0-9-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COMPARATOR = re.compile(
    r"(?:(?P<component>[a-z0-9-]{1,64}):)?(?P<build>build)?(?P<op>>=|<=|!=|==|=|>|<)?(?P<operand>[0-9A-Za-z.+*-]{1,64})"
)
_WILDCARD = re.compile(r"(0|[1-9]\d{0,9})(?:\.(0|[1-9]\d{0,9}))?\.[x*]")

EVERYONE: Final = "everyone"
"""The group of every device of a product, always ranked last."""


def check_id(value: str, what: str = "id") -> str:
    """Return `value` if it is an id (`[a-z0-9-]{1,64}`), else raise IdentityError."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise IdentityError(f"{what} {value!r:.80} is not an id: 1 to 64 of a-z, 0-9 and '-'")
    return value


def check_digest(value: str, what: str = "digest") -> str:
    """Return `value` if it is a SHA-256 in 64 lower-case hexadecimal digits, else raise IdentityError."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise IdentityError(f"{what} {value!r:.80} is not a SHA-256 in lower-case hexadecimal")
    return value


def check_version(value: str, what: str = "version") -> str:
    """Return `value` if it is a version of Semantic Versioning 2.0.0, else raise IdentityError."""
    if not isinstance(value, str) or len(value) > MAX_VERSION_LENGTH or not semver.Version.is_valid(value):
        raise IdentityError(f"{what} {value!r:.80} is not a semantic version such as 1.4.0 or 2.0.0-rc.1")
    return value


def version_key(value: str) -> semver.Version:
    """Return what orders versions (SemVer 2.0.0, section 11); raises IdentityError."""
    return semver.Version.parse(check_version(value))


def bucket(device_id: str, release_id: str) -> int:
    """Return the device's place, 0 to 99, in one release: a percentage p covers the buckets below p.

    The first 8 bytes, big-endian, of SHA-256 over `fleetlift bucket 1`, a NUL, the device's id, a NUL and the
    release's id, modulo 100. Raising a percentage never removes a device, and who is first differs per release.
    """
    return place(device_id, release_id) // 10_000


def place(device_id: str, release_id: str) -> int:
    """Return the device's place, 0 to 999,999, in one release: its bucket, divided once more.

    The bucket times 10,000, and the next 8 bytes of the same hash, big-endian, modulo 10,000. A ramp covers places.
    """
    digest = hashlib.sha256(b"\0".join((b"fleetlift bucket 1", device_id.encode(), release_id.encode()))).digest()
    return int.from_bytes(digest[:8], "big") % 100 * 10_000 + int.from_bytes(digest[8:16], "big") % 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One component as it stands on a device: what a range is matched against."""

    version: str
    build: int


@dataclass(frozen=True, slots=True)
class _Comparator:
    """One comparison of a range, on one component's version or build number."""

    component: str | None
    on_build: bool
    op: str
    operand: str

    def holds(self, installed: Installed) -> bool:
        if self.operand == "*":
            return True
        if self.on_build:
            return _compare(self.op, installed.build, int(self.operand))
        if wildcard := _WILDCARD.fullmatch(self.operand):
            version = version_key(installed.version)
            major, minor = wildcard.groups()
            inside = version.major == int(major) and (minor is None or version.minor == int(minor))
            return inside is (self.op != "!=")
        # Build metadata does not take part in precedence (SemVer 2.0.0, section 10).
        return _compare(self.op, version_key(installed.version).compare(self.operand), 0)


def _compare(op: str, left: int, right: int) -> bool:
    return {
        "=": left == right,
        "!=": left != right,
        ">=": left >= right,
        "<=": left <= right,
        ">": left > right,
        "<": left < right,
    }[op]


@dataclass(frozen=True, slots=True)
class VersionRange:
    """The versions or builds that a release applies on: a parsed target range.

    Alternatives are separated by `||`, the comparisons of one alternative by spaces (no other white space); all of
    them must hold.
    A comparison is `[component:]operator version`, `[component:]build operator number`, a wildcard (`1.x`,
    `1.2.x`) or `*`; the operators are `=` (may be left out), `!=`, `>=`, `<=`, `>` and `<`. Versions compare by
    SemVer precedence. A comparison on a component that the device does not have fails, but for `*`.
    """

    text: str
    alternatives: tuple[tuple[_Comparator, ...], ...]

    @classmethod
    def parse(cls, text: str) -> VersionRange:
        """Parse a range; raises IdentityError with the part that is wrong."""
        if len(text) > MAX_RANGE_LENGTH:
            raise IdentityError(f"a target range has at most {MAX_RANGE_LENGTH} characters")
        alternatives = tuple(
            tuple(_parse_comparator(part) for part in alternative.split(" ") if part)
            for alternative in text.split("||")
        )
        if not all(alternatives):
            raise IdentityError(f"target range {text!r} has an empty alternative; '*' matches every version")
        return cls(text, alternatives)

    def matches(self, component: str, installed: Mapping[str, Installed]) -> bool:
        """Tell whether a device with these components is in the range; `component` is the one being released."""

        def holds(comparator: _Comparator) -> bool:
            if comparator.operand == "*":
                return True
            there = installed.get(comparator.component or component)
            return there is not None and comparator.holds(there)

        return any(all(holds(comparator) for comparator in alternative) for alternative in self.alternatives)


def _parse_comparator(text: str) -> _Comparator:
    match = _COMPARATOR.fullmatch(text)
    if match is None:
        raise IdentityError(f"{text!r} is not a comparison such as 1.2.0, >=1.2.0, 1.x, build>=7 or os:>=2.0.0")
    op, operand, on_build = match["op"] or "=", match["operand"], match["build"] is not None
    op = "=" if op == "==" else op
    if on_build:
        if not operand.isdecimal() or int(operand) > MAX_INTEGER or match["op"] is None:
            raise IdentityError(f"{text!r}: a build is compared with a whole number, as in build>=7")
    elif operand == "*" or _WILDCARD.fullmatch(operand):
        if op not in ("=", "!=") or (operand == "*" and op == "!="):
            raise IdentityError(f"{text!r}: a wildcard goes with no operator but '=' or '!='")
    else:
        check_version(operand, f"the version in {text!r},")
    return _Comparator(match["component"], on_build, op, operand)
