"""The words of a person at the device: consent, defer, decline and why, against a socket that remembers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from device_agent.cli import main
from device_agent.consent import ConsentError
from tests.device_agent.stand_in import StandInAgent

ASKED = {
    "component": "app",
    "version": "1.1.0",
    "optional": True,
    "mandatory": False,
    "state": "asked",
    "until_ms": None,
}
DECISION = {
    "component": "app",
    "lines": ["app: 1.1.0 is to be taken, by release r2 v2 of group everyone", "  yes  for this hardware: r2 v2: pi4"],
    "left_out": 0,
    "waits": {"why": "next_session", "until_ms": None, "detail": ""},
}
Call = Callable[..., Result]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[StandInAgent]:
    with StandInAgent(tmp_path / "control.sock") as started:
        yield started


@pytest.fixture
def call(tmp_path: Path) -> Call:
    config = tmp_path / "agent.toml"
    config.write_text(f'[device]\nstate_dir = "{tmp_path}"\n', encoding="utf-8")
    return lambda word, *words: CliRunner().invoke(main, [word, "--config", str(config), *words])


def test_a_person_consents(agent: StandInAgent, call: Call) -> None:
    agent.more_status = {"attention": ASKED}
    assert call("consent").stderr == "app 1.1.0 may be installed\n"
    assert agent.next_heard() == ("consent", None)
    agent.more_status = {}
    assert call("consent").stderr == "nothing asks for consent\n"


def test_a_person_defers_or_declines(agent: StandInAgent, call: Call) -> None:
    agent.more_status = {"attention": ASKED}
    assert call("defer", "2h").stderr == "it asks again in 7200 s\n"
    assert agent.next_heard() == ("defer", (7200, None))
    assert call("decline").stderr == "app 1.1.0 is declined, until somebody consents\n"
    assert agent.next_heard() == ("decline", None)
    mistaken = call("defer", "soon")
    assert (mistaken.exit_code, mistaken.stderr.startswith("fleetlift-agent: WHEN 'soon' is neither")) == (2, True)


@pytest.mark.parametrize("words", [("defer", "5s"), ("decline",), ("consent",), ("why",)])
def test_what_is_refused_is_one_sentence(agent: StandInAgent, call: Call, words: tuple[str, ...]) -> None:
    agent.failure = ConsentError("app 1.1.0 is not optional; nothing was changed")
    ended = call(*words)
    assert ended.exit_code == 1
    assert ended.stderr == "fleetlift-agent: app 1.1.0 is not optional; nothing was changed (refused)\n"


def test_why_is_told_to_people_and_to_programs(agent: StandInAgent, call: Call) -> None:
    agent.decisions = [DECISION]
    assert call("why", "app").stdout.splitlines() == [*DECISION["lines"], "  waits now: next session"]  # type: ignore[misc]
    assert agent.next_heard() == ("why", "app")
    assert json.loads(call("why", "-o", "json").stdout) == [DECISION]
    agent.decisions = [DECISION | {"left_out": 7, "waits": {"why": "held", "until_ms": 0, "detail": "a pump"}}]
    lines = call("why").stdout.splitlines()
    assert lines[1] == "  (7 steps before these)"
    assert lines[-1].startswith("  waits now: held: a pump, until 19")
    agent.decisions = []
    empty = call("why")
    assert (empty.stdout, "the cloud has not said yet" in empty.stderr) == ("", True)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "attention  app 1.1.0 waits for your answer: fleetlift-agent consent, or defer, or decline"),
        ({"optional": False}, "attention  app 1.1.0 waits for your answer: fleetlift-agent consent, or defer"),
        ({"state": "declined"}, "attention  app 1.1.0 was declined; fleetlift-agent consent takes it after all"),
        ({"state": "deferred", "until_ms": 10**30}, f"attention  app 1.1.0 is deferred; until {10**30} ms"),
    ],
)
def test_the_status_says_what_is_asked(agent: StandInAgent, call: Call, change: dict[str, object], line: str) -> None:
    agent.more_status = {"attention": ASKED | change}
    assert line in call("status").stdout.splitlines()
