"""Mosquitto's settings for one machine, derived from the project's one `mosquitto.conf`: with certificates, or plain.

Limits are never restated here: what the file says for production holds for the demo and the tests. Replaced are its
paths, its listeners' addresses, the user and the log; the plain variant also leaves out all that needs certificates.
"""

import contextlib
import importlib.resources
import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from protocol.errors import FleetliftError

LOOPBACK: Final = "127.0.0.1"
PID_FILE: Final = "mosquitto.pid"
DATA_DIRECTORY: Final = "data"

Listener = tuple[str, int]
"""The address to listen on (empty: every one) and the port."""

_PORT: Final = re.compile(r"[0-9]{1,5}")
_MACHINE: Final = frozenset({"persistence_location", "user", "log_dest", "connection_messages", "pid_file"})
_FILES: Final = frozenset({"acl_file", "certfile", "keyfile", "cafile", "capath", "crlfile"})
_TLS: Final = _FILES | {"tls_version", "require_certificate", "use_identity_as_username", "use_username_as_clientid"}


class BrokerConfigError(FleetliftError):
    """No configuration can be written for this machine; nothing was written."""


def mosquitto_settings() -> str:
    """Return the text of the project's `mosquitto.conf`, which is the same file in a checkout and in a wheel."""
    return importlib.resources.files("cloud").joinpath("mosquitto.conf").read_text(encoding="utf-8")


def derive_plain_config(settings: str, *, port: int, data_dir: Path) -> str:
    """Return `settings` with one listener on loopback, for everybody and without TLS; persistence in `data_dir`.

    The listener keeps the limits of the first one in `settings` (`max_connections`, ...).
    """
    lines = [*_head("started"), *_machine(data_dir)]
    listeners = 0
    for name, value in _statements(settings):
        if name == "listener":
            listeners += 1
            if listeners == 1:
                lines += [f"listener {port} {LOOPBACK}", "allow_anonymous true"]
        elif name not in _TLS | {"allow_anonymous"} and listeners < 2:
            lines.append(f"{name} {value}")
    return "\n".join(lines) + "\n"


def derive_secured_config(settings: str, *, directory: Path, devices: Listener, cloud: Listener) -> str:
    """Return `settings` with all their files in `directory` and its two listeners on the addresses given.

    Raises BrokerConfigError for a path or an address that Mosquitto's format cannot hold.
    """
    lines = [*_head("was given certificates"), *_machine(directory / DATA_DIRECTORY)]
    lines.append(f"pid_file {_one_line(str(directory / PID_FILE))}")
    addresses = iter((devices, cloud))
    for name, value in _statements(settings):
        if name == "listener":
            address = next(addresses, None)
            if address is None:
                raise BrokerConfigError("mosquitto.conf has more listeners than two; nothing was written")
            host, port = address
            lines.append(f"listener {port} {_one_line(host)}".rstrip())
        elif name in _FILES:
            lines.append(f"{name} {_one_line(str(directory / PurePosixPath(value).name))}")
        else:
            lines.append(f"{name} {value}")
    return "\n".join(lines) + "\n"


def parse_statements(settings: str) -> Iterator[tuple[str, str]]:
    """Yield a configuration's settings and values, in order."""
    for line in settings.splitlines():
        name, _, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            yield name, value.strip()


def read_statements(path: Path) -> list[tuple[str, str]]:
    """Return a configuration's settings and values, in order; empty where it cannot be read."""
    try:
        return list(parse_statements(path.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return []


def read_sections(path: Path) -> list[dict[str, str]]:
    """Return a configuration's settings for all, and then those of each listener (its address under `listener`)."""
    sections: list[dict[str, str]] = [{}]
    for name, value in read_statements(path):
        if name == "listener":
            sections.append({})
        sections[-1][name] = value
    return sections


def read_listeners(path: Path) -> list[Listener]:
    """Return the addresses of a configuration's listeners; empty where it cannot be read."""
    found = []
    for name, value in read_statements(path):
        port, _, host = value.partition(" ")
        if name in {"listener", "port"} and _PORT.fullmatch(port):
            found.append((host.strip(), int(port)))
    return found


def _head(when: str) -> list[str]:
    return [f"# Derived from Fleetlift's mosquitto.conf when the broker {when}; written anew: edits here are lost."]


def _machine(data_dir: Path) -> list[str]:
    lines = [f"persistence_location {_one_line(str(data_dir))}/", "log_dest stderr", "connection_messages false"]
    # Started as root, Mosquitto would otherwise become another user and lose its own data directory. Whoever has no
    # name, as in some containers, is not root.
    with contextlib.suppress(KeyError):
        lines.append(f"user {pwd.getpwuid(os.geteuid()).pw_name}")
    return lines


def _statements(settings: str) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in parse_statements(settings) if name not in _MACHINE)


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise BrokerConfigError(f"{text!r:.200} cannot stand in mosquitto.conf; nothing was written. Choose another")
    return text
