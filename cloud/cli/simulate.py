"""`fleetlift simulate`: what a plan would do with a bad release, and how long a good one would take."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from cloud.cli.client import Json
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.plan_options import plan_of, plan_options
from cloud.cli.render import Column, Output, plural
from cloud.guard.policy import Policy
from cloud.simulation.availability import parse_availability
from cloud.simulation.cohorts import Conduct
from cloud.simulation.drawing import COVERAGE, HARM, draw, until_of
from cloud.simulation.durations import parse_duration, parse_share, spoken
from cloud.simulation.fleets import MAX_DEVICES, Fleet, make_fleet
from cloud.simulation.many import rehearse_all
from cloud.simulation.rehearsal import START_MS, Script
from cloud.simulation.results import MILESTONES, Run, Spread, reached
from cloud.simulation.terminal import plot
from cloud.simulation.troubles import Troubles, check_strata, parse_fails
from protocol.codec import structure
from protocol.errors import UserError

MAX_RUNS: Final = 1000
TICK_S: Final = 30.0
"""How finely time is cut: as often as the guard looks."""
MAX_HAPPENINGS: Final = 8
PLOT_WIDTH: Final = 92
"""How wide plots are on a terminal that is wide enough."""


def fleet_options(function: Any) -> Any:
    """Add the options that make up a fleet, and what a release does to it."""
    options = (
        click.option("--devices", type=click.IntRange(1, MAX_DEVICES), default=10_000, show_default=True, metavar="N"),
        click.option("--hardware", multiple=True, metavar="MODEL=SHARE", help="As pi3=25%; the last takes the rest."),
        click.option("--from", "versions", multiple=True, metavar="VERSION=SHARE", help="What they run; as 1.0.0=80%."),
        click.option("--group", "groups", multiple=True, metavar="GROUP=SHARE", help="For phases by group; pilot=1%."),
        click.option(
            "--fails",
            multiple=True,
            metavar="[MODEL][@VERSION=]SHARE",
            help="How many devices a bad release fails on: 15%; and of a stratum: pi3=40%, @1.0.0=60%, pi3@1.0.0=90%.",
        ),
        click.option("--fails-after", default="0", metavar="TIME", help="On average, after they kept it: 2h."),
        click.option("--silent", default="0%", metavar="SHARE", help="How many are never heard again after a bad one."),
        click.option(
            "--availability",
            default="always",
            show_default=True,
            metavar="WHEN",
            help="always, daily, daily:10h, or intermittent:2h/22h (means of on and off).",
        ),
        click.option(
            "--never", default="0%", metavar="SHARE", help="How many never come back, whatever they are told."
        ),
        click.option("--work", default="5m", show_default=True, metavar="TIME", help="Download and installation."),
        click.option("--proof", default="1m", show_default=True, metavar="TIME", help="From the restart to its proof."),
        click.option("--timezone", default="", metavar="ZONE", help="The devices', for windows; as Europe/Lisbon."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(
    "simulate",
    cls=Command,
    examples=(
        "fleetlift simulate --devices 100000 --fails 15% --phase 1%:1h --phase 10%:4h --max-failures 5",
        "fleetlift simulate --devices 5000 --availability daily:10h --ramp 8h --plot rehearsal.svg",
    ),
)
@fleet_options
@plan_options
@click.option("--runs", type=click.IntRange(1, MAX_RUNS), default=20, show_default=True, metavar="N")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, metavar="N", help="Of the first run.")
@click.option("--until", default="60d", show_default=True, metavar="TIME", help="When a run is over in any case.")
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw coverage and harm over time into an SVG file.",
)
@pass_operator
def simulate(operator: Operator, *, runs: int, seed: int, until: str, picture: Path | None, **said: Any) -> int:
    """Rehearse a plan on a fleet that is made up: no server, no network, nothing is changed.

    Answers how many devices a bad release (--fails, --silent) would break before the plan stopped it, and how long a
    good one would take. The plan is given as to `fleetlift release push`. The same seed gives the same answer.
    """
    output = operator.output
    script, said_of_fleet = _script(said, until)
    good = replace(script, troubles=Troubles(), conduct=replace(script.conduct, silent=0.0))
    answers: dict[str, tuple[Run, ...]] = {}
    total = runs * (2 if script.troubles.any else 1)
    with output.counting("rehearsals", total) as done:
        if script.troubles.any:
            answers["bad"] = rehearse_all(script, seed, runs, done)
        answers["good"] = rehearse_all(good, seed, runs, done)
    if picture is not None:
        _draw(picture, next(iter(answers.values())), said_of_fleet, output)
    if output.for_program:
        output.document(
            {name: _document(some) for name, some in answers.items()} | {"fleet": said_of_fleet}, names=answers
        )
        return 0
    _tell(output, answers, said_of_fleet)
    return 0


def _script(said: dict[str, Any], until: str) -> tuple[Script, str]:
    fleet = make_fleet(
        said.pop("devices"),
        hardware=_shares(said.pop("hardware"), "MODEL") or {"any": 1.0},
        versions=_shares(said.pop("versions"), "VERSION") or {"1.0.0": 1.0},
        groups=_shares(said.pop("groups"), "GROUP"),
    )
    fails, strata = parse_fails(said.pop("fails"))
    check_strata(strata, list(fleet.counts))
    after_s, silent = parse_duration(said.pop("fails_after")), parse_share(said.pop("silent"))
    availability, never = said.pop("availability"), parse_share(said.pop("never"))
    conduct = Conduct(
        availability=parse_availability(availability),
        never=never,
        work_s=parse_duration(said.pop("work")),
        proof_s=parse_duration(said.pop("proof")),
        fails_after_s=after_s,
        silent=silent,
        tick_s=TICK_S,
    )
    script = Script(
        fleet=fleet,
        conduct=conduct,
        troubles=Troubles(fails=fails, fails_of=strata, silent=silent),
        timezone=said.pop("timezone"),
        policy=_policy(said, fleet),
        until_s=parse_duration(until),
    )
    there = availability if availability == "always" else f"{availability}, each at hours of its own"
    return script, f"{plural(fleet.devices, 'device')}, {there}" + (f", {never:.2%} never back" if never else "")


def _shares(texts: Sequence[str], what: str) -> dict[str, float]:
    shares = {}
    for text in texts:
        name, equals, share = text.partition("=")
        if not equals:
            raise UserError(f"{text!r:.80} is not {what}=SHARE, as in {what.lower()}=25%. Nothing was simulated.")
        shares[name] = parse_share(share)
    return shares


def _policy(said: dict[str, Any], fleet: Fleet) -> Policy:
    """Return the plan that the options say; raises UserError for a phase of a group that nobody is in."""
    planned = plan_of(said, 100, datetime.fromtimestamp(START_MS / 1000, UTC))
    policy = structure({**planned.get("plan", {}), "terms": planned.get("terms", {})}, Policy)
    there = {group for kind in fleet.counts for group in kind.groups}
    for phase in policy.phases:
        if phase.group is not None and phase.group not in there:
            raise UserError(
                f"no device of this fleet is in group {phase.group}: say how many are, with "
                f"--group {phase.group}=SHARE. Nothing was simulated."
            )
    return policy


def _draw(picture: Path, runs: Sequence[Run], fleet: str, output: Output) -> None:
    try:
        picture.write_text(draw(runs, "A release, rehearsed", f"{fleet}; median and 5 to 95 % of {len(runs)} runs"))
    except OSError as error:
        raise UserError(f"{picture} cannot be written: {error.strerror}. Nothing was drawn.") from None
    output.warn(f"drew {picture}")


# The answer


def _tell(output: Output, answers: Mapping[str, Sequence[Run]], fleet: str) -> None:
    output.say(fleet)
    for name, runs in answers.items():
        output.say("")
        output.say(f"{'A BAD RELEASE' if name == 'bad' else 'A GOOD ONE'}, {plural(len(runs), 'run')}")
        output.rows(_rows(name, runs), _COLUMNS, nothing="")
        for happening in runs[0].happenings[-MAX_HAPPENINGS:]:
            output.say(f"  {spoken(happening.at_s)}  {happening.sentence}")
        until_s = until_of(runs)
        for curve in (COVERAGE[1], *(HARM if name == "bad" else ())):
            if any(curve.value(run.last) for run in runs):
                output.say("")
                output.say(f"{'':>13}{curve.name}")
                for line in plot(runs, curve, width=PLOT_WIDTH, until_s=until_s):
                    output.say(line)


_COLUMNS: Final = (
    Column("", "what"),
    Column("mean", "mean", "right"),
    Column("5 %", "low", "right"),
    Column("95 %", "high", "right"),
    Column("runs", "runs", "right"),
)


def _rows(name: str, runs: Sequence[Run]) -> list[Json]:
    rows = []
    if name == "bad":
        rows.append(_row("broken when it was stopped, or over", Spread.of([run.broken_at_end for run in runs]), runs))
        rows.append(_row("broken in the end, with those on their way", Spread.of([run.broken for run in runs]), runs))
        rows.append(_share("which is, of the fleet", Spread.of([run.broken / run.devices for run in runs]), runs))
        rows.append(_row("ran it in the end", Spread.of([run.last.running for run in runs]), runs))
    stopped = [run.ended_at_s for run in runs if run.stopped and run.ended_at_s is not None]
    if stopped:
        rows.append(_timed("stopped after", Spread.of(stopped), len(stopped)))
    completed = [run.ended_at_s for run in runs if run.ended == "completed" and run.ended_at_s is not None]
    if completed:
        rows.append(_timed("its plan was completed after", Spread.of(completed), len(completed)))
    if still := sum(run.ended == "still_open" for run in runs):
        rows.append({"what": "its plan was not completed in the time", "runs": still})
    if strata := sum(bool(run.stopped_for) for run in runs):
        rows.append({"what": "stopped for some devices only", "runs": strata})
    if name == "good":
        for percent in MILESTONES:
            spread, count = reached(runs, percent)
            what = f"{percent} % of the fleet run it after"
            rows.append({"what": what, "runs": 0} if spread is None else _timed(what, spread, count))
    return rows


def _row(what: str, spread: Spread, runs: Sequence[Run]) -> Json:
    numbers = {"mean": f"{spread.mean:,.1f}", "low": f"{spread.low:,.0f}", "high": f"{spread.high:,.0f}"}
    return {"what": what, **numbers, "runs": len(runs)}


def _share(what: str, spread: Spread, runs: Sequence[Run]) -> Json:
    numbers = {"mean": f"{spread.mean:.2%}", "low": f"{spread.low:.2%}", "high": f"{spread.high:.2%}"}
    return {"what": what, **numbers, "runs": len(runs)}


def _timed(what: str, spread: Spread, count: int) -> Json:
    numbers = {"mean": spoken(spread.mean), "low": spoken(spread.low), "high": spoken(spread.high)}
    return {"what": what, **numbers, "runs": count}


def _document(runs: Sequence[Run]) -> Json:
    return {
        "runs": len(runs),
        "ended": {how: sum(run.ended == how for run in runs) for how in sorted({run.ended for run in runs})},
        "stopped_for_some": sum(bool(run.stopped_for) for run in runs),
        "broken_when_ended": _spread([run.broken_at_end for run in runs]),
        "broken": _spread([run.broken for run in runs]),
        "running": _spread([run.last.running for run in runs]),
        "ended_after_s": _spread([run.ended_at_s for run in runs if run.ended_at_s is not None]),
        "reached_s": {str(percent): _spread(_times(runs, percent)) for percent in MILESTONES},
        "course": [{"at_s": it.at_s, "what": it.sentence} for it in runs[0].happenings],
    }


def _times(runs: Sequence[Run], percent: int) -> list[float]:
    return [at_s for run in runs if (at_s := run.reached_s(percent)) is not None]


def _spread(numbers: Sequence[float]) -> Json | None:
    if not numbers:
        return None
    spread = Spread.of(numbers)
    return {"mean": spread.mean, "low": spread.low, "high": spread.high, "runs": len(numbers)}
