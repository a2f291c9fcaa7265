"""Plans as stories write them: `phases 10%/30m 50%~2h/1h 100% max-failures 2 then roll_back`, words to a policy.

A phase is its share (or its group), how long coverage grows (`~2h`) and how long it soaks (`/30m`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from cloud.guard.policy import FailureGate, Gates, HealthGate, Phase, Policy, Response, SilenceGate
from protocol.schedule import Terms, Window

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DAYS = {name: number for number, name in enumerate(("mon", "tue", "wed", "thu", "fri", "sat", "sun"))}


def seconds(text: str) -> int:
    """Return the seconds that `90s`, `1h30m` or `2d` are."""
    parts = re.findall(r"(\d+)([smhd])", text)
    assert "".join(number + unit for number, unit in parts) == text, text
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def phase(text: str) -> Phase:
    share, _, soak = text.partition("/")
    share, _, ramp = share.partition("~")
    soak_s, ramp_s = (seconds(part) if part else 0 for part in (soak, ramp))
    if share.endswith("%"):
        return Phase(percentage=int(share[:-1]), soak_s=soak_s, ramp_s=ramp_s)
    return Phase(group=share, soak_s=soak_s)


def window(text: str) -> Window:
    """Return the window that `22:00-04:00` or `sat,sun@22:00-04:00` is."""
    days, _, hours = text.rpartition("@")
    start, end = ((int(it[:2]) * 60 + int(it[3:])) for it in hours.split("-"))
    return Window(
        start_minute=start,
        duration_minutes=(end - start) % 1440 or 1440,
        days=tuple(_DAYS[day] for day in days.split(",") if day),
    )


class Words:
    """The words of a line, taken from the front or by name."""

    def __init__(self, words: list[str]) -> None:
        self.left = list(words)

    def flag(self, name: str) -> bool:
        there = name in self.left
        if there:
            self.left.remove(name)
        return there

    def after(self, name: str) -> str | None:
        """Take a name and the word after it."""
        if name not in self.left:
            return None
        index = self.left.index(name)
        _, value = self.left[index], self.left[index + 1]
        del self.left[index : index + 2]
        return value

    def number(self, name: str) -> int | None:
        value = self.after(name)
        return None if value is None else int(value.rstrip("%"))

    def run_after(self, name: str) -> list[str]:
        """Take a name and all words after it that begin with a digit or stand for a group with a soak."""
        if name not in self.left:
            return []
        index = self.left.index(name)
        end = index + 1
        while end < len(self.left) and ("%" in self.left[end] or "/" in self.left[end]):
            end += 1
        taken = self.left[index + 1 : end]
        del self.left[index:end]
        return taken


def terms_of(words: Words, start_ms: int) -> Terms:
    windows = tuple(window(it) for it in iter(lambda: words.after("window"), None))
    not_before, deadline = words.after("not-before"), words.after("deadline")
    return Terms(
        windows=windows,
        not_before_ms=start_ms + 1000 * seconds(not_before) if not_before else 0,
        deadline_ms=start_ms + 1000 * seconds(deadline) if deadline else None,
        attention=words.flag("attention"),
        optional=words.flag("optional"),
        base_first=words.flag("base-first"),
    )


def policy_of(words: Words, terms: Terms) -> Policy | None:
    """Return the plan that a line gives, or None for a plain release."""
    phases = tuple(phase(it) for it in words.run_after("phases"))
    if not phases:
        return None
    then = Response(words.after("then") or "pause")
    failures = FailureGate(max_failures=words.number("max-failures"), then=then)
    quiet_after, max_quiet = words.after("quiet-after"), words.number("max-quiet")
    silence = SilenceGate(quiet_after_s=seconds(quiet_after or "1h"), max_quiet=max_quiet, then=then)
    settings: dict[str, Any] = {
        "hold_back": words.number("hold-back"),
        "approvals": words.number("approvals"),
        "pace_per_hour": words.number("pace"),
        "min_succeeded": words.number("min-succeeded"),
    }
    policy = Policy(
        phases=phases,
        gates=Gates(failures=failures, silence=silence, health=tuple(_health(words, then))),
        terms=terms,
    )
    return replace(policy, **{name: value for name, value in settings.items() if value is not None})


def _health(words: Words, then: Response) -> list[HealthGate]:
    gates = []
    if (most := words.number("max-crashes")) is not None:
        gates.append(HealthGate(at_most=most, then=then))
    if (bound := words.after("gauge")) is not None:
        name, _, most_text = bound.partition("<=")
        gates.append(HealthGate(gauge=name, at_most=int(most_text), then=then))
    return gates
