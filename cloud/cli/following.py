"""`--watch`: an answer that is shown anew as it changes, until it is decided, stopped with Ctrl-C, or the time is up.

On a terminal the same place is written over; elsewhere there is a line for each change; a program gets each thing that
changed as a document of its own.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Final, TypeVar

import click
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from cloud.cli.client import TIMED_OUT, Json, UnreachableError
from cloud.cli.options import Timeout
from cloud.cli.render import Column, Output, Row, record_of, shown, table_of
from cloud.cli.terminal import console_on, is_terminal

PACE_S: Final = 2.0
"""How often the server is asked where it has no way to say that something changed."""
EASY: Final = 5
"""A large answer is asked for more rarely: at most a fifth of the time."""
POLL_S: Final = 10.0
"""How long the server holds a poll when nothing happens."""
CALM_S: Final = 0.2
"""The shortest time between two polls: a busy fleet changes all the time."""
AWAY_S: Final = 1.0
LINES_AROUND: Final = 4
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


def watch_options(function: F) -> F:
    """Add `--watch` and `--timeout`; the command gets `watch` and `timeout`, which is None for no end."""
    watch = click.option("--watch", "-w", is_flag=True, help="Go on showing what changes, until Ctrl-C.")
    timeout = click.option("--timeout", type=Timeout(), metavar="TIME", help="With --watch: for so long, as 90s or 2h.")
    return watch(timeout(function))


def follow(
    output: Output,
    fetch: Callable[[T | None, float], T],
    show: Callable[[T], object],
    verdict: Callable[[T], int | None],
    timeout_s: float | None,
) -> tuple[T, int]:
    """Show answers until one is decided, and return it with its exit code, which is 3 when the time is up first.

    `fetch` takes the answer before and how long to wait for another. A server that goes away is waited for.
    """
    deadline = time.monotonic() + (inf if timeout_s is None else timeout_s)
    answer, away = fetch(None, 0), False
    while True:
        show(answer)
        code, remaining = verdict(answer), deadline - time.monotonic()
        if code is not None:
            return answer, code
        if remaining <= 0:
            return answer, TIMED_OUT
        time.sleep(min(CALM_S, remaining))
        try:
            answer, away = fetch(answer, max(0.0, min(POLL_S, remaining))), False
        except UnreachableError as error:
            if not away:
                output.warn(f"{error} Waiting for it to come back.")
            away = True
            time.sleep(min(AWAY_S, max(0.0, deadline - time.monotonic())))


def asked_again(get: Callable[[], T]) -> Callable[[T | None, float], T]:
    """Return a fetch that asks every now and then."""
    took_s = 0.0

    def fetch(before: T | None, wait_s: float) -> T:
        nonlocal took_s
        if before is not None:
            time.sleep(min(max(PACE_S, EASY * took_s), wait_s))
        began = time.monotonic()
        answer = get()
        took_s = time.monotonic() - began
        return answer

    return fetch


def watch_rows(
    output: Output,
    get: Callable[[], list[Json]],
    columns: Sequence[Column],
    *,
    key: Column,
    nothing: str,
    timeout_s: float | None,
    unsaid: Sequence[Column] = (),
) -> None:
    """Watch a list for ever, or for a time; `unsaid` columns change all the time, and are worth no line."""
    changes = _Changes(output, columns, key, unsaid)
    if output.for_program or not is_terminal(output.stdout):
        follow(output, asked_again(get), lambda rows: changes.tell(rows, nothing), lambda _rows: None, timeout_s)
        return
    console = console_on(output.stdout)
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(rows: list[Json]) -> None:
            fit = max(1, console.size.height - LINES_AROUND)
            more = [Text(f"… and {len(rows) - fit} more")] if len(rows) > fit else []
            parts: list[RenderableType] = [table_of(rows[:fit], columns) if rows else Text(nothing), *more, _foot()]
            live.update(Stack(*parts), refresh=True)

        follow(output, asked_again(get), show, lambda _rows: None, timeout_s)
    output.rows(get(), columns, nothing=nothing, key=key)


def watch_record(
    output: Output,
    get: Callable[[], Json],
    columns_of: Callable[[Json], Sequence[Column]],
    *,
    key: Column,
    timeout_s: float | None,
    below: Callable[[Json], RenderableType | None] = lambda _page: None,
    verdict: Callable[[Json], int | None] | None = None,
    unsaid: Sequence[Column] = (),
) -> int:
    """Watch one thing until it is decided; return the exit code, 0 after the time for what never is."""
    decided = verdict or (lambda _page: None)
    if output.for_program or not is_terminal(output.stdout):
        changes = _Changes(output, (), key, unsaid)

        def tell(page: Json) -> None:
            changes.columns = columns_of(page)
            changes.tell([page], "")

        page, code = follow(output, asked_again(get), tell, decided, timeout_s)
        return code if verdict else 0
    with Live(console=console_on(output.stdout), auto_refresh=False, transient=True) as live:

        def show(page: Json) -> None:
            parts = [record_of(page, columns_of(page)), below(page), _foot()]
            live.update(Stack(*(part for part in parts if part is not None)), refresh=True)

        page, code = follow(output, asked_again(get), show, decided, timeout_s)
    output.record(page, columns_of(page), key=key)
    return code if verdict else 0


class _Changes:
    """Tells what is otherwise than before: first everything, then a line for each thing that changed."""

    def __init__(self, output: Output, columns: Sequence[Column], key: Column, unsaid: Sequence[Column]) -> None:
        self.columns = columns
        self._output, self._key, self._unsaid = output, key, {column.heading for column in unsaid}
        self._told: dict[str, Mapping[str, str]] | None = None

    def tell(self, rows: list[Json], nothing: str) -> None:
        now = {shown(self._key.of(row)): (row, self._cells(row)) for row in rows}
        before, self._told = self._told, {name: cells for name, (_row, cells) in now.items()}
        if before is None and not now and not self._output.for_program:
            self._output.say(nothing)
        for name, (row, cells) in now.items():
            old = (before or {}).get(name)
            if old != cells:
                self._changed(name, row, cells, old, first=before is None)
        for name in before or {}:
            if name not in now:
                self._gone(name)

    def _changed(
        self, name: str, row: Row, cells: Mapping[str, str], old: Mapping[str, str] | None, *, first: bool
    ) -> None:
        if self._output.for_program:
            self._output.part(row, names=[name])
            return
        if old is None:
            words = [f"{heading} {cell}" for heading, cell in cells.items() if cell != "-"]
            self._output.say(f"{_clock()}  {name}: {'' if first else 'new: '}{'; '.join(words)}")
            return
        words = [f"{head} {cell} (was {old.get(head, '-')})" for head, cell in cells.items() if cell != old.get(head)]
        words += [f"no {head} any more (was {old[head]})" for head in old if head not in cells]
        self._output.say(f"{_clock()}  {name}: {'; '.join(words)}")

    def _gone(self, name: str) -> None:
        if self._output.for_program:
            self._output.part({"gone": name}, names=[])
        else:
            self._output.say(f"{_clock()}  {name}: gone")

    def _cells(self, row: Row) -> Mapping[str, str]:
        heading = self._key.heading
        return {
            column.heading: shown(column.of(row))
            for column in self.columns
            if column.heading not in self._unsaid and column.heading != heading
        }


def _foot() -> Text:
    return Text(f"{_clock()}, Ctrl-C to end", style="dim")


def _clock() -> str:
    return datetime.now(UTC).strftime("%H:%M:%SZ")
