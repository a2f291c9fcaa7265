"""A code becomes an identity over real HTTPS: whatever goes wrong, the token stays secret and the device as it was."""

from __future__ import annotations

import dataclasses
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from device_agent.identity import server as server_module
from device_agent.identity.enrolling import EnrolError
from device_agent.identity.server import ServerError
from device_agent.identity.store import IdentityFilesError
from device_agent.tls import verifying_context
from protocol.enrolment import Enrolled
from protocol.errors import FleetliftError
from tests.device_agent.identity.applicants import Device
from tests.support.certificates import Fleet
from tests.support.enrolment_desk import PRODUCT, TOKEN, EnrolmentDesk


def test_a_code_becomes_an_identity(device: Device, fleet: Fleet) -> None:
    identity = device.enrol()
    assert (identity.device_id, identity.product, identity.server) == ("pi-1", PRODUCT, device.desk.url)
    assert device.store.load() == identity
    assert device.root.read_text() == device.desk.roots[-1]
    assert device.store.authorities() == fleet.authorities.trusted("services").decode()
    issued = next(iter(device.desk.issued.values()))
    assert (identity.not_before_ms, identity.not_after_ms) == (issued.not_before_ms, issued.not_after_ms)
    verifying_context(device.store.authorities(), device.clock, device.store.pair(identity))
    directory = device.store.directory
    assert sorted(path.name for path in directory.iterdir()) == ["ca.crt", identity.certificate, "identity.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not any(TOKEN in line for line in device.said)


def test_the_token_goes_to_a_server_that_has_shown_who_it_is_and_to_no_other(device: Device) -> None:
    device.enrol()
    assert device.desk.asked == [("GET", "/trust"), ("POST", "")]
    assert [TOKEN.encode() in body for body in device.desk.bodies] == [False, True]


def test_somebody_between_is_told_from_the_server_by_the_codes_hashes(device: Device, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with EnrolmentDesk(Fleet(tmp_path / "other")) as impostor:
        with pytest.raises(EnrolError, match="another server, or somebody is between"):
            device.enrol(url=impostor.url)
        # He may hand on the real authorities, but cannot speak for them.
        impostor.ca = device.desk.fleet.authorities.trusted("services").decode()
        with pytest.raises(ServerError, match="from an authority that this device does not know"):
            device.enrol(url=impostor.url)
        assert {method for method, _ in impostor.asked} == {"GET"}
    assert device.is_as_it_was()


def test_a_root_that_the_code_does_not_name_is_not_taken(device: Device) -> None:
    code = dataclasses.replace(device.desk.code, root_sha256="0" * 64)
    with pytest.raises(EnrolError, match="does not have the root metadata"):
        device.enrol(code)
    assert device.is_as_it_was()
    assert device.desk.asked == [("GET", "/trust")]


def test_an_older_root_of_the_fleet_stays_and_a_foreign_one_stops_it(device: Device) -> None:
    device.root.parent.mkdir()
    device.root.write_text("a root of somebody else")
    with pytest.raises(EnrolError, match="root of another fleet"):
        device.enrol()
    assert ("POST", "") not in device.desk.asked
    device.root.write_text(device.desk.roots[0])
    device.enrol()
    assert device.root.read_text() == device.desk.roots[0]


def test_a_certificate_for_another_host_is_refused(device: Device) -> None:
    device.desk.stop()
    device.desk.start(("elsewhere.example",))
    with pytest.raises(ServerError, match="for another host"):
        device.enrol()
    assert ("POST", "") not in device.desk.asked


def test_an_answer_that_is_lost_is_had_by_asking_again(device: Device) -> None:
    device.desk.lost_answers = 2
    for _ in range(2):
        with pytest.raises(ServerError):
            device.enrol()
        assert device.store.load() is None
    identity = device.enrol()
    assert len(device.desk.issued) == 1
    assert device.store.load() == identity


def test_a_key_that_another_device_has_is_made_anew(device: Device) -> None:
    device.store.prepare()
    copied = device.store.next_key(device.keys).read_bytes()

    original = device.desk.answer

    def answer(path: str, body: bytes) -> object:
        if path == "" and not refused:
            refused.append(True)
            return 409, {"error": "key_taken", "message": "Another device has this key."}
        return original(path, body)

    refused: list[bool] = []
    device.desk.answer = answer  # type: ignore[method-assign]
    identity = device.enrol()
    assert refused
    assert copied not in device.store.pair(identity).read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: dataclasses.replace(it, device_id="pi-2"), "answered for pi-2"),
        (lambda it: dataclasses.replace(it, product="kettle"), "of kettle"),
        (lambda it: dataclasses.replace(it, certificate="nothing"), "one certificate"),
        (lambda it: dataclasses.replace(it, certificate=it.certificate * 2), "one certificate"),
        (lambda it: dataclasses.replace(it, certificate=it.ca), "not for this device's key"),
        (lambda it: dataclasses.replace(it, ca=it.certificate), "without the authority"),
        (lambda it: dataclasses.replace(it, ca=it.ca + it.certificate), "not of one"),
    ],
)
def test_an_answer_that_is_not_for_this_device_changes_nothing(
    device: Device, change: Callable[[Enrolled], Enrolled], said: str
) -> None:
    device.desk.change = change
    with pytest.raises(FleetliftError, match=said):
        device.enrol()
    assert device.store.load() is None
    device.desk.change = lambda answer: answer
    assert device.enrol().device_id == "pi-1"


def test_a_certificate_in_anothers_name_is_refused(device: Device) -> None:
    key = device.store
    key.prepare()
    csr = device.keys.request(key.next_key(device.keys), "pi-1")
    foreign = device.desk.fleet.authorities.issue_device(csr.encode(), "pi-2").pem.decode()
    device.desk.change = lambda it: dataclasses.replace(it, certificate=foreign)
    with pytest.raises(IdentityFilesError, match="certificate of 'pi-2', not pi-1"):
        device.enrol()
    assert device.store.load() is None


def test_a_refusal_is_told_with_its_reason(device: Device) -> None:
    device.desk.refusal = (403, {"error": "token_expired", "message": "The token has expired.\x1b[2J"})
    with pytest.raises(ServerError, match=r"refused: The token has expired\.\[2J \(token_expired\)") as refused:
        device.enrol()
    assert refused.value.code == "token_expired"
    device.desk.refusal = (403, {"code": "revoked", "detail": "The device was revoked."})
    with pytest.raises(ServerError, match=r"The device was revoked\. \(revoked\)"):
        device.enrol()


def _redirect(handler: Any) -> None:
    handler.send_response(302)
    handler.send_header("Location", "https://elsewhere.example/")
    handler.end_headers()


def _endless(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    block = b"x" * 65536
    for _ in range(200):
        handler.wfile.write(block)


def _short(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"{}")


def _nested(handler: Any) -> None:
    body = b"[" * 100_000
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (_redirect, "HTTP status 302"),
        (_endless, "an answer over"),
        (_short, "cut off"),
        (_nested, "no answer that can be read"),
        (lambda handler: handler.send_error(500), r"HTTP status 500 \(http_500\)"),
        (lambda handler: handler.wfile.write(b"\0" * 70_000), "http|BadStatusLine|line"),
    ],
)
def test_a_server_that_answers_oddly_is_told_and_not_followed(
    device: Device, raw: Callable[[Any], None], said: str
) -> None:
    device.desk.raw = raw
    with pytest.raises(ServerError, match=said):
        device.enrol()
    assert device.is_as_it_was()


def test_a_server_that_drips_is_left(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not ended.wait(0.05):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return

    device.desk.raw = drip
    monkeypatch.setattr(server_module, "TIMEOUT_S", 0.2)
    client = server_module.EnrolmentServer(
        device.desk.url,
        lambda: verifying_context(device.desk.fleet.authorities.trusted("services").decode(), device.clock),
        device.clock,
        timeout_s=0.2,
    )
    with pytest.raises(ServerError):
        client.trust()
    ended.set()


@contextmanager
def _plain_listener() -> Iterator[int]:
    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_nobody_there_and_no_tls_there_are_told(device: Device) -> None:
    with _plain_listener() as port, pytest.raises(ServerError, match="does not speak TLS on this port"):
        device.enrol(url=f"https://127.0.0.1:{port}")
    with pytest.raises(ServerError, match="refused"):
        device.enrol(url=f"https://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "url", ["", "http://host", "https://", "https://user@host", "https://host/path", "https://host:port", "https://h?q"]
)
def test_a_server_is_named_by_https_and_a_host(url: str) -> None:
    with pytest.raises(ServerError, match="not like https"):
        server_module.check_server(url)


def test_no_proxy_of_the_environment_is_asked(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert device.enrol().device_id == "pi-1"
