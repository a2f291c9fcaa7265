"""What operators write of a plan: phases, gates, paces, windows and times, and the values that they stand for."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cloud.guard.policy import Policy
from protocol.codec import structure
from protocol.errors import ProtocolError, UserError
from protocol.schedule import DAY_MINUTES, Terms

Json = dict[str, Any]
PLANNED: Final = ("phase", "ramp", "pace", "hold_back", "gate", "on_gate", "max_failures", "max_quiet", "approvals")
"""What makes a plan of a release."""
CONDITIONS: Final = ("window", "not_before", "deadline", "attention", "optional", "base_first")
"""What is said of a release beside its plan."""

_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw]?)")
_PHASE = re.compile(r"(?:(?P<percent>[0-9]{1,3})\s*%|(?P<group>[a-z0-9-]{1,64}))(?::(?P<soak>[^:]+))?")
_PACE = re.compile(r"([1-9][0-9]{0,8})\s*/\s*h")
_RATES = r"(?::(?P<tolerable>[0-9.]{1,6})%/(?P<intolerable>[0-9.]{1,6})%)?"
_HEALTH = re.compile(rf"(?P<gauge>[a-z0-9-]{{1,64}})(?P<sign><=|>=)(?P<bound>-?[0-9]{{1,15}}){_RATES}")
_FAILURES = re.compile(rf"failures{_RATES}")
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(?:(?P<days>[a-z,-]+)\s+)?(?P<from>[0-9]{1,2}:[0-9]{2})-(?P<to>[0-9]{1,2}:[0-9]{2})")
CRASHES: Final = "crashes"


def plan_of(said: Mapping[str, Any], percentage: int, now: datetime | None = None) -> Json:
    """Return `plan` and `terms` of a request, each where something was said of it; raises UserError.

    `said` maps the names of PLANNED and CONDITIONS to the words of operators.
    """
    given = {name: said[name] for name in (*PLANNED, *CONDITIONS) if said.get(name) not in (None, ())}
    plan, terms = _plan(given), _terms(given, now or datetime.now(UTC))
    if plan is not None and percentage != 100:
        raise UserError("a plan sets the percentage by its phases. Nothing was changed; leave --percentage out.")
    try:
        checked = structure(terms, Terms)
        if plan is not None:
            structure(plan, Policy)
    except ProtocolError as error:
        words = str(error).partition(": ")[2].removesuffix(" @ $") or str(error)
        raise UserError(f"{words}. Nothing was changed.") from None
    del checked
    return ({"plan": plan} if plan is not None else {}) | ({"terms": terms} if terms else {})


def duration_s(text: str) -> int:
    """Return the seconds of `90s`, `30m`, `4h`, `7d`; raises UserError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise _wrong("a time is a number and s, m, h, d or w, as in 30m", text)
    return int(found[1]) * _SECONDS[found[2]]


def phase(text: str) -> Json:
    """Return the phase of `5%:30m` or `pilot:1h`; raises UserError."""
    found = _PHASE.fullmatch(text.strip())
    if found is None:
        raise _wrong("a phase is a percentage or a group, and how long it soaks, as in 5%:30m or pilot:1h", text)
    covers = {"percentage": int(found["percent"])} if found["percent"] else {"group": found["group"]}
    return covers | {"soak_s": duration_s(found["soak"] or "0")}


def ramp(text: str) -> Json:
    """Return the phase of `4h` or `4h:1h`: coverage that grows to all for four hours, and soaks for one."""
    grows, _, soaks = text.partition(":")
    return {"percentage": 100, "ramp_s": duration_s(grows), "soak_s": duration_s(soaks or "0")}


def pace(text: str) -> int:
    """Return the devices in an hour of `500/h`; raises UserError."""
    found = _PACE.fullmatch(text.strip())
    if found is None:
        raise _wrong("a pace is a number of devices in an hour, as in 500/h", text)
    return int(found[1])


def percent(text: str) -> int:
    """Return the number of `5%` or `5`; raises UserError."""
    number = str(text).removesuffix("%").strip()
    if not (number.isascii() and number.isdecimal() and len(number) <= 3):
        raise _wrong("a percentage is a whole number, as in 5%", str(text))
    return int(number)


def gates(texts: list[str], *, then: str | None, max_failures: int | None, max_quiet: int | None) -> Json:
    """Return the gates of words such as `failures:2%/20%`, `silence:30m`, `silence:off`, `temperature<=80:2%/20%`."""
    act: Json = {"then": then.replace("-", "_")} if then else {}
    failures: Json = act | ({} if max_failures is None else {"max_failures": max_failures})
    silence: Json | None = act | ({} if max_quiet is None else {"max_quiet": max_quiet})
    health: list[Json] = []
    for text in texts:
        word = "".join(text.split())
        if found := _FAILURES.fullmatch(word):
            failures |= _rates(found)
        elif word == "silence:off":
            silence = None
        elif word.startswith("silence:"):
            silence = (silence or act) | {"quiet_after_s": duration_s(word.partition(":")[2])}
        elif found := _HEALTH.fullmatch(word):
            name = "" if found["gauge"] == CRASHES else found["gauge"]
            bound = {"at_most" if found["sign"] == "<=" else "at_least": int(found["bound"])}
            health.append(act | {"gauge": name} | bound | _rates(found))
        else:
            raise _wrong(
                "a gate is failures:2%/20% (tolerable/intolerable), silence:30m, silence:off, crashes<=2, or a gauge "
                "with its bound, as in temperature<=80:2%/20%",
                text,
            )
    return {"failures": failures, "health": health, "silence": silence}


def window(text: str) -> Json:
    """Return the maintenance window of `mon-fri 02:00-04:00` or `22:00-02:00`; raises UserError."""
    found = _WINDOW.fullmatch(text.strip().lower())
    if found is None:
        raise _wrong("a window is days, if not all, and two times of a day, as in 'mon-fri 02:00-04:00'", text)
    begins, ends = _minute(found["from"], text), _minute(found["to"], text)
    days = sorted({day for part in (found["days"] or "").split(",") if part for day in _day_range(part, text)})
    length = (ends - begins) % DAY_MINUTES or DAY_MINUTES
    return {"start_minute": begins % DAY_MINUTES, "duration_minutes": length} | ({"days": days} if days else {})


def moment_ms(text: str, now: datetime) -> int:
    """Return the milliseconds of a time such as `2030-01-31T02:00Z`, or of a time from now such as `2h`."""
    if _DURATION.fullmatch(text.strip()):
        return round((now + timedelta(seconds=duration_s(text))).timestamp() * 1000)
    try:
        found = datetime.fromisoformat(text.strip())
        if found.tzinfo is None:
            raise _wrong("a time says its zone, as in 2030-01-31T02:00Z or 2030-01-31T02:00+01:00", text)
        return round(found.astimezone(UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise _wrong("a time is written as 2030-01-31T02:00Z, or as 2h from now", text) from None


def _plan(given: Json) -> Json | None:
    if not any(name in given for name in PLANNED):
        return None
    phases = [phase(str(text)) for text in given.get("phase", ())]
    if "ramp" in given:
        phases.append(ramp(str(given["ramp"])))
    plan: Json = {"phases": phases or [{"percentage": 100}]}
    if "pace" in given:
        plan["pace_per_hour"] = pace(str(given["pace"]))
    if "hold_back" in given:
        plan["hold_back"] = percent(str(given["hold_back"]))
    if "approvals" in given:
        plan["approvals"] = given["approvals"]
    plan["gates"] = gates(
        [str(text) for text in given.get("gate", ())],
        then=given.get("on_gate"),
        max_failures=given.get("max_failures"),
        max_quiet=given.get("max_quiet"),
    )
    return plan


def _terms(given: Json, now: datetime) -> Json:
    terms: Json = {}
    if "window" in given:
        terms["windows"] = [window(str(text)) for text in given["window"]]
    for name in ("not_before", "deadline"):
        if name in given:
            terms[f"{name}_ms"] = moment_ms(str(given[name]), now)
    for name in ("attention", "optional", "base_first"):
        if given.get(name):
            terms[name] = True
    return terms


def _rates(found: re.Match[str]) -> Json:
    if found["tolerable"] is None:
        return {}
    try:
        return {f"{name}_permille": round(float(found[name]) * 10) for name in ("tolerable", "intolerable")}
    except ValueError:
        raise _wrong("rates are two percentages, as in 2%/20%", found[0]) from None


def _minute(text: str, whole: str) -> int:
    hour, _, minute = text.partition(":")
    if int(hour) > 24 or int(minute) > 59 or (int(hour) == 24 and int(minute)):
        raise _wrong("times of a day are 00:00 to 24:00", whole)
    return int(hour) * 60 + int(minute)


def _day_range(text: str, whole: str) -> list[int]:
    first, _, last = text.partition("-")
    if first not in _DAYS or (last or first) not in _DAYS:
        raise _wrong(f"days are {', '.join(_DAYS)}, or a range of them", whole)
    begins, ends = _DAYS.index(first), _DAYS.index(last or first)
    return [day % 7 for day in range(begins, (ends if ends >= begins else ends + 7) + 1)]


def _wrong(what: str, said: Any) -> UserError:
    return UserError(f"{what}, not {str(said)!r:.80}. Nothing was changed.")
