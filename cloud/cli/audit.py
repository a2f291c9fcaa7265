"""`fleetlift audit`: the record of decisions, to read, to take along, and to check without the server."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from cloud.auditing import verify as verify_lines
from cloud.cli.client import FAILED, Json
from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.render import Column, Row, moment, plural
from protocol.errors import UserError

MAX_LINE: Final = 16 * 1024 * 1024


def _origin(row: Row) -> str:
    origin = row.get("origin") or {}
    return " ".join(str(origin[name]) for name in ("via", "token", "address") if origin.get(name))


COLUMNS: Final = (
    Column("no.", "number", justify="right"),
    Column("time", lambda row: moment(row["at_ms"])),
    Column("who", "actor"),
    Column("did", "action"),
    Column("to", "subject"),
    Column("from", _origin),
    Column("before", lambda row: _short(row["before"])),
    Column("after", lambda row: _short(row["after"])),
)


class Moment(click.ParamType[int]):
    """A day or a time in UTC: `2026-03-01`, `2026-03-01T12:30`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return milliseconds since 1970, or fail with a sentence."""
        try:
            at = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"a time is written as in 2026-03-01T12:30, not {value!r}. Nothing was changed.", param, ctx)
        return max(0, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))


@click.group(cls=Group)
def audit() -> None:
    """The record of decisions: who did what, when, from where; each row's hash covers the one before it."""


@audit.command(
    "list",
    examples=(
        "fleetlift audit list --actor alice --since 2030-01-31T00:00Z",
        "fleetlift audit list --action release.created -o json",
    ),
)
@click.option("--actor", metavar="NAME", help="Whose decisions.")
@click.option("--action", metavar="A", help="Of one kind, as in release.created.")
@click.option("--subject", metavar="S", help="About one thing, as in device/pi-1.")
@click.option("--prefix", metavar="S", help="About things that begin so, as in release/.")
@click.option("--since", "since_ms", type=Moment(), metavar="TIME", help="From then on, as in 2026-03-01T12:30 (UTC).")
@click.option("--until", "until_ms", type=Moment(), metavar="TIME", help="Before then.")
@click.option("--before", type=click.IntRange(min=1), metavar="N", help="Older than row N: the next page.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@pass_operator
def list_(operator: Operator, **query: object) -> None:
    """List decisions, the newest first."""
    rows = operator.api.get("audit", newest="true", **query)
    operator.output.rows(rows, COLUMNS, nothing="Nothing like that was decided.")


@audit.command("export", examples=("fleetlift audit export --to audit.jsonl",))
@click.option(
    "--to",
    "to_",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A file of one's own (default: standard output).",
)
@pass_operator
def export(operator: Operator, *, to_: Path | None) -> None:
    """Write every decision as JSON lines, for `audit verify`; and say the newest hash, to be kept elsewhere."""
    if to_ is not None and to_.exists():
        raise UserError(f"{to_} exists already. Nothing was written; name another file.", exit_code=5)
    rows, last = 0, ""
    with _target(to_) as file:
        for last in operator.api.lines("audit", "export"):
            file.write(f"{last}\n")
            rows += 1
    head = json.loads(last) if last else {"number": 0, "hash": "0" * 64}
    operator.output.warn(f"{plural(rows, 'row')}. The newest hash, to be kept elsewhere: {head['hash']}")
    if operator.output.for_program and to_ is not None:
        document = {"rows": rows, "number": head["number"], "hash": head["hash"], "file": str(to_)}
        operator.output.document(document, names=[to_])


@audit.command(
    "verify",
    examples=(
        "fleetlift audit verify audit.jsonl --head 5f0c…",
        "fleetlift audit verify   # what the server has",
    ),
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--head", metavar="HASH", help="The newest hash as it was kept: tells whether rows were cut off.")
@click.option("--server-head", is_flag=True, help="Take the newest hash from the server.")
@pass_operator
def verify(operator: Operator, *, file: Path | None, head: str | None, server_head: bool) -> None:
    """Check an export without the server; without FILE all that the server has. Exit code 1 if a row is wrong."""
    if head is not None and server_head:
        raise UserError("--head and --server-head are one or the other. Nothing was checked.")
    if server_head:
        head = operator.api.get("audit", "head")["hash"]
    if file is None:
        verdict = verify_lines(operator.api.lines("audit", "export"), head=head)
    else:
        with _reading(file) as lines:
            verdict = verify_lines(lines, head=head)
    row: Json = asdict(verdict) | {"good": not verdict.why_not}
    if operator.output.for_program:
        operator.output.document(row, names=[verdict.hash])
    if verdict.why_not:
        operator.output.warn(f"The record was tampered with, or is damaged: {verdict.why_not}.")
        click.get_current_context().exit(FAILED)
    newest = "" if head else " Whether rows were cut off after it, --head tells."
    operator.output.say(f"{plural(verdict.rows, 'row')}, all good. The newest hash: {verdict.hash}.{newest}")


def _short(value: object) -> str:
    if value is None:
        return ""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"


@contextmanager
def _target(path: Path | None) -> Iterator[Any]:
    """Yield what to write to: a file appears whole, or not at all."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.touch(0o600, exist_ok=False)
        with beside.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}. Nothing is there.") from None
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _reading(path: Path) -> Iterator[Iterator[str]]:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            yield iter(lambda: file.readline(MAX_LINE), "")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Nothing was checked.") from None
