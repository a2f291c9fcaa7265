"""`-o table|json|yaml|name`, colours and widths: what a person, a program and a shell get."""

import io
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
import yaml

from cloud.cli.render import FORMATS, Column, Output, OutputFormat
from cloud.cli.terminal import coloured
from tests.cloud.cli.deeds import push
from tests.cloud.cli.offices import FLEETLIFT, Office, captured
from tests.cloud.cli.trees import PATHS
from tests.cloud.homes import MODEL, PRODUCT

COLUMNS = (Column("name", "name"), Column("count", "count", justify="right"))
ROWS = [{"name": "a", "count": 1, "no": None, "text": "yes"}, {"name": "1.10", "count": 2, "no": None, "text": "é: #"}]


def written(form: OutputFormat, rows: list[dict[str, object]]) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    output = Output(form, out, err)
    output.say("Looking around.")
    output.rows(rows, COLUMNS, nothing="There is none.")
    return out.getvalue(), err.getvalue()


def test_yaml_is_what_json_is_in_its_order_and_stands_alone() -> None:
    text, said = written("yaml", ROWS)
    assert yaml.safe_load(text) == ROWS == json.loads(written("json", ROWS)[0])
    assert text.startswith("- name: a\n  count: 1\n")
    assert said == "Looking around.\n"
    assert "é: #" in text


def test_names_are_one_a_line_and_of_nothing_there_is_none() -> None:
    assert written("name", ROWS) == ("a\n1.10\n", "Looking around.\n")
    assert written("name", []) == ("", "Looking around.\n")


def test_a_name_that_a_device_made_up_stays_on_its_line() -> None:
    assert written("name", [{"name": "a\nb\x1b[2J", "count": 1}])[0].count("\n") == 1


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_answers_that_come_one_after_another_can_be_told_apart(form: OutputFormat) -> None:
    out = io.StringIO()
    output = Output(form, out, io.StringIO())
    for row in ROWS:
        output.part(row)
    read = [json.loads(line) for line in out.getvalue().splitlines()] if form == "json" else None
    assert (read or list(yaml.safe_load_all(out.getvalue()))) == ROWS


def test_every_command_takes_every_form() -> None:
    for path in PATHS:
        _code, out, _err = captured(*path, "--help")
        assert f"-o, --output [{'|'.join(FORMATS)}]" in out, path


def test_what_commands_answer_is_one_thing_in_each_form(office: Office) -> None:
    push(office, "31.0.0")
    office.call("group", "create", "forms")
    for words, name in (
        (("product", "list"), PRODUCT),
        (("product", "show", PRODUCT), PRODUCT),
        (("group", "show", "forms"), "forms"),
        (("group", "list"), "forms"),
        (("firmware", "show", "31.0.0"), "31.0.0"),
        (("firmware", "list"), "31.0.0"),
        (("person", "list"), "operator"),
        (("api-token", "list"), "operator"),
    ):
        assert yaml.safe_load(office.call(*words, "-o", "yaml").out) == office.json(*words)
        names = office.call(*words, "-o", "name")
        assert name in names.out.splitlines(), words
        assert office.call(*words).out.strip()


def test_a_name_of_one_answer_is_taken_by_the_next_command(office: Office) -> None:
    push(office, "31.1.0", "--percentage", 50)
    newest = office.call("release", "list", "-o", "name").out.splitlines()[0]
    assert office.json("release", "show", newest)["release"]["release_id"] == newest
    (one,) = office.call("release", "show", newest, "-o", "name").out.splitlines()
    assert one == newest


@pytest.mark.parametrize(
    ("environment", "terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"CLICOLOR": "0"}, True, False),
        ({"CLICOLOR": "1"}, False, False),
        ({"CLICOLOR_FORCE": "1"}, False, True),
        ({"CLICOLOR_FORCE": "0"}, False, False),
        ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, False),
    ],
)
def test_colours_are_where_they_are_wanted(
    environment: dict[str, str], terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    assert coloured(stream) is expected
    Output("table", stream, stream).rows(ROWS, COLUMNS, nothing="")
    assert ("\x1b[" in stream.getvalue()) is expected


def test_off_a_terminal_the_same_bytes_come_whatever_the_terminal_was(tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = ("init", "--home", home, "--product", PRODUCT, "--hardware", MODEL, "--plain", "--no-passphrase")
    assert captured(*words)[0] == 0
    said = {
        subprocess.run(
            [FLEETLIFT, "key", "list", "--offline", "--home", home],
            env=os.environ | {"COLUMNS": columns, "TERM": term, "FORCE_COLOR": "1"},
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout
        for columns, term in (("20", "xterm-256color"), ("300", "dumb"))
    }
    assert len(said) == 1
    assert b"\x1b" not in said.pop()


def test_on_a_terminal_headings_are_bold_and_lists_are_not_cut(office: Office) -> None:
    main, side = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CLICOLOR")}
    with subprocess.Popen(
        [FLEETLIFT, "product", "list", "--home", office.home],
        env=environment | {"TERM": "xterm", "COLUMNS": "20"},
        stdout=side,
        stdin=subprocess.DEVNULL,
    ) as process:
        os.close(side)
        seen = b""
        while block := _read(main):
            seen += block
        assert process.wait(30) == 0
    os.close(main)
    assert b"\x1b[1m" in seen
    assert PRODUCT.encode() in seen
    assert b"20" in seen, "the creation time at the end of the line"


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other side is closed
        return b""
