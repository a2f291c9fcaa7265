"""Options that give a release a plan and terms, and the file that may hold them."""

import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from cloud import plan_words as words
from cloud.cli.client import Json
from cloud.guard.planning import growth_s
from cloud.guard.policy import Phase, Policy
from protocol.codec import structure
from protocol.errors import UserError

F = TypeVar("F", bound=Callable[..., object])
LISTS: Final = ("phase", "window", "gate")
KEYS: Final = (*words.PLANNED, *words.CONDITIONS)
_COUNT: Final = click.IntRange(min=0)


def plan_options(function: F) -> F:
    """Add the options of a plan; they come as keyword arguments named in KEYS, and `plan_file`."""
    options = [
        click.option("--phase", multiple=True, metavar="5%:30m|GROUP:1h", help="Who is next, and their soak; repeat."),
        click.option("--ramp", metavar="4h[:1h]", help="Coverage grows to all in this time (and soaks)."),
        click.option(
            "--pace",
            metavar="500/h",
            help="So many devices more in an hour, on average: a lottery, so 500 are 500 give or take 22.",
        ),
        click.option("--hold-back", metavar="5%", help="Devices that come after the last soak: those to compare with."),
        click.option(
            "--gate", multiple=True, metavar="GATE", help="failures:2%/20%, silence:30m, crashes<=2, NAME>=N."
        ),
        click.option("--on-gate", type=click.Choice(["pause", "roll-back"]), help="What gates do (default: pause)."),
        click.option("--max-failures", type=_COUNT, metavar="N", help="One failure more stops it."),
        click.option("--max-quiet", type=_COUNT, metavar="N", help="One more that took it and is quiet stops it."),
        click.option("--approvals", type=_COUNT, metavar="N", help="So many others have to approve it first."),
        click.option("--not-before", metavar="TIME", help="2030-01-31T02:00Z, or from now: 2h."),
        click.option("--deadline", metavar="TIME", help="After it windows and questions are over."),
        click.option("--window", multiple=True, metavar="'mon-fri 02:00-04:00'", help="In the device's time; repeat."),
        click.option("--attention", is_flag=True, default=None, help="Ask somebody at the device first."),
        click.option("--optional", is_flag=True, default=None, help="Who is asked may decline (with --attention)."),
        click.option("--base-first", is_flag=True, default=None, help="Devices take nothing else before this."),
        click.option("--plan-file", type=click.Path(path_type=Path, dir_okay=False), help="These options, in TOML."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def plan_of(said: Mapping[str, Any], percentage: int, now: datetime | None = None) -> Json:
    """Return `plan` and `terms` of a request, each where something was said of it; raises UserError."""
    given = _from_file(said["plan_file"]) if said.get("plan_file") else {}
    given |= {name: said[name] for name in KEYS if said.get(name) not in (None, ())}
    return words.plan_of(given, percentage, now)


def describe(planned: Json) -> list[str]:
    """Return lines that say a plan to people, before it is decided."""
    plan = planned.get("plan")
    if plan is None:
        return []
    policy = structure(plan, Policy)
    lines = [f"  {number}. {_phase_words(phase)}" for number, phase in enumerate(policy.phases, start=1)]
    if policy.pace_per_hour:
        lines.append(f"  {policy.pace_per_hour} devices more in an hour, on average")
    if policy.hold_back:
        lines.append(f"  {policy.hold_back} % are held back until the last soak is over")
    if policy.approvals:
        lines.append(f"  waits for {policy.approvals} approval{'s' if policy.approvals > 1 else ''} of others")
    return ["By a plan:", *lines]


def warnings(planned: Json, devices: int) -> list[str]:
    """Return a sentence for each phase of a plan for a group of so many devices in which silence cannot be told."""
    plan = planned.get("plan")
    if plan is None:
        return []
    policy = structure(plan, Policy)
    gate = policy.gates.silence
    if gate is None:
        return []
    lasting = [growth_s(policy, index, devices) + phase.soak_s for index, phase in enumerate(policy.phases)]
    return [
        f"The silence gate cannot speak in phase {number} ({phase}): it may be over after {_time(lasts_s)}, and a "
        f"device counts as quiet after {_time(gate.quiet_after_s)}."
        for number, (phase, lasts_s) in enumerate(zip(policy.phases, lasting, strict=True), start=1)
        if lasts_s < gate.quiet_after_s
    ]


def _phase_words(phase: Phase) -> str:
    grows = f", grows for {_time(phase.ramp_s)}" if phase.ramp_s else ""
    return f"{phase}{grows}, soaks for {_time(phase.soak_s)}"


def _time(seconds: int) -> str:
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds and seconds % unit == 0:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def _from_file(path: Path) -> Json:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Nothing was changed.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}. Nothing was changed.") from None
    for name, value in found.items():
        many = name in LISTS
        if name not in KEYS:
            raise UserError(f"{path}: {name!r} is not among {', '.join(KEYS)}. Nothing was changed.")
        if many != isinstance(value, list) or isinstance(value, dict):
            raise UserError(f"{path}: {name} is {'a list' if many else 'one value'}. Nothing was changed.")
        if name in ("max_failures", "max_quiet", "approvals") and (type(value) is not int or value < 0):
            raise UserError(f"{path}: {name} is a number from 0. Nothing was changed.")
    return found
