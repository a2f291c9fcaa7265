"""The fields of the form that makes a release, and what they say: the request, and the command line that says the same.

A plan is written in the words of the command line, so both mean the same and are refused in the same sentences.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cloud.console.forms import Form, RefusedError
from cloud.console.lines import line, where
from cloud.plan_words import plan_of
from cloud.values import MAX_PERCENTAGE, ChannelKey, FirmwareView, ProductView, ReleaseView
from protocol.values import MAX_TEXT

ROWS: Final = 6
"""Phases that the form has room for."""
BY_PLAN: Final = "plan"
_START: Final = (("percentage", "5", "30m"), ("percentage", "25", "1h"), ("percentage", "100", "1h"))
_SWITCHES: Final = ("attention", "optional", "base_first")
_OPTIONS: Final = {
    "phase": "--phase",
    "ramp": "--ramp",
    "pace": "--pace",
    "hold_back": "--hold-back",
    "gate": "--gate",
    "on_gate": "--on-gate",
    "max_failures": "--max-failures",
    "max_quiet": "--max-quiet",
    "approvals": "--approvals",
    "window": "--window",
    "not_before": "--not-before",
    "deadline": "--deadline",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a form asks for: the request's body, and the options of the command line that ask for the same."""

    body: Mapping[str, Any]
    options: tuple[str, ...]

    def line(self, command: str, *more: str) -> str:
        """Return `fleetlift release push` or `plan` with these options."""
        return line("release", command, self.body["version"], *self.options, *more)


def defaults(
    version: str, firmware: FirmwareView | None, live: ReleaseView | None, product: ProductView
) -> dict[str, str]:
    """Return what the form begins with: as the Live release is, with the firmware's own notes."""
    typed = {
        "version": version,
        "description": (firmware.notes if firmware else "")[:MAX_TEXT],
        "urgency": "gradual",
        "mandatory": "yes" if live and live.mandatory else "",
        "target_range": live.target_range if live else "*",
        "by": "percentage",
        "percentage": str(MAX_PERCENTAGE),
        "tolerable": "2",
        "intolerable": "20",
        "silence": "yes",
        "quiet_after": "1h",
        "on_gate": "pause",
        "hold_back": "0",
        "approvals": str(product.approvals),
    }
    for number, (who, share, soak) in enumerate(_START):
        typed |= {f"who{number}": who, f"share{number}": share, f"soak{number}": soak}
    return typed


def read(key: ChannelKey, form: Form) -> Asked:
    """Return what a form says; raises RefusedError or UserError."""
    by_plan = form.text("by") == BY_PLAN
    percentage = MAX_PERCENTAGE if by_plan else form.number("percentage", MAX_PERCENTAGE)
    said = (_plan(form) if by_plan else {}) | _conditions(form)
    body: dict[str, Any] = {
        "product": key.product,
        "group": key.group,
        "component": key.component,
        "version": form.text("version"),
        "percentage": percentage,
        "mandatory": form.ticked("mandatory"),
        "forced": form.ticked("forced"),
        "urgency": form.text("urgency", "gradual"),
        "target_range": form.text("target_range") or "*",
        "description": form.text("description"),
    }
    return Asked(body=body | plan_of(said, MAX_PERCENTAGE), options=_options(key, body, said))


def _plan(form: Form) -> dict[str, Any]:
    said: dict[str, Any] = {"phase": _phases(form)}
    for name, word in (("ramp", "{}"), ("pace", "{}/h"), ("hold_back", "{}%")):
        text = form.text(name)
        if text and text != "0":
            said[name] = word.format(text.removesuffix("%") if name == "hold_back" else text)
    if "ramp" in said and form.text("ramp_soak"):
        said["ramp"] += f":{form.text('ramp_soak')}"
    if not said["phase"] and "ramp" not in said:
        raise RefusedError("A plan has a phase at least: say who is first. Nothing was changed.")
    for name in ("max_failures", "max_quiet", "approvals"):
        number = form.number(name)
        if number:
            said[name] = number
        elif number == 0 and name != "approvals":
            said[name] = 0
    said["gate"] = _gates(form)
    said["on_gate"] = form.text("on_gate", "pause")
    return said


def _phases(form: Form) -> tuple[str, ...]:
    found = []
    for number in range(ROWS):
        who, soak = form.text(f"who{number}"), form.text(f"soak{number}") or "0"
        if who == "percentage":
            share = form.text(f"share{number}").removesuffix("%").strip()
            if not share:
                raise RefusedError(
                    f"Phase {number + 1} says no percentage. Nothing was changed; give one, or leave it."
                )
            found.append(f"{share}%:{soak}")
        elif who:
            found.append(f"{who}:{soak}")
    return tuple(found)


def _gates(form: Form) -> tuple[str, ...]:
    rates = form.text("tolerable", "2"), form.text("intolerable", "20")
    tolerable, intolerable = (it.removesuffix("%").strip() or "0" for it in rates)
    if _is_less(intolerable, tolerable):
        said = f"{tolerable:.20} % of failures are to be tolerable and {intolerable:.20} % not"
        raise RefusedError(f"{said}, which cannot be. Nothing was changed; make the second more than the first.")
    found = [f"failures:{tolerable}%/{intolerable}%"]
    quiet_after = form.text("quiet_after") or "1h"
    found.append(f"silence:{quiet_after}" if form.ticked("silence") else "silence:off")
    return (*found, *_lines(form, "health"))


def _is_less(one: str, other: str) -> bool:
    try:
        return float(one) <= float(other)
    except ValueError:  # which whoever reads the gate says better
        return False


def _conditions(form: Form) -> dict[str, Any]:
    said: dict[str, Any] = {"window": _lines(form, "window")}
    for name in ("not_before", "deadline"):
        if text := form.text(name):
            said[name] = _moment(name, text, form.text("zone") or "UTC")
    return said | {name: True for name in _SWITCHES if form.ticked(name)}


def _moment(name: str, text: str, zone: str) -> str:
    """Return a time as a browser writes it, with the offset of its zone."""
    try:
        where_it_is = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise RefusedError(f"{zone:.60} is not a time zone, as Europe/Berlin is one. Nothing was changed.") from None
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            found = found.replace(tzinfo=where_it_is)
        return found.isoformat(timespec="minutes")
    except (ValueError, OverflowError):
        what = name.replace("_", " ").capitalize()
        raise RefusedError(
            f"{what}: {text:.60} is not a time, as 2030-01-31T02:00 is one. Nothing was changed."
        ) from None


def _lines(form: Form, name: str) -> tuple[str, ...]:
    return tuple(it for it in (text.strip() for text in form.text(name).splitlines()) if it)


def _options(key: ChannelKey, body: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[str, ...]:
    options = [*where(key)]
    if body["percentage"] != MAX_PERCENTAGE:
        options += ["--percentage", str(body["percentage"])]
    options += [option for name, option in (("mandatory", "--mandatory"), ("forced", "--force")) if body[name]]
    if body["urgency"] == "immediate":
        options.append("--immediate")
    if body["target_range"] != "*":
        options += ["--range", body["target_range"]]
    if body["description"]:
        options += ["--description", body["description"]]
    for name, option in _OPTIONS.items():
        value = said.get(name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        for it in values:
            options += [option, str(it)]
    return (*options, *(f"--{name.replace('_', '-')}" for name in _SWITCHES if said.get(name)))
