"""How answers reach a person or a program: tables, JSON or YAML alone on standard output, progress, questions.

With `-o json` or `-o yaml` standard output holds one document and nothing else, with `-o name` one name or id a line;
what people like to know goes to standard error. Text that devices wrote is shown without its control characters: a
terminal obeys those.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import click
import yaml
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from cloud.cli.terminal import console_on, is_terminal
from protocol.errors import UserError

OutputFormat = Literal["table", "json", "yaml", "name"]
FORMATS: Final[tuple[OutputFormat, ...]] = ("table", "json", "yaml", "name")
PLAIN_STEPS: Final = 4

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its heading, and what stands in it."""

    heading: str
    value: str | Callable[[Row], object]
    justify: Literal["left", "right"] = "left"

    def of(self, row: Row) -> object:
        """Return what stands in a row."""
        return row.get(self.value) if isinstance(self.value, str) else self.value(row)

    def text(self, row: Row) -> Text:
        """Return the cell of a row."""
        return Text(shown(self.of(row)))


def shown(value: object) -> str:
    """Return a value as a person reads it, without control characters."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(shown(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{shown(name)}={shown(item)}" for name, item in value.items()) or "-"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(value))


def size(size_bytes: int) -> str:
    """Return a number of bytes as a person reads it."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def moment(at_ms: int | None) -> str:
    """Return milliseconds since 1970 as a time in UTC, to the second."""
    if not at_ms:
        return "-"
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # a device's clock may say anything
        return f"{at_ms} ms"


def plural(count: int, noun: str) -> str:
    """Return `1 device`, `2 devices`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(slots=True)
class Output:
    """Where a command's answer goes."""

    format: OutputFormat = "table"
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)

    @property
    def for_program(self) -> bool:
        """Whether a program reads the answer."""
        return self.format != "table"

    def say(self, sentence: str) -> None:
        """Tell a person something that is not the answer itself."""
        console_on(self.stderr if self.for_program else self.stdout).print(Text(sentence), soft_wrap=True)

    def warn(self, sentence: str) -> None:
        """Tell a person, on standard error."""
        console_on(self.stderr).print(Text(sentence), soft_wrap=True)

    def document(self, value: object, *, names: Iterable[object] = ()) -> None:
        """Write the answer for a program: one document, or with `-o name` the names of what is in it, one a line."""
        if self.format == "name":
            self._write("".join(f"{shown(name)}\n" for name in names if name is not None))
        elif self.format == "yaml":
            self._write(_yaml(value))
        else:
            self._write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def part(self, value: object, *, names: Iterable[object] = ()) -> None:
        """Write one of several answers that come one after another: a line of JSON, a document of YAML, names."""
        if self.format == "json":
            self._write(json.dumps(value, ensure_ascii=False) + "\n")
        elif self.format == "yaml":
            self._write("---\n" + _yaml(value))
        else:
            self.document(value, names=names)

    def rows(self, rows: Sequence[Row], columns: Iterable[Column], *, nothing: str, key: Column | None = None) -> None:
        """Write the answer as a table, or as a list; `-o name` gives the `key` of each (default: the first column)."""
        columns = tuple(columns)
        if self.for_program:
            self.document(list(rows), names=[(key or columns[0]).of(row) for row in rows])
            return
        if not rows:
            self.say(nothing)
            return
        console_on(self.stdout, wide=True).print(table_of(rows, columns))

    def record(self, row: Row, columns: Iterable[Column], *, key: Column | None = None) -> None:
        """Write one thing as a list of its properties, or as an object; `key` is as in `rows`."""
        columns = tuple(columns)
        if self.for_program:
            self.document(row, names=[(key or columns[0]).of(row)])
            return
        console_on(self.stdout).print(record_of(row, columns))

    def _write(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()

    @property
    def can_ask(self) -> bool:
        """Whether somebody is here to answer."""
        return sys.stdin.isatty()

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask, unless `yes`; raises UserError when the answer is no, or when nobody can answer."""
        if yes:
            return
        if not self.can_ask:
            raise UserError(f"{question} Nobody is here to answer: nothing was changed. Add --yes to go ahead.")
        if not click.confirm(question, err=True):
            raise UserError("Nothing was changed.", exit_code=1)

    @contextmanager
    def progress(self, label: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """Show how far long work is; yields a function that takes the bytes done since the last call."""
        console = console_on(self.stderr)
        if not is_terminal(self.stderr):
            yield _PlainProgress(self, label, total_bytes)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(shown(label), total=total_bytes)
            yield lambda done_bytes: progress.update(task, advance=done_bytes)

    @contextmanager
    def counting(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how many of many things are done; yields a function that takes how many since the last call."""
        console = console_on(self.stderr)
        if total < 2:
            yield lambda _done: None
        elif not is_terminal(self.stderr):
            yield _PlainProgress(self, label, total, str)
        else:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=console, transient=True) as progress:
                task = progress.add_task(shown(label), total=total)
                yield lambda done: progress.update(task, advance=done)


def table_of(rows: Sequence[Row], columns: Iterable[Column]) -> Table:
    """Return rows as a table; nothing in it is cut."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    columns = tuple(columns)
    for column in columns:
        table.add_column(column.heading.upper(), justify=column.justify, no_wrap=True)
    for row in rows:
        table.add_row(*(column.text(row) for column in columns))
    return table


def record_of(row: Row, columns: Iterable[Column]) -> Table:
    """Return one thing as a list of its properties."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for column in columns:
        table.add_row(column.heading, column.text(row))
    return table


def _yaml(value: object) -> str:
    plain = json.loads(json.dumps(value, ensure_ascii=False))  # tuples, and names that are not text, as JSON has them
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=4000)
    return text.removesuffix("...\n")


class _PlainProgress:
    """A line at each quarter, for logs."""

    def __init__(self, output: Output, label: str, total: int, show: Callable[[int], str] = size) -> None:
        self._output, self._label, self._total, self._show = output, label, max(total, 1), show
        self._done = self._step = 0

    def __call__(self, done: int) -> None:
        self._done += done
        step = self._done * PLAIN_STEPS // self._total
        if step > self._step:
            self._step = step
            percent = min(100, self._done * 100 // self._total)
            self._output.warn(f"{self._label}: {percent} % of {self._show(self._total)}")
