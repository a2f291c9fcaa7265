"""Targets: files that an operator hands in: lists of devices, the broker's settings, authorities, revocations."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.broker_config import mosquitto_settings, read_listeners, read_sections
from cloud.broker_files import BrokerFilesError, read_revocation_lists
from cloud.cli.device_lists import read_devices
from cloud.pki.authorities import Authorities, RevokedCertificate
from protocol.errors import UserError
from protocol.identity import check_id
from tests.fuzz.child import run_one_of
from tests.fuzz.parsers.certificates import pem_of
from tests.fuzz.parsers.wire import plain
from tests.fuzz.targets import Make, Parse, Target


def file(read: Callable[[Path], object]) -> Make:
    """Return the making of a parser that reads a file."""

    @contextlib.contextmanager
    def make(directory: Path) -> Iterator[Parse]:
        path = directory / "file"

        def parse(content: bytes) -> object:
            path.write_bytes(content)
            return read(path)

        yield parse

    return make


def device_list(path: Path) -> object:
    """A list of devices, CSV or JSON lines: whatever it names are ids."""
    found = read_devices(path)
    for device in found:
        check_id(device.device_id)
        for group in device.groups:
            check_id(group)
    return len(found)


def broker_settings(path: Path) -> object:
    """Somebody's mosquitto.conf, as doctor reads it."""
    return len(read_sections(path)) + len(read_listeners(path))


def revocations(content: bytes) -> object:
    """A list of revoked certificates."""
    return len(read_revocation_lists(pem_of(content, "X509 CRL")))


def revocation_lists() -> list[bytes]:
    """Return lists of nobody and of somebody, in DER, and one in PEM."""
    with tempfile.TemporaryDirectory() as directory:
        authorities = Authorities.create(Path(directory) / "ca")
        name = authorities.views("devices")[0].name
        revoked = RevokedCertificate(serial=7, authority=name, revoked_at_ms=1_800_000_000_000)
        pems = [authorities.crl([]), authorities.crl([revoked])]
    ders = [x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER) for pem in pems]
    return [*(b"d" + der for der in ders), b"p" + pems[1]]


TARGETS: Final[tuple[Target, ...]] = (
    Target(
        name="device_list",
        make=file(device_list),
        seeds=lambda: [
            b"device_id,hardware_model,groups\npi-1,pi-4,pilot;beta\npi-2,,\n",
            b'{"device_id":"pi-1","hardware_model":"pi-4","groups":["pilot"]}\n{"device_id":"pi-2"}\n',
        ],
        shape="text",
        expected=(UserError,),
        covers=("cloud.cli.device_lists.read_devices",),
        words=(b"device_id", b"groups", b",", b";", b"|", b'"', b'""', b"\xef\xbb\xbf", b"{", b"x" * 140_000, b"\x00"),
    ),
    Target(
        name="mosquitto.conf",
        make=file(broker_settings),
        seeds=lambda: [mosquitto_settings().encode(), b"listener 1883 127.0.0.1\nport 1884\n"],
        shape="text",
        covers=("cloud.broker_config.read_sections", "cloud.broker_config.read_listeners"),
        words=(b"listener ", b"port ", b"9" * 5000, "\u0663".encode(), b"#", b"  "),
    ),
    Target(
        name="revocations",
        make=plain(revocations),
        seeds=revocation_lists,
        shape="bytes",
        expected=(BrokerFilesError,),
        covers=("cloud.broker_files.read_revocation_lists",),
        words=(b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----\n", b"\x30\x80", b"\x02\x01\x05"),
    ),
)

if __name__ == "__main__":
    sys.exit(run_one_of(TARGETS))
