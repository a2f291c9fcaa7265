"""`fleetlift device import`: a fleet that another tool knew, from a file; nothing is flashed."""

from collections import Counter
from pathlib import Path
from typing import Final

import click

from cloud.cli.client import Json
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.fleet_files import Wrong, read_fleet, refusal
from cloud.cli.render import Column, plural, shown
from protocol.errors import UserError

AT_ONCE: Final = 200
"""Devices of one request, and of one transaction: other changes wait for so long."""
COLUMNS = (
    Column("new", "new", justify="right"),
    Column("changed", "changed", justify="right"),
    Column("as they were", "unchanged", justify="right"),
    Column("groups made", "groups_made"),
)


@click.command(
    "import",
    cls=Command,
    examples=(
        "fleetlift device import fleet.csv --dry-run",
        "fleetlift device import fleet.csv",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--product", metavar="P", help="The product of lines that name none (default: the context's).")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@pass_operator
def import_(operator: Operator, *, file: Path, product: str | None, dry_run: bool) -> None:
    """Make the devices of FILE known, with groups, attributes and installed versions.

    FILE is CSV with a head line (device_id,product,hardware_model,groups,attributes,installed) or one JSON object a
    line; docs/fleet-phases.md has examples. All of it is looked at first: if one line is wrong, nothing is changed.
    The same file again changes nothing. What a device says of itself goes before what a file says.
    """
    fleet = read_fleet(file, product or operator.context.product)
    batches = [fleet.devices[start : start + AT_ONCE] for start in range(0, len(fleet.devices), AT_ONCE)]
    wrong = list(fleet.wrong)
    looked: list[Json] = []
    with operator.output.counting("looked at", len(fleet.devices)) as count:
        for batch in batches:
            looked.append(operator.api.post("fleet", "import", body={"devices": batch, "dry_run": True}))
            wrong += [Wrong(item["line"], item["why"]) for item in looked[-1]["wrong"]]
            count(len(batch))
    if wrong:
        raise refusal(file, wrong)
    done = looked if dry_run else _import(operator, file, batches)
    _tell(operator, _total(done), dry_run=dry_run)


def _import(operator: Operator, file: Path, batches: list[tuple[Json, ...]]) -> list[Json]:
    done: list[Json] = []
    with operator.output.counting("imported", sum(map(len, batches))) as count:
        for batch in batches:
            answer = operator.api.post("fleet", "import", body={"devices": batch, "dry_run": False})
            if answer["wrong"]:  # the world changed between the look and the deed
                before = sum(it["new"] + it["changed"] + it["unchanged"] for it in done)
                why = "; ".join(f"line {it['line']}: {it['why']}" for it in answer["wrong"][:3])
                raise UserError(
                    f"{file}: somebody changed something meanwhile: {why}. {plural(before, 'device')} before that "
                    "are imported; correct the file and try again, which repeats nothing."
                )
            done.append(answer)
            count(len(batch))
    return done


def _total(answers: list[Json]) -> Json:
    counted: Json = {name: sum(it[name] for it in answers) for name in ("new", "changed", "unchanged")}
    return counted | {
        "groups_made": sorted({group for it in answers for group in it["groups_made"]}),
        "unknown_images": dict(sum((Counter(it["unknown_images"]) for it in answers), Counter[str]())),
    }


def _tell(operator: Operator, total: Json, *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    operator.output.say(
        f"{plural(total['new'], 'device')} {would}new, {total['changed']} {would}changed, "
        f"{total['unchanged']} as {'it was' if total['unchanged'] == 1 else 'they were'}."
        + (" Nothing was changed: it was a dry run." if dry_run else "")
    )
    for image, count in sorted(total["unknown_images"].items()):
        operator.output.warn(
            f"No firmware {shown(image)} is here: what {plural(count, 'device')} with it really "
            f"{'runs' if count == 1 else 'run'} is unknown until {'it says' if count == 1 else 'they say'} so."
        )
    operator.output.record(total, COLUMNS)
