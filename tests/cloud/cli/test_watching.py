"""`--watch`: what changes is told, until it is decided, stopped, or the time is up."""

import io
import json
import os
import pty
import subprocess
from typing import Any

import pytest

from cloud.cli import following
from cloud.cli.client import Json, UnreachableError
from cloud.cli.render import Column, Output, OutputFormat
from protocol.codec import encode
from tests.cloud.cli.deeds import push, take
from tests.cloud.cli.offices import FLEETLIFT, TOPICS, Office
from tests.cloud.homes import hello_of

COLUMNS = (Column("device", "id"), Column("phase", "phase"), Column("seen", "seen"))
IDLE, BUSY = ({"id": "a", "phase": "idle", "seen": 1}, {"id": "a", "phase": "downloading", "seen": 2})
LATER = {"id": "a", "phase": "idle", "seen": 9}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for pace in ("PACE_S", "CALM_S", "AWAY_S"):
        monkeypatch.setattr(following, pace, 0.001)


def watched(form: OutputFormat, answers: list[Any], **more: Any) -> tuple[str, str]:
    """Watch a list that answers so, one after another, and then nothing new."""
    left, out, err = iter(answers), io.StringIO(), io.StringIO()

    def get() -> list[Json]:
        answer = next(left, answers[-1])
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    key, nothing = COLUMNS[0], "There is no device yet."
    following.watch_rows(
        Output(form, out, err), get, COLUMNS, key=key, nothing=nothing, timeout_s=0.3, unsaid=COLUMNS[2:], **more
    )
    return out.getvalue(), err.getvalue()


def test_off_a_terminal_there_is_a_line_for_each_change_and_none_for_what_is_as_it_was() -> None:
    out, _err = watched("table", [[IDLE], [LATER], [BUSY], [BUSY, {"id": "b", "phase": "idle"}], []])
    lines = [line.split("  ", 1)[1] for line in out.splitlines()]
    assert lines == [
        "a: phase idle",
        "a: phase downloading (was idle)",
        "b: new: phase idle",
        "a: gone",
        "b: gone",
    ]


def test_nothing_is_said_to_be_nothing_once() -> None:
    out, _err = watched("table", [[], [], [IDLE]])
    assert out.splitlines()[0] == "There is no device yet."
    assert len(out.splitlines()) == 2


def test_a_program_gets_each_thing_that_changed_as_a_document() -> None:
    out, _err = watched("json", [[IDLE], [LATER], [BUSY], []])
    assert [json.loads(line) for line in out.splitlines()] == [IDLE, BUSY, {"gone": "a"}]
    out, _err = watched("yaml", [[IDLE], [BUSY]])
    assert out.count("---\n") == 2
    assert watched("name", [[IDLE], [BUSY], []])[0] == "a\na\n"


def test_a_server_that_goes_away_is_waited_for_and_said_to_be_away_once() -> None:
    away = UnreachableError("the server cannot be reached.")
    out, err = watched("table", [[IDLE], away, away, away, [BUSY]])
    assert err.count("Waiting for it to come back") == 1
    assert "phase downloading (was idle)" in out


def test_one_thing_is_watched_until_it_is_decided() -> None:
    pages = iter([{"id": "a", "phase": phase} for phase in ("running", "running", "completed")])
    out = io.StringIO()
    code = following.watch_record(
        Output("table", out, io.StringIO()),
        lambda: next(pages),
        lambda _page: COLUMNS[:2],
        key=COLUMNS[0],
        timeout_s=None,
        verdict=lambda page: 0 if page["phase"] == "completed" else None,
    )
    assert code == 0
    assert out.getvalue().splitlines()[-1].endswith("a: phase completed (was running)")


@pytest.mark.parametrize(("verdict", "expected"), [(None, 0), (lambda _page: None, 3), (lambda _page: 1, 1)])
def test_the_exit_code_after_the_time_says_whether_something_was_to_be_decided(verdict: Any, expected: int) -> None:
    output = Output("table", io.StringIO(), io.StringIO())
    code = following.watch_record(
        output, lambda: IDLE, lambda _page: COLUMNS, key=COLUMNS[0], timeout_s=0.05, verdict=verdict
    )
    assert code == expected


def test_a_list_of_devices_is_watched_as_they_change(office: Office) -> None:
    watching = office.start("device", "list", "--watch", "-o", "json", name="list")
    with office.device("seen-1") as peer:
        watching.wait_for_line('"device_id": "seen-1"', timeout_s=30)
        push(office, "51.0.0", "--immediate")
        take(office, peer, "seen-1", office.json("release", "show", "v1")["release"]["release_id"], "51.0.0")
        watching.wait_for_line('"version": "51.0.0", "build": 0', timeout_s=30)
    watching.process.send_signal(2)
    assert watching.process.wait(30) == 130


def test_one_device_is_watched_for_a_time(office: Office) -> None:
    with office.device("timed-1"):
        said = office.call("device", "show", "timed-1", "--watch", "--timeout", "0.2s")
    assert "timed-1: " in said.out


def test_a_plan_is_watched_until_it_is_over(office: Office) -> None:
    office.call("group", "create", "nobody-there")
    push(office, "51.1.0", "--group", "nobody-there", "--phase", "100%")
    name = office.call("release", "list", "--group", "nobody-there", "-o", "name").out.strip()
    office.call("release", "abort", name, "--yes")
    ended = office.call("release", "rollout", name, "--watch", "--timeout", "20s", expect=1)
    assert "status aborted" in ended.out
    push(office, "51.2.0", "--group", "nobody-there", "--phase", "50%:2h", "--again")
    name = office.call("release", "list", "--group", "nobody-there", "-o", "name").out.split()[0]
    office.call("release", "rollout", name, "--watch", "--timeout", "0.3", expect=3)


def test_an_ota_is_shown_watched_and_cancelled(office: Office) -> None:
    push(office, "51.3.0")
    with office.device("ota-of-1") as peer:
        ota_id = office.call("ota", "ota-of-1", "51.3.0", "-o", "name").out.strip()
        assert office.json("ota", "show", ota_id)["ota"]["status"] == "open"
        office.call("ota", "show", ota_id, "--watch", "--timeout", "0.3", expect=3)
        peer.publish(TOPICS.up("ota-of-1", "hello"), encode(hello_of(session=2)))
        assert office.json("ota", "cancel", ota_id)["ota"]["status"] == "cancelled"
    assert "there is no single-device OTA" in office.call("ota", "show", "ota-nowhere", expect=1).err


def test_on_a_terminal_the_place_is_written_over_and_left_clean(office: Office) -> None:
    main, side = pty.openpty()
    with subprocess.Popen(
        [FLEETLIFT, "device", "list", "--watch", "--timeout", "1s", "--home", office.home],
        env=os.environ | {"TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=side,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(side)
        seen = b""
        while block := _read(main):
            seen += block
        assert process.wait(30) == 0
    os.close(main)
    assert b"Ctrl-C to end" in seen
    assert b"\x1b[?25h" in seen, "the cursor is there again"


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other side is closed
        return b""
