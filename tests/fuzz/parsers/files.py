"""Targets: files that people write: settings, descriptions, sources, keys."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cloud.config import load_context, load_settings
from cloud.images import ImageError, measure, pack, read_facts, to_description
from cloud.key_files import KeyFileError, create_key, load_key
from cloud.keys.passphrases import PassphraseError
from device_agent.config import load
from protocol.errors import UserError
from tests.fuzz.child import run_one_of
from tests.fuzz.targets import Parse, Target

AGENT: Final = b"""# a device
[device]
id = "pi-1"
product = "thermostat"
hardware_model = "raspberrypi4"
state_dir = "state"
root = "root.json"
attributes = { site = "lab" }

[broker]
url = "mqtt://127.0.0.1:1883"
topic_root = "fleetlift/v1"
username = "pi-1"

[updates]
install = "available"
check_interval_s = 3600
window_bytes = 1048576

[components.app]
command = ["{python}", "{image}"]
env = { A = "b" }
health = { kind = "http", url = "http://127.0.0.1:8080/health", interval_s = 0.5 }
soak_s = 3.5
prove_timeout_s = 60

[components.os]
restart_command = ["systemctl", "restart", "x"]
golden = "/usr/share/golden"
"""
AGENT_TLS: Final = AGENT.replace(b"mqtt://127.0.0.1:1883", b"mqtts://broker.example:8883") + (
    b'\n[identity]\ndirectory = "identity"\nserver = "https://server.example:8321"\n'
)
SERVER: Final = b"""[server]
host = "127.0.0.1"
port = 8321
public_url = "https://fleet.example"
names = ["fleet.example", "10.0.0.1"]
max_request_bytes = 4194304

[broker]
url = "mqtts://broker.example:8884"
topic_root = "fleetlift/v1"
reload_command = ["systemctl", "reload", "mosquitto"]

[storage]
database = "fleetlift.db"

[devices]
joining = "known"
renewal_grace_days = 30

[log]
level = "debug"
format = "json"
"""
CONTEXT: Final = b'server = "https://fleet.example:8321"\nproduct = "thermostat"\ncomponent = "app"\nca = "ca.crt"\n'
TOML_WORDS: Final = (
    b"[device]", b"[broker]", b"[components.app]", b"[components.'x y']", b"[[components]]", b"[a.b.c]", b"=", b"'''",
    b'"""', b"{", b"}", b"[", b"]", b"mqtt://", b"mqtts://", b"http://", b"http://[::1", b"http://127.0.0.1:99999/",
    b"1e400", b"-1", b"0x10", b"9" * 400, b"nan", b"inf", b"1979-05-27T07:32:00Z", b"true", b"#", b"\\u0000", b"\x00",
    b"mqtt://[", b"mqtt://h:0", b"mqtt://h:65536", b"mqtt://user:pw@h", b"[device", b"x.y = 1", b'"" = 1',
)  # fmt: skip


def toml(read: Callable[[Path], object]) -> Callable[[Path], contextlib.AbstractContextManager[Parse]]:
    """A settings file."""

    @contextlib.contextmanager
    def make(directory: Path) -> Iterator[Parse]:
        path = directory / "settings.toml"

        def parse(content: bytes) -> object:
            path.write_bytes(content)
            return type(read(path)).__name__

        yield parse

    return make


@contextlib.contextmanager
def description(directory: Path) -> Iterator[Parse]:
    """`firmware.json`, the description of an image."""
    path = directory / "firmware.json"

    def parse(content: bytes) -> object:
        path.write_bytes(content)
        facts = read_facts(path)
        return to_description({"digest": "0" * 64, "size_bytes": 1, **facts}, "it").version

    yield parse


@contextlib.contextmanager
def sources(directory: Path) -> Iterator[Parse]:
    """A directory of sources with names that somebody chose: one per line, the content after a colon."""
    source, image = directory / "source", directory / "image"

    def parse(content: bytes) -> object:
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        (source / "__main__.py").touch()
        for line in content.split(b"\n")[:8]:
            name, _, body = line.partition(b":")
            parts = [part for part in name.split(b"/")[:4] if part not in (b"", b".", b"..")]
            with contextlib.suppress(OSError, ValueError):
                place = os.path.join(os.fsencode(source), *parts)  # noqa: PTH118 - Path takes no bytes
                os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120 - the same
                if body[:1] == b">":
                    os.symlink(body[1:] or b"x", place)  # noqa: PTH211 - the same
                else:
                    Path(os.fsdecode(place)).write_bytes(body)
        pack(source, image)
        return measure(image).size_bytes > 0

    yield parse


@contextlib.contextmanager
def key_file(directory: Path) -> Iterator[Parse]:
    """A private key's file."""
    path = directory / "key.pem"

    def parse(content: bytes) -> object:
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(content)
        return load_key(path).public_key.keytype

    yield parse


def key_seeds() -> list[bytes]:
    """Return a key as `create_key` writes it."""
    with tempfile.TemporaryDirectory() as directory:
        create_key(Path(directory) / "k.pem")
        return [(Path(directory) / "k.pem").read_bytes()]


DESCRIPTION: Final = {
    "product": "thermostat", "component": "app", "version": "1.0.0", "build": 1, "hardware_models": ["raspberrypi4"],
    "requires": {"agent": "0.1.0", "components": {"os": ">=2.0.0"}}, "notes": "x", "data_schema": 1,
}  # fmt: skip

TARGETS: Final[tuple[Target, ...]] = (
    Target(
        name="agent.toml",
        make=toml(load),
        seeds=lambda: [AGENT, AGENT_TLS],
        shape="text",
        expected=(UserError,),
        covers=("device_agent.config.load",),
        words=TOML_WORDS,
    ),
    Target(
        name="fleetlift.toml",
        make=toml(load_settings),
        seeds=lambda: [SERVER, b""],
        shape="text",
        expected=(UserError,),
        covers=("cloud.config.load_settings",),
        words=TOML_WORDS,
    ),
    Target(
        name="context.toml",
        make=toml(load_context),
        seeds=lambda: [CONTEXT, b""],
        shape="text",
        expected=(UserError,),
        covers=("cloud.config.load_context",),
        words=TOML_WORDS,
    ),
    Target(
        name="firmware.json",
        make=description,
        seeds=lambda: [json.dumps(DESCRIPTION).encode()],
        shape="json",
        expected=(UserError,),
        covers=("cloud.images.read_facts", "cloud.images.to_description"),
    ),
    Target(
        name="sources",
        make=sources,
        seeds=lambda: [
            b"a.py:print()\nb/c.py:x\n.hidden:y",
            b"a:>../../x\nb:c",
            "d\u00e9/\u0663.py:1\nspace name:2".encode(),
            b"\xff.py:1",
        ],
        shape="text",
        expected=(ImageError,),
        covers=("cloud.images.pack", "cloud.images.measure"),
        words=(
            b"/",
            b":",
            b">",
            b"__pycache__",
            b"\xff",
            b"\xed\xa0\x80",
            b"a" * 255,
            b"\x7f",
            b"\x1b[2J",
            b"firmware.json",
        ),
        heavy=True,
    ),
    Target(
        name="key_file",
        make=key_file,
        seeds=key_seeds,
        shape="text",
        expected=(KeyFileError, PassphraseError),
        covers=("cloud.key_files.load_key",),
        words=(b"-----BEGIN PRIVATE KEY-----", b"-----END PRIVATE KEY-----", b"ENCRYPTED", b"EC", b"RSA"),
    ),
)

if __name__ == "__main__":
    sys.exit(run_one_of(TARGETS))
