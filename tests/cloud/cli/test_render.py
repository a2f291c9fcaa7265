"""What a person and a program get to read."""

import io
import json

import pytest

from cloud.cli.render import Column, Output, moment, shown, size
from protocol.errors import UserError

COLUMNS = (Column("name", "name"), Column("count", "count", justify="right"))


def captured(form: str = "table") -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Output("json" if form == "json" else "table", out, err), out, err


def test_a_table_is_not_cut_where_nobody_reads_on_a_terminal() -> None:
    output, out, _ = captured()
    output.rows([{"name": "x" * 300, "count": 1}], COLUMNS, nothing="-")
    heading, row = out.getvalue().splitlines()
    assert heading.split() == ["NAME", "COUNT"]
    assert row.split() == ["x" * 300, "1"]


def test_json_stands_alone_on_standard_output() -> None:
    output, out, err = captured("json")
    output.say("Looking around.")
    output.rows([{"name": "a", "count": 1, "more": [1]}], COLUMNS, nothing="none")
    assert json.loads(out.getvalue()) == [{"name": "a", "count": 1, "more": [1]}]
    assert err.getvalue() == "Looking around.\n"


def test_an_empty_table_says_so_and_an_empty_list_is_one() -> None:
    output, out, _ = captured()
    output.rows([], COLUMNS, nothing="There is none.")
    assert out.getvalue() == "There is none.\n"
    output, out, _ = captured("json")
    output.rows([], COLUMNS, nothing="There is none.")
    assert json.loads(out.getvalue()) == []


def test_what_devices_wrote_cannot_steer_the_terminal() -> None:
    output, out, _ = captured()
    output.rows([{"name": "\x1b[2J\x07[red]x[/red]\n", "count": 0}], COLUMNS, nothing="-")
    assert "\x1b" not in out.getvalue()
    assert "\x07" not in out.getvalue()
    assert "[red]x[/red]" in out.getvalue()
    assert len(out.getvalue().splitlines()) == 2


def test_progress_off_a_terminal_is_a_few_plain_lines() -> None:
    output, out, err = captured()
    with output.progress("Uploading", 1000) as advance:
        for _ in range(100):
            advance(10)
    assert out.getvalue() == ""
    percents = [line.split(": ")[1] for line in err.getvalue().splitlines()]
    assert percents == ["25 % of 1000 B", "50 % of 1000 B", "75 % of 1000 B", "100 % of 1000 B"]


def test_a_question_that_nobody_can_answer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    output, _, _ = captured()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(UserError, match="Add --yes"):
        output.confirm("Release it?", yes=False)
    output.confirm("Release it?", yes=True)


def test_values_as_people_read_them() -> None:
    assert [shown(value) for value in (None, "", True, False, 0, ["a", "b"], {}, {"a": 1})] == [
        "-",
        "-",
        "yes",
        "no",
        "0",
        "a, b",
        "-",
        "a=1",
    ]
    assert [size(value) for value in (0, 1023, 1024, 64 * 1024**2, 3 * 1024**3)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "64.0 MiB",
        "3.0 GiB",
    ]
    assert moment(1_794_000_000_000) == "2026-11-06 21:20:00Z"
    assert moment(None) == "-"
    assert moment(2**53 - 1).endswith(" ms")
