"""A broker in a process of its own: Mosquitto where there is one, else amqtt, so that either side can die alone.

`EmbeddedBroker` is what `fleetlift serve` without a broker URL, the demo and the tests use. The child cannot outlive
its parent, not even one killed by SIGKILL: a watchdog (a shell, blocked in a read) holds the reading end of a pipe
whose writing end only the parent keeps, learns the child's pid through it before the child becomes a broker, and ends
the child when the pipe ends. Unlike PR_SET_PDEATHSIG this does not depend on the thread that started the child.
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from cloud.broker_config import LOOPBACK, derive_plain_config, mosquitto_settings
from cloud.broker_files import CONFIG_FILE, BrokerFiles
from cloud.connection import Tls
from protocol.errors import FleetliftError

BrokerKind = Literal["mosquitto", "amqtt"]

HOST = LOOPBACK
_SBIN = ("/usr/local/sbin", "/usr/sbin")  # where packages put mosquitto; not on everybody's PATH
_POLL_S = 0.01
_STOP_TIMEOUT_S = 10.0
_LOG_TAIL_LINES = 12
_PORT_ATTEMPTS = 5
FIRST_PORT = 10_240
EPHEMERAL_PORT = 32_768
"""From here on Linux hands out ports to outgoing connections: one that is free now may be taken a moment later."""
_ADDRESS_IN_USE = "ddress already in use"
_READY = {"mosquitto": " running", "amqtt": "amqtt listening"}

# A chunk that is passed on is memory taken and given back. By itself glibc gives it back to the system each time (from
# 128 KiB on), and faults it in again: half of the broker's work. The window of a device or two may stay.
_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(16 * 1024 * 1024)}

_LAUNCH = 'echo "$$"; exec "$@" >&2'  # the pid goes to the watchdog, then the same process becomes the broker
_WATCH = """
IFS= read -r broker || exit 0
while IFS= read -r _; do :; done
kill -TERM "$broker" 2>/dev/null || exit 0
for _ in 1 2 3 4 5; do sleep 1; kill -0 "$broker" 2>/dev/null || exit 0; done
kill -KILL "$broker"
"""


class BrokerError(FleetliftError):
    """The embedded broker was not found, did not start or did not answer; the text ends with its last log lines."""


class BrokerAddressError(BrokerError):
    """Somebody else listens on the port."""


def find_mosquitto() -> str | None:
    """Return the path of the `mosquitto` executable or None: the PATH first, then where system services live."""
    return shutil.which("mosquitto", path=os.pathsep.join((os.environ.get("PATH") or os.defpath, *_SBIN)))


def choose_kind() -> BrokerKind:
    """Return the broker to embed on this machine: Mosquitto where it is installed, else amqtt.

    Raises:
        BrokerError: neither is installed.
    """
    if find_mosquitto() is not None:
        return "mosquitto"
    if importlib.util.find_spec("amqtt") is not None:
        return "amqtt"
    raise BrokerError(
        "no broker found, nothing was started. Install Mosquitto (apt install mosquitto) or the embedded broker "
        "(pip install 'fleetlift[embedded-broker]'), or name a running broker by its URL"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """A broker with certificates: the cloud's listener on loopback, and the address that devices reach.

    The broker's directory holds what `BrokerFiles.write_access` and a `server.pem` put there. `tls` is how the broker
    is asked whether it is ready: the cloud's own certificate. Port 0: a free one, kept from the first start on.
    """

    tls: Tls
    cloud_port: int = 0
    device_host: str = HOST
    """Where devices are listened for; empty: at every address."""


class EmbeddedBroker:
    """One broker child; starts again on the same ports and data after `stop()` or `kill()`.

    Plain, it listens on loopback and lets everybody in. `secured` (Mosquitto alone), it runs on `mosquitto.conf` in
    its directory, derived at every start, with the certificates and access rules that are there.

    Mosquitto keeps sessions and retained messages across a clean stop. amqtt keeps nothing across a restart, speaks
    MQTT 3.1.1 only, has no shared subscriptions and no bound on a slow subscriber's queue: it is for one machine and a
    handful of devices. Blocking (up to `start_timeout_s`): from a coroutine use `asyncio.to_thread`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        kind: BrokerKind | None = None,
        secured: Secured | None = None,
        start_timeout_s: float = 20.0,
    ) -> None:
        """Take the directory for data and log (made, 0700), a port (0: a free one, kept from the first start on).

        Raises BrokerError: it is to be secured, and is no Mosquitto.
        """
        self.data_dir = data_dir.absolute()
        self.kind: BrokerKind = kind or choose_kind()
        self.log_path = self.data_dir / "broker.log"
        if secured is not None and self.kind != "mosquitto":
            raise BrokerError(f"{self.kind} has no TLS, nothing was started. Install Mosquitto (apt install mosquitto)")
        self.secured = secured
        self._port = port
        self._cloud_port = 0 if secured is None else secured.cloud_port
        self._start_timeout_s = start_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The devices' TCP port; 0 before the first start when any was allowed."""
        return self._port

    @property
    def cloud_port(self) -> int:
        """The cloud's TCP port on loopback: another one where it is secured, else the same."""
        return self._port if self.secured is None else self._cloud_port

    @property
    def url(self) -> str:
        """`mqtt://127.0.0.1:<port>`, or `mqtts://`: what devices on this machine reach it by."""
        return f"{'mqtt' if self.secured is None else 'mqtts'}://{HOST}:{self._port}"

    @property
    def cloud_url(self) -> str:
        """`mqtt://127.0.0.1:<cloud_port>`, or `mqtts://`."""
        return f"{'mqtt' if self.secured is None else 'mqtts'}://{HOST}:{self.cloud_port}"

    @property
    def pid(self) -> int:
        """The broker's process id.

        Raises:
            BrokerError: it is not running.
        """
        if self._child is None or not self.is_running:
            raise BrokerError("the embedded broker is not running; call start() first")
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Whether the child is alive now."""
        if self._child is None:
            return False
        if self._child.poll() is None:
            return True
        self._dismiss_watchdog()  # before the system can give the pid to somebody else
        return False

    def start(self) -> None:
        """Start the broker and return when it has answered a CONNECT.

        Raises:
            BrokerAddressError: a given port is taken.
            BrokerError: it is running already, is not installed, ended, or did not answer within `start_timeout_s`.
        """
        if self.is_running:
            raise BrokerError(f"the embedded broker is running already on {self.url}")
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        any_port = self._port == 0 or self.cloud_port == 0
        for attempts_left in reversed(range(_PORT_ATTEMPTS if any_port else 1)):
            port = self._port or free_port()
            cloud_port = port if self.secured is None else self._cloud_port or free_port()
            try:
                self._start_on(port, cloud_port)
            except BrokerAddressError:  # between our look and the child's bind somebody else took the free port
                if attempts_left == 0:
                    raise
            else:
                self._port, self._cloud_port = port, cloud_port
                return

    def stop(self) -> None:
        """End the broker as its operator would (SIGTERM, so Mosquitto saves); after a timeout, SIGKILL. Idempotent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker as a power cut would: SIGKILL, nothing saved. Idempotent."""
        self._end(signal.SIGKILL)

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """Return the last `lines` of the log since the last start, or an empty string."""
        return "\n".join(self._log().splitlines()[-lines:])

    def _log(self) -> str:
        try:
            return self.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on(self, port: int, cloud_port: int) -> None:
        command = self._command(port, cloud_port)
        launcher = ("/bin/sh", "-c", _LAUNCH, "sh", *command)
        # Sessions of their own: a Ctrl-C in the terminal is for the parent to act on, not for them to die of.
        self.log_path.touch(mode=0o600)
        with self.log_path.open("wb") as log:
            self._watchdog = subprocess.Popen(
                ("/bin/sh", "-c", _WATCH), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )
            self._child = subprocess.Popen(
                launcher,
                stdin=subprocess.DEVNULL,
                stdout=self._watchdog.stdin,
                stderr=log,
                cwd=self.data_dir,
                env=os.environ | _ENVIRONMENT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(self._child, port, cloud_port)
        except BaseException:
            self.kill()
            raise

    def _command(self, port: int, cloud_port: int) -> Sequence[str]:
        if self.kind == "amqtt":
            return (sys.executable, "-m", "cloud.broker_amqtt", str(port))
        executable = find_mosquitto()
        if executable is None:
            raise BrokerError("Mosquitto is not installed, nothing was started. Install it: apt install mosquitto")
        config_path = self.data_dir / CONFIG_FILE
        if self.secured is not None:
            BrokerFiles(self.data_dir).write_config((self.secured.device_host, port), (HOST, cloud_port))
        else:
            plain = derive_plain_config(mosquitto_settings(), port=port, data_dir=self.data_dir)
            config_path.write_text(plain, encoding="utf-8")
            config_path.chmod(0o600)
        return (executable, "-c", str(config_path))

    def _wait_until_ready(self, child: subprocess.Popen[bytes], port: int, cloud_port: int) -> None:
        """Wait for the child's word that it listens (another broker could answer on its port), then a CONNACK."""
        tls = None if self.secured is None else self.secured.tls
        deadline = time.monotonic() + self._start_timeout_s
        ready = False
        while time.monotonic() < deadline:
            ready = ready or _READY[self.kind] in self._log()  # all of it: clients are loud
            if child.poll() is not None:
                raise self._ended_error(port, cloud_port, child.returncode)
            if ready and _answers(cloud_port, tls, timeout_s=deadline - time.monotonic()):
                return
            time.sleep(_POLL_S)
        raise BrokerError(
            f"{self.kind} did not answer on {HOST}:{cloud_port} within {self._start_timeout_s:g} s and was stopped. "
            f"Its last log lines:\n{self.log_tail()}"
        )

    def _ended_error(self, port: int, cloud_port: int, code: int) -> BrokerError:
        tail = self.log_tail()
        if _ADDRESS_IN_USE in tail:
            which = f"port {port}" if port == cloud_port else f"port {port} or {cloud_port}"
            return BrokerAddressError(
                f"{self.kind} could not start: {which} on {HOST} is taken. Nothing was changed. "
                f"Stop what listens there or choose another port. Its last log lines:\n{tail}"
            )
        return BrokerError(f"{self.kind} ended with code {code} before it was ready. Its last log lines:\n{tail}")

    def _end(self, how: signal.Signals) -> None:
        child, self._child = self._child, None
        if child is not None and child.poll() is None:
            child.send_signal(how)
            try:
                child.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._dismiss_watchdog()

    def _dismiss_watchdog(self) -> None:
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is None:
            return
        watchdog.kill()
        watchdog.wait()
        if watchdog.stdin is not None:
            watchdog.stdin.close()


def free_port() -> int:
    """Return a TCP port on loopback that nobody listens on just now, and that no outgoing connection is given."""
    while True:
        port = FIRST_PORT + secrets.randbelow(EPHEMERAL_PORT - FIRST_PORT)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def _answers(port: int, tls: Tls | None, *, timeout_s: float) -> bool:
    """Whether a broker on the port accepts a session: CONNACK, not just an open port. Raises TlsError."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="fleetlift.readiness")
    if tls is not None:
        client.tls_set_context(tls.context())
    client.connect_timeout = max(timeout_s, _POLL_S)
    try:
        client.connect(HOST, port)
        deadline = time.monotonic() + timeout_s
        while not client.is_connected() and time.monotonic() < deadline:
            if client.loop(timeout=_POLL_S * 5) != paho.MQTT_ERR_SUCCESS:
                return False
        return client.is_connected()
    except OSError:
        return False
    finally:
        client.disconnect()
