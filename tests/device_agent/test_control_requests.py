"""What the control socket makes of lines: strict, by name, and never the end of a connection."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.control_requests import MAX_LINE_BYTES
from tests.device_agent.stand_in import LineClient, StandInAgent

MALFORMED = [
    (b"", "bad_json"),
    (b"hello", "bad_json"),
    (b"[]", "bad_json"),
    (b"null", "bad_json"),
    (b'{"op": "status"', "bad_json"),
    (b'{"op": "status", "op": "enable"}', "bad_json"),
    (b'{"op": "disable", "until_s": NaN}', "bad_json"),
    (b'{"op": "disable", "until_s": ' + b"9" * 5000 + b"}", "bad_json"),
    (b'{"op": ' + b"[" * 8000, "bad_json"),
    (b'{"op": "hold", "why": ' + b"[" * 20 + b"]" * 20 + b"}", "bad_json"),
    (b'\xff\xfe{"op": "status"}', "bad_json"),
    (b"{}", "unknown_op"),
    (b'{"op": "reboot"}', "unknown_op"),
    (b'{"op": ["status"]}', "unknown_op"),
    (b'{"op": null}', "unknown_op"),
    (b'{"op": "status", "verbose": true}', "unknown_field"),
    (b'{"op": "enable", "until_s": 3}', "unknown_field"),
    (b'{"op": "status", "id": "one"}', "bad_value"),
    (b'{"op": "status", "id": true}', "bad_value"),
    (b'{"op": "status", "id": 1.5}', "bad_value"),
    (b'{"op": "disable", "until_s": 0}', "bad_value"),
    (b'{"op": "disable", "until_s": -5}', "bad_value"),
    (b'{"op": "disable", "until_s": 1.5}', "bad_value"),
    (b'{"op": "disable", "until_s": true}', "bad_value"),
    (b'{"op": "disable", "until_s": "3600"}', "bad_value"),
    (b'{"op": "disable", "until_s": 99999999999}', "bad_value"),
    (b'{"op": "disable", "why": 7}', "bad_value"),
    (b'{"op": "disable", "why": "' + b"x" * 201 + b'"}', "bad_value"),
    (b'{"op": "disable", "why": "\\u001b[2J"}', "bad_value"),
    (b'{"op": "hold"}', "bad_value"),
    (b'{"op": "hold", "why": " "}', "bad_value"),
    (b'{"op": "hold", "why": "x", "scope": []}', "bad_value"),
    (b'{"op": "hold", "why": "x", "scope": "install"}', "bad_value"),
    (b'{"op": "hold", "why": "x", "scope": ["reboot"]}', "bad_value"),
    (b'{"op": "hold", "why": "x", "ttl_s": 0}', "bad_value"),
    (b'{"op": "hold", "why": "x", "ttl_s": 86401}', "bad_value"),
    (b'{"op": "renew", "ttl_s": 5}', "bad_value"),
    (b'{"op": "renew", "hold": 1}', "bad_value"),
    (b'{"op": "renew", "hold": "h1"}', "unknown_hold"),
    (b'{"op": "release", "hold": "h1"}', "unknown_hold"),
]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[StandInAgent]:
    with StandInAgent(tmp_path / "control.sock") as started:
        yield started


@pytest.fixture
def client(agent: StandInAgent) -> Iterator[LineClient]:
    with LineClient(agent.path) as connected:
        yield connected


@pytest.mark.parametrize(("line", "code"), MALFORMED)
def test_a_bad_line_is_refused_by_name_and_the_connection_goes_on(
    line: bytes, code: str, agent: StandInAgent, client: LineClient
) -> None:
    client.send(line + b"\n")
    refusal = client.receive()
    assert refusal is not None
    assert (refusal["ok"], refusal["error"]) == (False, code)
    assert refusal["message"]
    assert client.ask("status")["ok"] is True
    assert agent.heard.empty()
    assert agent.server.holds() == ()


def test_a_refusal_carries_the_number_of_its_request(client: LineClient) -> None:
    client.send(b'{"op": "hold", "id": 7}\n{"op": "status"}\n')
    assert [(client.receive() or {}).get("id", "absent") for _ in range(2)] == [7, None]


def test_a_line_too_long_is_passed_over_to_its_end_without_being_kept(client: LineClient) -> None:
    longest = b'{"op": "status", "id": 1}'.ljust(MAX_LINE_BYTES)
    client.send(longest + b"\n")
    assert (client.receive() or {})["ok"] is True
    client.send(longest + b" \n")
    assert (client.receive() or {})["error"] == "too_long"
    for _ in range(200):  # 13 MB of one line: answered once, at once
        client.send(b"x" * 65536)
    assert (client.receive() or {})["error"] == "too_long"
    client.send(b'"}\n')
    assert client.ask("status")["ok"] is True


def test_lines_come_in_any_pieces(client: LineClient) -> None:
    lines = b'{"op": "status", "id": 1}\n{"op": "check", "id": 2}\n'
    for index in range(len(lines)):
        client.send(lines[index : index + 1])
    client.send(lines * 20)
    assert [(client.receive() or {})["id"] for _ in range(42)] == [1, 2] * 21
