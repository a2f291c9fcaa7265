"""Runs the application as a child that outlives the agent: started, watched, restarted, ended, and found again.

1. Nothing is started that was not hashed, right then, to the digest that it should have.
2. The application leads a session of its own, writes its output straight into its log file and knows nothing of the
   agent's end: when the agent dies, it keeps running, and the next agent adopts it.
3. It waits behind a gate (a shell that reads a line) until its number is on record: however the agent dies, there is
   no application that the next agent does not know of.
4. When it ends by itself it is told (`exited`), and restarted with back-off if it is to be kept up.
5. Ending it ends all of its group; nothing of one version is left when the next starts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from device_agent.commands import expand
from device_agent.processes import Identity, end_group, has_ended, identify, open_process
from device_agent.slots import durable
from device_agent.supervision import ApplicationError, Exit, RestartPolicy, check_image, restart_after
from protocol.codec import decode, encode
from protocol.errors import ProtocolError
from protocol.identity import check_digest
from protocol.phases import Reason

PASSED_VARIABLES: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""What of the agent's own environment an application gets, if nothing else is listed."""
LOG_BYTES: Final = 1024 * 1024
_LOG_CHECK_S: Final = 5.0
_GATE: Final = 'read -r fleetlift_gate || exit 125; cd -- "$1" || exit 126; shift; exec "$@" </dev/null'
_RESET_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ)
_LOG = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """`application.json`: the process, and the digest of the image that it was started from."""

    process: Identity
    digest: str

    def __post_init__(self) -> None:
        check_digest(self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Launch:
    """What is to run."""

    image: Path
    digest: str
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """What runs: its number, its pidfd, whether it is our child, and since when (seconds of the monotonic clock)."""

    pid: int
    descriptor: int
    is_child: bool
    since_s: float


class Application:
    """One component's application; a thread of its own, alive from here to `close`, starts, watches and ends it.

    `directory` (private, the agent's) holds application.json and application.log; `working_directory` is the
    application's. `command` may hold `{python}` and `{image}`. It gets `environment`, those of the agent's variables
    that `passed` lists, and what is given to `start`.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        working_directory: Path,
        *,
        environment: Mapping[str, str] | None = None,
        passed: Sequence[str] = PASSED_VARIABLES,
        restart: RestartPolicy | None = None,
        log_bytes: int = LOG_BYTES,
        log_check_s: float = _LOG_CHECK_S,
        stop_timeout_s: float = 10.0,
    ) -> None:
        self._command = tuple(command)
        self._working_directory = working_directory
        self._record_path = directory / "application.json"
        self._log_path = directory / "application.log"
        self._environment = {name: os.environ[name] for name in passed if name in os.environ} | dict(environment or {})
        self._policy = restart or RestartPolicy()
        self._log_bytes = log_bytes
        self._log_check_s = log_check_s
        self._stop_timeout_s = stop_timeout_s
        self._callbacks: list[Callable[[Exit], None]] = []
        self._launch: _Launch | None = None
        self._running: _Running | None = None
        self._keep_up = False
        self._crashes = 0
        self._restart_due_s: float | None = None
        self._closing = False
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._supervise, name=f"application {directory.name}", daemon=True)
        for path in (directory, working_directory):
            path.mkdir(mode=durable.DIRECTORY_MODE, parents=True, exist_ok=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The application's process, or None."""
        running = self._running
        return running.pid if running else None

    def alive(self) -> bool:
        """Tell whether it runs."""
        return self._call(lambda: self._running is not None and not has_ended(self._running.descriptor))

    def exited(self, callback: Callable[[Exit], None]) -> None:
        """Have `callback` called, in this application's thread, when it ends by itself."""
        self._callbacks.append(callback)

    def start(self, image: Path, *, digest: str, environment: Mapping[str, str], keep_up: bool) -> str:
        """End what runs and start `image` if it has `digest`; return the digest that was started."""
        launch = _Launch(image=image, digest=digest, environment=dict(environment))
        self.stop(self._stop_timeout_s)
        check_image(launch.image, launch.digest)

        def begin() -> None:
            self._launch, self._keep_up, self._crashes = launch, keep_up, 0
            self._spawn(launch)

        self._call(begin)
        return digest

    def adopt(self, image: Path, *, digest: str, environment: Mapping[str, str], keep_up: bool) -> bool:
        """Take over what an agent before started if it runs `digest`, else end it; tell whether it runs."""

        def take_over() -> bool:
            record = self._load_record()
            descriptor = open_process(record.process) if record else None
            if record is None or descriptor is None:
                return False
            self._running = _Running(
                pid=record.process.pid, descriptor=descriptor, is_child=False, since_s=time.monotonic()
            )
            if record.digest != digest:
                _LOG.info("the application that runs is not of the current image: it is ended")
                self._end(self._stop_timeout_s)
                return False
            self._launch, self._keep_up = _Launch(image=image, digest=digest, environment=dict(environment)), keep_up
            return True

        return self._call(take_over)

    def keep_up(self, wanted: bool) -> None:
        """Restart it, or do not, when it ends by itself, or just has; a restart that is due is taken back."""

        def decide() -> None:
            self._keep_up = wanted
            if not wanted:
                self._restart_due_s = None
            elif self._running is None and self._launch is not None and self._restart_due_s is None:
                self._restart_due_s = time.monotonic() + self._policy.first_s

        self._call(decide)

    def stop(self, timeout_s: float) -> None:
        """End its whole group: SIGTERM, then SIGKILL after `timeout_s`. It stays down."""
        self._call(lambda: self._end(timeout_s))

    def close(self) -> None:
        """Watch it no longer; it keeps running, for the next agent to adopt."""

        def end_thread() -> None:
            self._closing = True

        if self._thread.is_alive():
            self._call(end_thread)
            self._thread.join()

    def log_tail(self, max_bytes: int = 400) -> str:
        """Return the end of what the application wrote."""
        try:
            with self._log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - max_bytes))
                return log.read(max_bytes).decode(errors="replace").strip()
        except OSError:
            return ""

    def _call(self, task: Callable[[], T]) -> T:
        """Have the application's thread do it, and wait for what it returns or raises."""
        if not self._thread.is_alive():
            raise ApplicationError(Reason.START_FAILED, "the application's supervisor is closed: nothing was done")
        future: Future[T] = Future()
        self._tasks.put((task, future))
        os.eventfd_write(self._wake, 1)
        return future.result()

    def _supervise(self) -> None:
        log_due_s = time.monotonic() + self._log_check_s
        while not self._closing:
            waiting = select.poll()
            waiting.register(self._wake, select.POLLIN)
            if self._running is not None:
                waiting.register(self._running.descriptor, select.POLLIN)
            due_s = log_due_s if self._restart_due_s is None else min(log_due_s, self._restart_due_s)
            waiting.poll(max(0.0, due_s - time.monotonic()) * 1000)
            self._work_off()
            if self._running is not None and has_ended(self._running.descriptor):
                self._take_note_of_end(self._running)
            if self._restart_due_s is not None and time.monotonic() >= self._restart_due_s:
                self._restart()
            if time.monotonic() >= log_due_s:
                self._rotate_log()
                log_due_s = time.monotonic() + self._log_check_s
        if self._running is not None:
            os.close(self._running.descriptor)
        os.close(self._wake)

    def _work_off(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        with contextlib.suppress(queue.Empty):
            while True:
                task, future = self._tasks.get_nowait()
                try:
                    future.set_result(task())
                except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
                    future.set_exception(error)

    def _spawn(self, launch: _Launch) -> None:
        command = ["sh", "-c", _GATE, "sh", str(self._working_directory), *expand(self._command, launch.image)]
        gate, opening = os.pipe()
        try:
            pid = self._fork(command, self._environment | dict(launch.environment), gate)
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            self._running = _Running(pid=pid, descriptor=descriptor, is_child=True, since_s=time.monotonic())
            process = identify(pid)
            assert process is not None  # noqa: S101 - our child, not reaped yet
            durable.write_file(self._record_path, encode(_Record(process=process, digest=launch.digest)))
            os.write(opening, b"\n")
        except OSError as error:
            self._end(0.0)
            raise ApplicationError(Reason.START_FAILED, f"the application could not be started: {error}") from error
        finally:
            os.close(gate)
            os.close(opening)

    def _fork(self, command: list[str], environment: Mapping[str, str], gate: int) -> int:
        log = os.open(self._log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            return os.posix_spawn(
                "/bin/sh",
                command,
                environment,
                file_actions=[
                    *((os.POSIX_SPAWN_DUP2, there, here) for there, here in ((gate, 0), (log, 1), (log, 2))),
                    *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable()),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=_RESET_SIGNALS,
            )
        finally:
            os.close(log)

    def _end(self, timeout_s: float) -> None:
        self._restart_due_s, self._launch = None, None
        running = self._running
        if running is not None:
            if not end_group(running.pid, running.descriptor, timeout_s):
                _LOG.error("process group %d does not end, not even when killed", running.pid)
            self._forget(running)

    def _forget(self, running: _Running) -> int | None:
        """Return the exit code of what has ended, if it is ours to know."""
        code = None
        if running.is_child and has_ended(running.descriptor):
            code = os.waitstatus_to_exitcode(os.waitpid(running.pid, 0)[1])
        os.close(running.descriptor)
        self._running = None
        self._record_path.unlink(missing_ok=True)
        return code

    def _take_note_of_end(self, running: _Running) -> None:
        end_group(running.pid, running.descriptor, 0.0)
        code, ran_s = self._forget(running), time.monotonic() - running.since_s
        wait_s: float | None = None
        if self._keep_up and self._launch is not None:
            self._crashes, wait_s = restart_after(self._policy, self._crashes, ran_s)
            self._restart_due_s = time.monotonic() + wait_s
        detail = f"ended after {ran_s:.1f} s{_why(code)}"
        _LOG.warning("the application %s; %s", detail, "it stays down" if wait_s is None else f"again in {wait_s:g} s")
        self._tell(Exit(code=code, ran_s=ran_s, restart_in_s=wait_s, detail=detail))

    def _restart(self) -> None:
        launch, self._restart_due_s = self._launch, None
        if launch is None:
            return
        try:
            check_image(launch.image, launch.digest)
            self._spawn(launch)
        except ApplicationError as error:
            self._launch = None
            _LOG.error("%s", error)
            self._tell(Exit(code=None, ran_s=0.0, detail=str(error)))

    def _tell(self, ended: Exit) -> None:
        for callback in self._callbacks:
            try:
                callback(ended)
            except Exception:  # noqa: BLE001 - whatever it is, it must not end the supervision
                _LOG.exception("a listener failed; the application is supervised all the same")

    def _load_record(self) -> _Record | None:
        content = durable.read_file(self._record_path, 4096)
        try:
            return decode(content, _Record) if content else None
        except ProtocolError:
            return None

    def _rotate_log(self) -> None:
        """Keep the end of a log that has grown, and empty it in place: the application has it open, and appends."""
        try:
            size_bytes = self._log_path.stat().st_size
            if size_bytes > self._log_bytes:
                with self._log_path.open("rb") as log:
                    log.seek(size_bytes - self._log_bytes)
                    durable.write_file(self._log_path.with_suffix(".log.1"), log.read(self._log_bytes))
                os.truncate(self._log_path, 0)
        except FileNotFoundError:
            pass
        except OSError as error:
            _LOG.warning("the application's log could not be cut: %s", error)


def _inheritable() -> Iterator[int]:
    """Yield what whoever started the agent left open for its children: Python's own descriptors are not."""
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if int(path.name) > 2 and os.get_inheritable(int(path.name)):
                yield int(path.name)


def _why(code: int | None) -> str:
    if code is None:
        return ""
    if code < 0:
        return f", killed by {signal.Signals(-code).name}"
    return f", exit code {code}" + {125: " (before it began)", 126: " (not executable)", 127: " (no such command)"}.get(
        code, ""
    )
