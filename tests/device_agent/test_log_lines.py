"""The agent's log lines say which attempt they are of, for people and as JSON."""

import json
import logging
from dataclasses import replace

import pytest

from device_agent.events import Attempt
from device_agent.log_lines import LineFormatter, fields_of
from protocol.values import FirmwareRef, Via

ATTEMPT = Attempt(
    attempt_id="a-1",
    source_id="r-1",
    via=Via.RELEASE,
    order=1,
    firmware=FirmwareRef(
        component="app", version="1.2.0", build=1, seq=1, digest="0" * 64, size_bytes=1, hardware_models=("pi",)
    ),
)


def record(words: str = "it is %s", *values: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("device_agent.x", logging.INFO, "x.py", 1, words, values or ("so",), None)
    made.created = 1_700_000_000.25
    made.__dict__.update(more)
    return made


@pytest.mark.parametrize(
    ("attempt", "fields"),
    [
        (None, {}),
        (ATTEMPT, {"release_id": "r-1", "attempt_id": "a-1"}),
        (replace(ATTEMPT, via=Via.OTA, source_id="o-1"), {"ota_id": "o-1", "attempt_id": "a-1"}),
        (replace(ATTEMPT, via=Via.PIN, source_id="pin"), {"attempt_id": "a-1"}),
    ],
)
def test_an_attempt_is_named_by_what_wants_it(attempt: Attempt | None, fields: dict[str, str]) -> None:
    assert fields_of(attempt) == fields


def test_a_line_for_people_ends_with_the_attempt_that_is_under_way() -> None:
    lines = LineFormatter("pi-1")
    assert lines.format(record()) == "2023-11-14T22:13:20.250Z INFO device_agent.x: it is so"
    lines.attempt = lambda: ATTEMPT
    assert lines.format(record()).endswith("it is so release_id=r-1 attempt_id=a-1")


def test_a_line_that_has_an_attempt_of_its_own_keeps_it() -> None:
    lines = LineFormatter("pi-1")
    lines.attempt = lambda: ATTEMPT
    own = fields_of(replace(ATTEMPT, attempt_id="a-0", source_id="r-0"))
    assert lines.format(record(**own)).endswith("release_id=r-0 attempt_id=a-0")


def test_a_line_of_json_has_the_names_of_the_clouds_log() -> None:
    lines = LineFormatter("pi-1", as_json=True)
    lines.attempt = lambda: ATTEMPT
    assert json.loads(lines.format(record())) == {
        "timestamp": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "device_agent.x",
        "event": "it is so",
        "device_id": "pi-1",
        "release_id": "r-1",
        "attempt_id": "a-1",
    }


def test_a_failure_is_told_with_its_trace_and_in_one_object() -> None:
    error = ValueError("no")
    failed = record(exc_info=(ValueError, error, None))
    assert LineFormatter("pi-1").format(failed).endswith("ValueError: no")
    (line,) = LineFormatter("pi-1", as_json=True).format(failed).splitlines()
    assert json.loads(line)["exception"].endswith("ValueError: no")
