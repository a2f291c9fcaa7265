"""Plans as operators write them, on the command line or in a file: what they stand for, and what is refused."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloud import plan_words as words
from cloud.cli.plan_options import KEYS, describe, plan_of, warnings
from cloud.guard.policy import Gates, Phase, Policy, Response, SilenceGate
from protocol.codec import structure
from protocol.errors import UserError
from protocol.schedule import Terms, Window

NOW = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)
FILE = """
phase = ["pilot:1h", "25%:30m"]
ramp = "4h:1h"
hold_back = "5%"
gate = ["failures:1%/10%", "silence:30m", "temperature<=80"]
on_gate = "roll-back"
max_failures = 3
window = ["mon-fri 02:00-04:00"]
not_before = "2h"
attention = true
"""


def policy(**said: Any) -> tuple[Policy | None, Terms]:
    found = plan_of(said, 100, NOW)
    return structure(found["plan"], Policy) if "plan" in found else None, structure(found.get("terms", {}), Terms)


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("02:00-04:00", Window(start_minute=120, duration_minutes=120)),
        ("mon-fri 02:00-04:00", Window(start_minute=120, duration_minutes=120, days=(0, 1, 2, 3, 4))),
        ("Sat,Sun 22:30-01:00", Window(start_minute=1350, duration_minutes=150, days=(5, 6))),
        ("fri-mon 0:00-24:00", Window(start_minute=0, duration_minutes=1440, days=(0, 4, 5, 6))),
    ],
)
def test_windows(text: str, window: Window) -> None:
    assert structure(words.window(text), Window) == window


def test_a_plan_on_the_command_line() -> None:
    made, terms = policy(phase=("pilot:1h", "5%:30m", "100%"), gate=("silence:off",), deadline="2030-02-01T00:00+01:00")
    assert made == Policy(
        phases=(Phase(group="pilot", soak_s=3600), Phase(percentage=5, soak_s=1800), Phase(percentage=100)),
        gates=Gates(silence=None),
    )
    assert terms.deadline_ms == 1_896_130_800_000
    assert policy(pace="500/h")[0] == Policy(pace_per_hour=500)
    assert policy(window=("02:00-04:00",), optional=True, attention=True)[0] is None
    assert plan_of({}, 30) == {}


@pytest.mark.parametrize(
    ("said", "phases"),
    [
        ({"phase": ("5%:30m", "50%:1h", "100%:10m")}, ["1 (5 %): it may be over after 30 min", "3 (100 %)"]),
        ({"phase": ("5%:30m",), "gate": ("silence:30m",)}, []),
        ({"phase": ("5%:30m",), "gate": ("silence:off",)}, []),
        ({"ramp": "1h:30m"}, []),
        ({"phase": ("50%", "100%"), "pace": "100/h", "gate": ("silence:2h",)}, []),
        ({"phase": ("50%", "100%"), "pace": "300/h", "gate": ("silence:2h",)}, ["1 (50 %)", "2 (100 %)"]),
        ({"window": ("02:00-04:00",)}, []),
    ],
)
def test_a_phase_in_which_silence_cannot_be_told_is_warned_of(said: dict[str, Any], phases: list[str]) -> None:
    found = warnings(plan_of(said, 100, NOW), 400)
    assert len(found) == len(phases)
    for sentence, phase in zip(found, phases, strict=True):
        assert f"The silence gate cannot speak in phase {phase}" in sentence
    if phases and "gate" not in said:
        assert found[0].endswith("over after 30 min, and a device counts as quiet after 1 h.")


def test_a_plan_in_a_file_and_what_the_command_line_says_instead(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(FILE)
    made, terms = policy(plan_file=path, max_failures=0)
    assert made is not None
    assert made.phases[2] == Phase(percentage=100, ramp_s=14_400, soak_s=3600)
    assert (made.hold_back, made.gates.failures.max_failures) == (5, 0)
    assert made.gates.failures.tolerable_permille == 10
    assert made.gates.silence == SilenceGate(quiet_after_s=1800, then=Response.ROLL_BACK)
    assert (made.gates.health[0].gauge, made.gates.health[0].then) == ("temperature", Response.ROLL_BACK)
    assert (terms.not_before_ms, terms.attention) == (round(NOW.timestamp() * 1000) + 7_200_000, True)
    lines = "\n".join(describe(plan_of({"plan_file": path}, 100, NOW)))
    assert "1. group pilot, soaks for 1 h" in lines
    assert "3. 100 %, grows for 4 h, soaks for 1 h" in lines


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"phase": ("5",), "max_failures": 1}, None),
        ({"phase": ("5 percent:1h",)}, "a phase is a percentage or a group"),
        ({"phase": ("5%:soon",)}, "a time is a number and s, m, h, d or w"),
        ({"phase": ("50%:1h", "5%:1h")}, "rise from phase to phase"),
        ({"phase": ("200%:1h",)}, "percentage is 200"),
        ({"pace": "fast"}, "a pace is a number of devices in an hour"),
        ({"gate": ("sunshine",)}, "a gate is failures"),
        ({"gate": ("failures:20%/2%",)}, "intolerable_permille"),
        ({"window": ("weekdays 02:00-04:00",)}, "days are mon, tue"),
        ({"window": ("25:00-26:00",)}, "times of a day are 00:00 to 24:00"),
        ({"not_before": "2030-01-31T02:00"}, "a time says its zone"),
        ({"not_before": "tomorrow"}, "a time is written as"),
        ({"optional": True}, "optional without attention"),
        ({"hold_back": "half"}, "a percentage is a whole number"),
    ],
)
def test_what_is_no_plan_is_refused_with_a_sentence(said: dict[str, Any], why: str | None) -> None:
    if why is None:
        assert policy(**said)[0] == Policy(
            phases=(Phase(group="5"),), gates=structure({"failures": {"max_failures": 1}}, Gates)
        )
        return
    with pytest.raises(UserError, match=why) as refused:
        plan_of(said, 100, NOW)
    assert "Nothing was changed" in str(refused.value)


@pytest.mark.parametrize("text", ["phases = []", "phase = '5%'", "ramp = [1]", "max_failures = 'none'", "= 1", "\x00"])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"Nothing was changed"):
        plan_of({"plan_file": path}, 100)
    with pytest.raises(UserError, match="cannot be read"):
        plan_of({"plan_file": tmp_path / "nowhere"}, 100)
    assert "plan_file" not in KEYS


def test_a_plan_and_a_percentage_are_two_words_for_one_thing() -> None:
    with pytest.raises(UserError, match="leave --percentage out"):
        plan_of({"phase": ("5%:1h",)}, 30)
