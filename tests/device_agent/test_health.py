"""Health: probes of real servers and commands, and the judge, with time as data."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_agent.health import (
    AliveCheck,
    Check,
    ExecCheck,
    Health,
    HttpCheck,
    Observations,
    ProofFailed,
    Proved,
    ProvePolicy,
    Undecided,
    Verdict,
    judge,
    probe,
)
from protocol.errors import UserError
from protocol.phases import Reason

TIMEOUT_S = 10.0
DIGEST, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Serves one connection with a function of the test's; returns the URL."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(answer: Callable[[socket.socket], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def work() -> None:
            with contextlib.suppress(OSError):
                connection, _address = listener.accept()
                with connection:
                    answer(connection)

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/health?of=app"

    yield serve
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join()


def look(check: Check, timeout_s: float = TIMEOUT_S, *, alive: bool = True) -> Health:
    return probe(check, timeout_s, alive=lambda: alive)


def answering(text: str, seen: list[bytes] | None = None) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        request = connection.recv(65536)
        if seen is not None:
            seen.append(request)
        connection.sendall(text.encode())

    return answer


@pytest.mark.parametrize(
    ("status", "passed"),
    [("200 OK", True), ("204 No Content", True), ("302 Found", False), ("404 X", False), ("503 X", False)],
)
def test_http_passes_with_a_status_of_success(
    serve: Callable[[Callable[[socket.socket], None]], str], status: str, passed: bool
) -> None:
    seen: list[bytes] = []
    text = f"HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    health = look(HttpCheck(serve(answering(text, seen))))
    assert health.passed is passed
    assert passed or status.split(maxsplit=1)[0] in health.detail
    assert seen[0].startswith(b"GET /health?of=app HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "text", ["", "garbage\r\n\r\n", "HTTP/1.1 999999 X\r\n\r\n", "HTTP/1.1 200 OK\r\n" + "a: b\r\n" * 500]
)
def test_http_that_is_no_http_does_not_pass(serve: Callable[[Callable[[socket.socket], None]], str], text: str) -> None:
    health = look(HttpCheck(serve(answering(text))))
    assert not health.passed
    assert health.detail


def test_a_server_that_drips_is_not_waited_for(serve: Callable[[Callable[[socket.socket], None]], str]) -> None:
    """Each byte comes well within a socket's timeout; the answer never does."""

    def drip(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nA: ")
            while True:
                connection.sendall(b"x")
                time.sleep(0.01)

    begun = time.monotonic()
    health = look(HttpCheck(serve(drip)), 0.3)
    assert not health.passed
    assert "no answer within 0.3 s" in health.detail
    assert time.monotonic() - begun < TIMEOUT_S / 2


def test_a_server_that_is_silent_or_absent_does_not_pass(
    serve: Callable[[Callable[[socket.socket], None]], str],
) -> None:
    released = threading.Event()

    def silent(_connection: socket.socket) -> None:
        released.wait(TIMEOUT_S)

    health = look(HttpCheck(serve(silent)), 0.2)
    released.set()
    assert not health.passed
    assert "no answer within" in health.detail
    with socket.create_server(("127.0.0.1", 0)) as probe_port:
        port = probe_port.getsockname()[1]
    assert not look(HttpCheck(f"http://127.0.0.1:{port}/")).passed


def test_proxies_of_the_environment_are_not_asked(
    serve: Callable[[Callable[[socket.socket], None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert look(HttpCheck(serve(answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")))).passed


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "http://example.com/",
        "http://10.0.0.1/",
        "http://127.0.0.1.example.com/",
        "http://user@127.0.0.1/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:x/",
        "file:///etc/passwd",
        "127.0.0.1:80",
        "",
    ],
)
def test_http_asks_this_device_only(url: str) -> None:
    with pytest.raises(UserError, match="no health check"):
        HttpCheck(url)


def test_commands(tmp_path: Path) -> None:
    assert look(ExecCheck(("/bin/true",))).passed
    failed = look(ExecCheck(("/bin/sh", "-c", "echo not ready; exit 3")))
    assert failed == Health(passed=False, detail="exit code 3: not ready")
    late = look(ExecCheck(("/bin/sleep", "1000")), 0.2)
    assert late == Health(passed=False, detail="no end within 0.2 s")
    assert not look(ExecCheck(("/no/such/program",))).passed
    where = ExecCheck(("/bin/sh", "-c", 'test "$A" = b && test "$(pwd)" = "$0"', str(tmp_path)), {"A": "b"}, tmp_path)
    assert look(where).passed
    assert not look(ExecCheck(())).passed


def test_the_image_is_told_to_commands(tmp_path: Path) -> None:
    check = ExecCheck(("/bin/sh", "-c", 'test "$0" = /slots/a/image', "{image}"))
    assert probe(check, TIMEOUT_S, alive=lambda: True, image=Path("/slots/a/image")).passed


@pytest.mark.parametrize("check", [AliveCheck(), ExecCheck(("/bin/true",)), HttpCheck("http://127.0.0.1:1/")])
def test_nothing_that_does_not_run_is_healthy(check: Check) -> None:
    assert look(check, alive=False) == Health(passed=False, detail="it does not run")


def test_alive_is_enough_where_nothing_else_is_asked() -> None:
    assert look(AliveCheck()).passed


def test_a_probe_never_raises() -> None:
    def broken() -> bool:
        raise KeyError("a bug")

    health = probe(AliveCheck(), TIMEOUT_S, alive=broken)
    assert not health.passed
    assert "KeyError" in health.detail


# The judge. A story is what was seen at which second since the start, a verdict is asked for at its end.

POLICY = ProvePolicy(soak_s=10.0, prove_timeout_s=60.0, needs_broker=False, probe_s=3.0)
START = 1000.0
Story = list[tuple[float, str]]


def told(story: Story) -> Observations:
    seen = Observations(started_s=START, expected_digest=DIGEST, booted_digest=DIGEST)
    for at_s, what in story:
        match what:
            case "pass":
                seen = seen.probed(START + at_s, Health(passed=True))
            case "fail":
                seen = seen.probed(START + at_s, Health(passed=False, detail="status 503"))
            case "broker":
                seen = seen.reached_broker()
            case "confirm":
                seen = seen.was_confirmed()
            case "end":
                seen = seen.ended_by_itself("exit code 1")
    return seen


def verdict(story: Story, now_s: float, policy: ProvePolicy = POLICY) -> Verdict:
    return judge(told(story), policy, START + now_s)


STEADY: Story = [(at_s, "pass") for at_s in (0.0, 2.0, 4.0, 6.0, 8.0)]


@pytest.mark.parametrize(
    ("story", "now_s", "expected"),
    [
        ([], 0.0, Undecided(START + 60.0)),
        ([], 59.9, Undecided(START + 60.0)),
        ([], 60.0, Reason.HEALTH_FAILED),
        ([(0.0, "pass")], 0.0, Undecided(START + 10.0)),
        ([*STEADY, (10.0, "pass")], 10.0, Proved()),
        ([*STEADY, (9.9, "pass")], 9.9, Undecided(START + 10.0)),
        # time alone proves nothing: the last probe that passed is too old
        (STEADY, 10.5, Undecided(START + 60.0)),
        (STEADY, 60.0, Reason.HEALTH_FAILED),
        # slow starters
        ([(at_s, "fail") for at_s in range(0, 50, 5)], 50.0, Undecided(START + 60.0)),
        ([(50.0, "fail"), (59.0, "pass")], 59.0, Undecided(START + 69.0)),
        ([(50.0, "fail"), (59.0, "pass")], 68.0, Undecided(START + 69.0)),
        ([(50.0, "fail"), (59.0, "pass"), (64.0, "pass")], 70.0, Undecided(START + 72.0)),
        ([(50.0, "fail"), (59.0, "pass"), (64.0, "pass")], 72.0, Reason.HEALTH_FAILED),
        ([(50.0, "fail"), (59.0, "pass"), (69.0, "pass")], 69.0, Proved()),
        ([(60.5, "pass")], 60.5, Reason.HEALTH_FAILED),
        # passes its first second, and then fails
        ([(0.0, "pass"), (1.0, "pass"), (2.0, "fail")], 2.0, Undecided(START + 60.0)),
        ([(0.0, "pass"), (1.0, "pass"), (2.0, "fail"), (3.0, "fail")], 3.0, Reason.HEALTH_FAILED),
        ([(0.0, "pass"), (9.0, "fail"), (9.5, "fail"), (10.0, "pass")], 10.0, Undecided(START + 20.0)),
        # one slow probe costs time, not the version
        ([(0.0, "pass"), (5.0, "fail"), (6.0, "pass"), (12.0, "pass")], 12.0, Undecided(START + 16.0)),
        ([(0.0, "pass"), (5.0, "fail"), (6.0, "pass"), (16.0, "pass")], 16.0, Proved()),
        # a version that comes and goes is never proved
        ([(at_s, "pass" if at_s % 2 else "fail") for at_s in range(60)], 59.9, Undecided(START + 69.0)),
        ([(at_s, "pass" if at_s % 2 else "fail") for at_s in range(64)], 64.0, Reason.HEALTH_FAILED),
        # ended by itself: whatever was before
        ([(0.0, "end")], 0.0, Reason.START_FAILED),
        ([*STEADY, (9.0, "end"), (10.0, "pass")], 10.0, Reason.START_FAILED),
    ],
)
def test_health_is_judged(story: Story, now_s: float, expected: Verdict | Reason) -> None:
    found = verdict(story, now_s)
    assert (found.reason if isinstance(found, ProofFailed) else found) == expected


BOTH = ProvePolicy(soak_s=10.0, prove_timeout_s=60.0, needs_confirm=True, needs_broker=True, probe_s=3.0)
SOAKED: Story = [(0.0, "pass"), (10.0, "pass")]


@pytest.mark.parametrize(
    ("story", "now_s", "expected"),
    [
        ([*SOAKED, (10.0, "broker"), (10.0, "confirm")], 10.0, Proved()),
        ([(0.0, "confirm"), (0.0, "broker"), *SOAKED], 10.0, Proved()),
        (SOAKED, 10.0, Undecided(START + 60.0)),
        (SOAKED, 60.0, Reason.BROKER_UNREACHED),
        ([*SOAKED, (10.0, "broker")], 59.0, Undecided(START + 60.0)),
        ([*SOAKED, (10.0, "broker")], 60.0, Reason.NOT_CONFIRMED),
        ([*SOAKED, (10.0, "confirm")], 60.0, Reason.BROKER_UNREACHED),
        # a late soak gives the others its time, too
        ([(58.0, "pass"), (68.0, "pass"), (68.0, "broker")], 70.0, Undecided(START + 71.0)),
        ([(58.0, "pass"), (68.0, "pass"), (68.0, "broker")], 71.0, Reason.NOT_CONFIRMED),
        # confirmed and connected, but ill
        ([(0.0, "pass"), (1.0, "broker"), (1.0, "confirm"), (2.0, "fail"), (3.0, "fail")], 3.0, Reason.HEALTH_FAILED),
        ([(0.0, "broker"), (0.0, "confirm")], 60.0, Reason.HEALTH_FAILED),
    ],
)
def test_broker_and_confirmation_are_judged(story: Story, now_s: float, expected: Verdict | Reason) -> None:
    found = verdict(story, now_s, BOTH)
    assert (found.reason if isinstance(found, ProofFailed) else found) == expected


def test_another_image_is_no_proof() -> None:
    seen = Observations(started_s=START, expected_digest=DIGEST, booted_digest=OTHER)
    seen = seen.probed(START, Health(passed=True)).probed(START + 10.0, Health(passed=True))
    found = judge(seen, POLICY, START + 10.0)
    assert isinstance(found, ProofFailed)
    assert found.reason is Reason.WRONG_BOOT


def test_no_soak_still_wants_one_probe_that_passes() -> None:
    policy = ProvePolicy(soak_s=0.0, prove_timeout_s=5.0, needs_broker=False)
    assert isinstance(verdict([], 1.0, policy), Undecided)
    assert verdict([(1.0, "pass")], 1.0, policy) == Proved()


def test_undecided_never_asks_for_a_time_that_is_over() -> None:
    for now_s in range(75):
        for story in ([], STEADY, [(59.0, "pass")], [(0.0, "pass"), (5.0, "fail")], SOAKED):
            found = verdict([item for item in story if item[0] <= now_s], float(now_s), BOTH)
            assert not isinstance(found, Undecided) or found.until_s > START + now_s
