"""What the server's log lines carry, as lines for people and as JSON."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
from structlog.contextvars import bound_contextvars

from cloud.cli.logs import QUIET, configure_logging
from cloud.config import LogSettings
from cloud.provenance import ORIGIN, Origin

_log = logging.getLogger("cloud.test")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was written to standard error; the loggers are put back."""
    root, levels = logging.getLogger(), {name: logging.getLogger(name).level for name in QUIET}
    handlers, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_a_line_of_json_has_its_own_fields_those_around_it_and_the_requests_id(said: Callable[[], str]) -> None:
    configure_logging(LogSettings(format="json"))
    before = ORIGIN.set(Origin(request="req-1"))
    with bound_contextvars(device_id="pi-1"):
        _log.info("hello %s", "you", extra={"release_id": "r-1"})
    ORIGIN.reset(before)
    line = json.loads(said())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "hello you",
        "level": "info",
        "logger": "cloud.test",
        "device_id": "pi-1",
        "release_id": "r-1",
        "request_id": "req-1",
    }


def test_a_line_says_the_request_that_is_served_unless_it_names_another(said: Callable[[], str]) -> None:
    configure_logging(LogSettings(format="json"))
    before = ORIGIN.set(Origin(request="req-1"))
    _log.info("x", extra={"request_id": "req-0"})
    ORIGIN.reset(before)
    _log.info("y")
    first, second = map(json.loads, said().splitlines())
    assert first["request_id"] == "req-0"
    assert "request_id" not in second


def test_a_line_for_people_ends_with_its_fields(said: Callable[[], str]) -> None:
    configure_logging(LogSettings())
    _log.warning("it is so", extra={"release_id": "r-1", "label": "v3"})
    (line,) = said().splitlines()
    assert "warning" in line
    assert "it is so" in line
    assert "label=v3" in line
    assert "release_id=r-1" in line


@pytest.mark.parametrize("format_", ["text", "json"])
def test_no_text_of_somebody_else_makes_a_line(said: Callable[[], str], format_: Literal["text", "json"]) -> None:
    configure_logging(LogSettings(format=format_))
    forged = "x\n2026-01-01T00:00:00Z [info] release.created\r\x1b[2J\u2028"
    _log.info("refused: %s", forged, extra={"detail": forged})
    (line,) = said().splitlines()
    assert "\x1b" not in line


def test_below_the_level_nothing_is_said(said: Callable[[], str]) -> None:
    configure_logging(LogSettings(level="warning"))
    _log.info("nothing")
    assert said() == ""
