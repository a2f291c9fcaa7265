"""What an examination finds: for each check what was looked at, what was seen, how bad it is and how to mend it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended. UNKNOWN: it could not be made, which is neither good nor bad."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a check saw; `mend` says what to do where it is not good."""

    verdict: Verdict
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A check's name, the question behind it, and what it saw."""

    check: str
    looked_at: str
    seen: Seen

    def document(self) -> Mapping[str, str]:
        """Return it for a program."""
        return {
            "check": self.check,
            "verdict": self.seen.verdict.value,
            "looked_at": self.looked_at,
            "seen": self.seen.text,
            "mend": self.seen.mend,
        }


def ok(text: str) -> Seen:
    """Return that all is well."""
    return Seen(Verdict.OK, text)


def warn(text: str, mend: str) -> Seen:
    """Return that something should be better."""
    return Seen(Verdict.WARN, text, mend)


def fail(text: str, mend: str) -> Seen:
    """Return that something is broken or open."""
    return Seen(Verdict.FAIL, text, mend)


def unknown(text: str, mend: str = "") -> Seen:
    """Return that it could not be found out."""
    return Seen(Verdict.UNKNOWN, text, mend)
