"""When a release is for a device: ramps that cover more and more of a group, and windows of a device's own day.

Everything here is a function of the release, the device and a time in milliseconds since 1970; nothing reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from protocol.errors import MessageError
from protocol.identity import check_id, check_version
from protocol.values import check_few, check_number

PLACES: Final = 1_000_000
"""The places in a release: a percentage covers ten thousand for each per cent."""
PER_CENT: Final = PLACES // 100
MAX_WINDOWS: Final = 16
MAX_STRATA: Final = 32
MAX_CANARIES: Final = 8
DAY_MINUTES: Final = 24 * 60
WEEK_DAYS: Final = 7
_UTC_NAMES: Final = frozenset({"", "UTC", "Etc/UTC"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """Coverage that grows in a straight line, from a percentage to the release's own, between two times."""

    from_percentage: int
    starts_at_ms: int
    ends_at_ms: int

    def __post_init__(self) -> None:
        check_number(self.from_percentage, "from_percentage", 0, 100)
        check_number(self.starts_at_ms, "starts_at_ms")
        check_number(self.ends_at_ms, "ends_at_ms", self.starts_at_ms + 1)

    def covered(self, percentage: int, now_ms: int) -> int:
        """Return how many of the places are covered at a time: those below the number."""
        first, span = self.from_percentage * PER_CENT, (percentage - self.from_percentage) * PER_CENT
        elapsed_ms = min(max(now_ms - self.starts_at_ms, 0), self.ends_at_ms - self.starts_at_ms)
        return first + span * elapsed_ms // (self.ends_at_ms - self.starts_at_ms)

    def covers_at_ms(self, percentage: int, place: int) -> int | None:
        """Return the first time at which a place is covered, or None if it never is."""
        first, span = self.from_percentage * PER_CENT, (percentage - self.from_percentage) * PER_CENT
        if place >= percentage * PER_CENT:
            return None
        wanted = place + 1 - first
        if wanted <= 0:
            return self.starts_at_ms
        return self.starts_at_ms - (-wanted * (self.ends_at_ms - self.starts_at_ms) // span)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Minutes of some days of the week in which updates may be installed, by the device's own clock on the wall.

    `days` are 0 (Monday) to 6, none for every day; `start_minute` counts from midnight; a window may run into the next
    day, and opens and closes by the wall on the days on which clocks are put forward or back: a time that is left out
    is an hour later, one that comes twice the first of the two.
    """

    start_minute: int
    duration_minutes: int
    days: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_number(self.start_minute, "start_minute", 0, DAY_MINUTES - 1)
        check_number(self.duration_minutes, "duration_minutes", 1, DAY_MINUTES)
        check_few(self.days, "days", WEEK_DAYS)
        for day in self.days:
            check_number(day, "days", 0, WEEK_DAYS - 1)

    def starts(self, day: date) -> bool:
        """Tell whether it opens on a day."""
        return not self.days or day.weekday() in self.days


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """Devices that are alike in what a release fails on; None stands for any.

    `from_version` is the version of the release's component that they run.
    """

    hardware_model: str | None = None
    from_version: str | None = None

    def __post_init__(self) -> None:
        if self.hardware_model is not None:
            check_id(self.hardware_model, "hardware_model")
        if self.from_version is not None:
            check_version(self.from_version, "from_version")

    def contains(self, hardware_model: str, version: str | None) -> bool:
        """Tell whether a device of a model that runs a version (None: nothing) is one of them."""
        return self.hardware_model in (None, hardware_model) and self.from_version in (None, version)

    def __str__(self) -> str:
        if self.from_version is None:
            return self.hardware_model or "every device"
        return f"{self.hardware_model or 'devices'} on {self.from_version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms a release is for its group, beside its percentage: who first, when, and who is asked.

    `canaries` are groups whose devices are covered whatever the percentage. `paused`: who does not run it yet does not
    take it. `stopped`: nor does who is in one of these strata. `attention`: somebody at the device is asked before it
    is installed; `optional`: and may decline. After `deadline_ms` windows and questions are over. `base_first`: nothing
    else is taken by devices that have yet to take this, though it be paused or not begun. Failures before the decision
    numbered `retried_at` are forgotten.
    """

    canaries: tuple[str, ...] = ()
    ramp: Ramp | None = None
    paused: bool = False
    stopped: tuple[Stratum, ...] = ()
    not_before_ms: int = 0
    deadline_ms: int | None = None
    windows: tuple[Window, ...] = ()
    attention: bool = False
    optional: bool = False
    base_first: bool = False
    retried_at: int = 0

    def __post_init__(self) -> None:
        check_few(self.canaries, "canaries", MAX_CANARIES)
        for group in self.canaries:
            check_id(group, "canaries")
        check_few(self.stopped, "stopped", MAX_STRATA)
        check_few(self.windows, "windows", MAX_WINDOWS)
        check_number(self.not_before_ms, "not_before_ms")
        check_number(self.retried_at, "retried_at")
        if self.deadline_ms is not None:
            check_number(self.deadline_ms, "deadline_ms", 1)
        if self.optional and not self.attention:
            raise MessageError("optional without attention: who may decline has to be asked")

    @property
    def for_all(self) -> bool:
        """Whether they keep nobody out, at any time."""
        return self.ramp is None and not self.paused and not self.stopped and self.not_before_ms == 0


@dataclass(frozen=True, slots=True)
class Openness:
    """Whether a window is open, and when that changes: None if never."""

    is_open: bool
    changes_at_ms: int | None


def openness(windows: tuple[Window, ...], timezone: str, now_ms: int) -> Openness:
    """Return whether one of the windows is open; without windows, always. An unknown `timezone` is taken as UTC."""
    if not windows:
        return Openness(is_open=True, changes_at_ms=None)
    zone = zone_of(timezone)
    today = datetime.fromtimestamp(now_ms / 1000, zone).date()
    around = [today + timedelta(days=ahead) for ahead in range(-2, 2 * WEEK_DAYS + 2)]
    spans = sorted(_span(window, day, zone) for window in windows for day in around if window.starts(day))
    spans = [(begins, ends) for begins, ends in spans if begins < ends]  # of some nothing is left when clocks change
    ends_at_ms = None
    for begins, ends in spans:
        if begins <= (now_ms if ends_at_ms is None else ends_at_ms) and ends > now_ms:
            ends_at_ms = ends if ends_at_ms is None else max(ends, ends_at_ms)
    if ends_at_ms is not None:
        return Openness(is_open=True, changes_at_ms=ends_at_ms)
    return Openness(is_open=False, changes_at_ms=next((begins for begins, _ in spans if begins > now_ms), None))


def zone_of(timezone: str) -> tzinfo:
    """Return a time zone of the IANA database; UTC for one that is not known here."""
    if timezone in _UTC_NAMES:
        return UTC
    try:
        return ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):  # the first is zoneinfo's own
        return UTC


def _span(window: Window, day: date, zone: tzinfo) -> tuple[int, int]:
    midnight = datetime.combine(day, time())
    begins = midnight + timedelta(minutes=window.start_minute)
    ends = begins + timedelta(minutes=window.duration_minutes)
    first, last = (round(moment.replace(tzinfo=zone).timestamp() * 1000) for moment in (begins, ends))
    return first, last
