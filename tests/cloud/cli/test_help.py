"""Help: every command says what it does and shows how, and what it shows can be typed."""

from unittest import mock

import click
import pytest

from cloud.cli import HEAVY, SECTIONS, Root, fleetlift
from cloud.cli.context import COMMON, Group
from cloud.cli.ota import ota
from tests.cloud.cli.offices import captured
from tests.cloud.cli.trees import LEAVES, PATHS, parse


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_has_examples_that_can_be_typed(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    command = LEAVES[path]
    assert command.examples, "no example"
    monkeypatch.setattr(click.Path, "convert", lambda _self, value, _param, _ctx: value)  # the files are not here
    for example in command.examples:
        words = example.split()
        assert words[0] in ("fleetlift", "eval"), example
        if words[0] == "eval":
            continue
        context = parse(example)
        assert context.command is command, f"{example} is of {context.command_path}"
        assert len(example) <= 100, "too long for a terminal"


def test_the_examples_of_groups_can_be_typed() -> None:
    assert isinstance(fleetlift, Root)
    assert isinstance(ota, Group)
    for example in (*fleetlift.examples[:-1], *ota.examples):
        parse(example)
    with pytest.raises(click.UsageError):
        parse("fleetlift ota show 4f9c --wach")


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_says_what_happens_and_sets_the_common_options_apart(path: tuple[str, ...]) -> None:
    code, out, err = captured(*path, "--help")
    assert (code, err) == (0, "")
    own, _, shared = out.partition(f"{COMMON}:\n")
    for option in ("--output", "--home", "--server", "--token-file", "--context"):
        assert option in shared
        assert f"\n  {option} " not in own
    assert "Examples:\n" in shared
    assert (LEAVES[path].help or "").strip(), "says nothing"
    assert len((LEAVES[path].help or "").split("\n\n")[0]) < 200, "a long first paragraph"


def test_every_command_stands_in_a_section_and_a_heavy_one_is_not_loaded_for_the_list() -> None:
    named = [name for names in SECTIONS.values() for name in names]
    assert sorted(named) == sorted(fleetlift.list_commands(click.Context(fleetlift)))
    with mock.patch("cloud.cli.pkgutil.resolve_name", side_effect=AssertionError):
        assert isinstance(fleetlift, Root)
        _code, out, _err = captured("--help")
    assert all(f"  {name} " in out for name in named)
    for heavy in HEAVY.values():
        assert heavy.help in out


@pytest.mark.parametrize("columns", ["40", "200"])
def test_help_is_as_wide_off_a_terminal_whatever_columns_says(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    _code, expected, _err = captured("release", "push", "--help")
    monkeypatch.setenv("COLUMNS", columns)
    assert captured("release", "push", "--help")[1] == expected
    assert max(map(len, expected.splitlines())) <= 100


def test_an_option_that_a_command_has_of_its_own_is_not_there_twice() -> None:
    taken = [name for path in PATHS for parameter in LEAVES[path].params for name in parameter.opts]
    assert "--output" in taken
    for path in PATHS:
        names = [name for parameter in LEAVES[path].params for name in (*parameter.opts, *parameter.secondary_opts)]
        assert len(names) == len(set(names)), path
