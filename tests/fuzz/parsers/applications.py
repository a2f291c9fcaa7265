"""Targets: what the applications on a device say to its agent."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from device_agent.control import ControlServer, Hold
from device_agent.control_requests import ControlError, decode_id, decode_line, decode_request
from device_agent.health import HttpCheck, probe
from tests.fuzz.child import run_one_of
from tests.fuzz.parsers.wire import plain
from tests.fuzz.targets import Parse, Target


class _Handler:
    """An agent behind the socket, who does as he is told."""

    def status(self) -> dict[str, Any]:
        return {"updates_enabled": True, "pending": None}

    def disable(self, until: float | None, why: str) -> None:
        assert until is None or until > 0
        assert len(why) <= 200

    def enable(self) -> None:
        pass

    def check(self) -> None:
        pass

    def confirm(self) -> None:
        pass

    def ready(self) -> None:
        pass

    def consent(self, component: str | None) -> None:
        assert component is None or len(component) <= 64

    def defer(self, seconds: int, component: str | None) -> float:
        self.consent(component)
        return 1.0 * seconds

    def decline(self, component: str | None) -> None:
        self.consent(component)

    def why(self, component: str | None) -> list[dict[str, Any]]:
        self.consent(component)
        return []

    def data_synced(self, synced: bool) -> None:
        assert isinstance(synced, bool)

    def gauge(self, name: str, value: int, component: str | None) -> None:
        assert isinstance(name, str)
        assert isinstance(value, int)
        self.consent(component)

    def holds_changed(self, holds: tuple[Hold, ...]) -> None:
        assert len(holds) <= 64 * 64


def control_request(content: bytes) -> object:
    """One line of a control connection."""
    fields = decode_line(content)
    decode_id(fields)
    return type(decode_request(fields)).__name__


@contextlib.contextmanager
def control_socket(directory: Path) -> Iterator[Parse]:
    """A real control socket: whatever is written there, it answers the next request, and says nothing of a failure."""
    server = ControlServer(directory / "c.sock", _Handler())
    server.start()
    numbers = itertools.count(1_000_000)
    opened: list[tuple[socket.socket, Any]] = []

    def connect() -> None:
        while opened:
            for each in opened.pop():
                each.close()
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(str(directory / "c.sock"))
        opened.append((sock, sock.makefile("rb")))

    def parse(content: bytes) -> object:
        content = content[:32_000].replace(b'"subscribe"', b'"status"')
        number = next(numbers)
        if number % 64 == 0:
            connect()  # and with the old one go its holds
        sock, lines = opened[0]
        sock.sendall(content + b'\n{"op":"status","id":%d}\n' % number)
        codes = set[str]()
        while True:
            answer = json.loads(lines.readline())
            if answer.get("id") == number:
                return ",".join(sorted(codes))
            codes.add(str(answer.get("error")))
            assert answer.get("error") != "internal", answer

    connect()
    try:
        yield parse
    finally:
        for each in opened.pop():
            each.close()
        server.stop()


@contextlib.contextmanager
def health(_directory: Path) -> Iterator[Parse]:
    """An application that answers a health check with whatever it likes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        check = HttpCheck(f"http://127.0.0.1:{listener.getsockname()[1]}/health")
        answers: list[bytes] = []
        wanted = threading.Semaphore(0)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    wanted.acquire()
                    with sock, contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\1\0\0\0")
                        sock.recv(4096)
                        sock.sendall(answers.pop())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        def parse(content: bytes) -> object:
            answers.append(content)
            wanted.release()
            found = probe(check, 5.0, alive=lambda: True)
            assert len(found.detail) <= 300
            return found.passed

        yield parse
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


REQUESTS: Final = (
    b'{"op":"status","id":1}', b'{"op":"disable","until_s":60,"why":"dosing"}', b'{"op":"enable"}', b'{"op":"check"}',
    b'{"op":"hold","why":"printing","scope":["install","restart"],"ttl_s":60,"id":7}', b'{"op":"confirm"}',
    b'{"op":"renew","hold":"h1","ttl_s":60}', b'{"op":"release","hold":"h1"}', b'{"op":"ready","id":null}',
)  # fmt: skip

TARGETS: Final[tuple[Target, ...]] = (
    Target(
        name="control.request",
        make=plain(control_request),
        seeds=lambda: [*REQUESTS, b'{"op":"subscribe"}'],
        shape="json",
        expected=(ControlError,),
        covers=(
            "device_agent.control_requests.decode_line",
            "device_agent.control_requests.decode_id",
            "device_agent.control_requests.decode_request",
        ),
        words=(b"download", b"install", b"restart", b"status", b"hold"),
    ),
    Target(
        name="control.socket",
        make=control_socket,
        seeds=lambda: [*REQUESTS, b"\n".join(REQUESTS), b"x" * 9000 + b"\n" + REQUESTS[0]],
        shape="json",
        covers=("device_agent.control_socket.LineServer", "device_agent.control.ControlServer"),
        words=(b"\n", b"\n\n"),
    ),
    Target(
        name="agent.health",
        make=health,
        seeds=lambda: [
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nX: y\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
        shape="text",
        covers=("device_agent.health.probe",),
        words=(b"HTTP/1.1 ", b"HTTP/1.1 100 Continue\r\n\r\n", b"200", b"\r\n", b": ", b"Content-Length: -1\r\n"),
    ),
)

if __name__ == "__main__":
    sys.exit(run_one_of(TARGETS))
