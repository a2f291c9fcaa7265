"""`fleetlift simulate`, as a person and as a program sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cloud.cli import fleetlift
from protocol.errors import UserError

PLAN = ("--phase", "10%:30m", "--phase", "100%:1h")


def simulate(*options: str) -> str:
    result = CliRunner().invoke(fleetlift, ["simulate", *options], catch_exceptions=False, standalone_mode=False)
    return result.stdout


def test_a_program_gets_one_document_and_the_same_for_a_seed() -> None:
    options = ("--devices", "2000", *PLAN, "--fails", "30%", "--runs", "4", "--seed", "7", "-o", "json")
    first = json.loads(simulate(*options))

    assert first["bad"]["ended"] == {"paused": 4}
    assert 0 < first["bad"]["broken_when_ended"]["mean"] <= first["bad"]["broken"]["mean"] < 100
    assert first["good"]["ended"] == {"completed": 4}
    assert first["good"]["reached_s"]["100"]["runs"] == 4
    assert json.loads(simulate(*options)) == first
    assert json.loads(simulate(*options[:-4], "--seed", "8", "-o", "json")) != first


def test_a_person_gets_a_table_a_plot_and_what_the_guard_did() -> None:
    told = simulate("--devices", "1000", *PLAN, "--fails", "40%", "--runs", "2")

    for part in (
        "A BAD RELEASE, 2 runs",
        "stopped after",
        "paused by its gate",
        "A GOOD ONE",
        "99 % of the fleet",
        "┤",
        "└",
    ):
        assert part in told


def test_without_a_failure_only_the_good_release_is_rehearsed() -> None:
    assert "A BAD RELEASE" not in simulate("--devices", "500", *PLAN, "--runs", "1")


def test_a_plan_file_is_read_as_push_reads_it(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('phase = ["pilot:1h", "100%:1h"]\nmax_failures = 1\n')

    told = json.loads(
        simulate("--devices", "1000", "--group", "pilot=5%", "--plan-file", str(plan), "--fails", "50%", "-o", "json")
    )

    assert told["bad"]["ended"] == {"paused": 20}
    assert told["bad"]["running"]["high"] <= 50


def test_the_picture_is_written(tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    simulate("--devices", "500", *PLAN, "--runs", "2", "--plot", str(picture))

    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--fails", "lots"), "is not a percentage"),
        (("--fails", "pi9=5%"), "no device of this fleet is pi9"),
        (("--phase", "pilot:1h"), "no device of this fleet is in group pilot"),
        (("--hardware", "pi3"), "is not MODEL=SHARE"),
        (("--plot", "/nowhere/at/all.svg"), "cannot be written"),
        (("--availability", "rarely"), "says nothing of when devices are there"),
    ],
)
def test_a_mistake_is_a_sentence(options: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        simulate("--devices", "100", "--runs", "1", *options)
