"""The identity on the disk: a private directory in which one small file, replaced at once, says what counts.

    identity.json           who the device is, and which pair counts; without it there is no identity
    device-<serial>.pem     a private key and its certificate
    ca.crt                  the authorities that the servers are known by
    next.key                the key that a certificate is being asked for, kept until there is one
    renewal.json            what came of the last tries to renew (only for the pauses between them)

1. What identity.json names is durable before identity.json is, and authorities go only after it. A power cut leaves
   the identity of before, whole, or the new one.
2. A key is durable before it is used. So a request that is made again, because its answer was lost, is made with the
   same key, and the server knows it for the same request.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_agent.identity.certificates import Certificate, blocks, rehearse
from device_agent.identity.keys import Keys
from device_agent.slots.durable import DIRECTORY_MODE, make_directory, read_file, remove, write_file
from device_agent.tls import TlsError
from protocol.codec import decode, encode
from protocol.enrolment import Enrolled
from protocol.errors import EnrolmentError, FleetliftError, ProtocolError
from protocol.identity import MAX_INTEGER, check_id

_MAX_FILE_BYTES: Final = 128 * 1024
_PAIR = re.compile(r"device-[0-9a-f]{1,64}\.pem")
_KEY: Final = "-----BEGIN PRIVATE KEY-----"


class IdentityFilesError(FleetliftError):
    """The identity cannot be read or stored, or an answer is not what was asked for; nothing of it was taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the device is; `certificate` is the name of the pair's file, `server` the URL that renews it."""

    device_id: str
    product: str
    server: str
    broker_url: str
    topic_root: str
    certificate: str
    not_before_ms: int
    not_after_ms: int

    def __post_init__(self) -> None:
        check_id(self.device_id, "device_id")
        check_id(self.product, "product")
        if not _PAIR.fullmatch(self.certificate):
            raise EnrolmentError("certificate is not the name of a file with one")
        if not 0 <= self.not_before_ms < self.not_after_ms <= MAX_INTEGER:
            raise EnrolmentError("not_before_ms and not_after_ms are not a time and a later one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """What came of one thing that is tried again and again; times are seconds since 1970."""

    failures: int = 0
    tried_at_s: int = 0
    done_at_s: int = 0

    def __post_init__(self) -> None:
        if min(self.failures, self.tried_at_s, self.done_at_s) < 0:
            raise EnrolmentError("a count or a time below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalTries:
    """The two things that are: the next certificate, and news of the servers' authorities."""

    certificate: Tries = Tries()
    authorities: Tries = Tries()


class IdentityStore:
    """One device's identity in one directory. All raise IdentityFilesError but those that say what they return."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self) -> Identity | None:
        """Return the identity, None if there is none yet."""
        path = self.directory / "identity.json"
        content = read_file(path, _MAX_FILE_BYTES)
        if content is None:
            try:
                path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise IdentityFilesError(f"{path}: {error.strerror}; it is for the agent's own user") from error
            raise IdentityFilesError(f"{path} cannot be read; it is for the agent's own user")
        try:
            return decode(content, Identity)
        except ProtocolError as error:
            raise IdentityFilesError(f"{path}: {error}; enrol again with --again") from error

    def prepare(self) -> None:
        """Make the directory, and private, with those above it that are missing."""
        with _told(self.directory):
            for parent in reversed([path for path in self.directory.parents if not path.exists()]):
                parent.mkdir()
            make_directory(self.directory)
            self.directory.chmod(DIRECTORY_MODE)

    def next_key(self, keys: Keys) -> Path:
        """Return the file of the key to ask a certificate for, making it if there is none; raises KeyFileError too."""
        path = self.directory / "next.key"
        if _KEY.encode() not in (read_file(path, _MAX_FILE_BYTES) or b""):
            with _told(path):
                write_file(path, keys.make())
        return path

    def drop_key(self) -> None:
        """Forget the key that a certificate was to be asked for."""
        with _told(self.directory):
            remove(self.directory / "next.key")

    def pair(self, identity: Identity) -> Path:
        """Return the file with the key and the certificate that count."""
        return self.directory / identity.certificate

    def certificate_of(self, identity: Identity) -> str:
        """Return the certificate that counts, PEM."""
        content = (read_file(self.pair(identity), _MAX_FILE_BYTES) or b"").decode(errors="replace")
        found = blocks(content)
        if not found:
            raise IdentityFilesError(f"{self.pair(identity)} has no certificate; enrol again with --again")
        return found[0]

    def authorities(self) -> str:
        """Return the authorities that the servers are known by, PEM."""
        path = self.directory / "ca.crt"
        content = read_file(path, _MAX_FILE_BYTES)
        if not content:
            raise IdentityFilesError(f"{path} cannot be read; enrol again with --again")
        return content.decode(errors="replace")

    def adopt(self, answer: Enrolled, server: str, *, device_id: str, product: str) -> Identity:
        """Take over an answer for `next.key`, if it is one: then it is the identity, durably, when this returns."""
        if (answer.device_id, answer.product) != (device_id, product):
            raise IdentityFilesError(
                f"the server answered for {answer.device_id} of {answer.product}, not {device_id} of {product}"
            )
        leaf = blocks(answer.certificate)
        key = read_file(self.directory / "next.key", _MAX_FILE_BYTES)
        if len(leaf) != 1 or key is None:
            raise IdentityFilesError("the server did not answer with one certificate")
        pair = key + leaf[0].encode()
        with _told(self.directory):
            found = self._rehearsed(pair, leaf[0], device_id)
            identity = Identity(
                device_id=device_id,
                product=product,
                server=server,
                broker_url=answer.broker_url,
                topic_root=answer.topic_root,
                certificate=f"device-{found.serial}.pem",
                not_before_ms=round(found.not_before_s * 1000),
                not_after_ms=round(found.not_after_s * 1000),
            )
            before = (read_file(self.directory / "ca.crt", _MAX_FILE_BYTES) or b"").decode(errors="replace")
            self.keep_authorities(answer.ca + before)
            write_file(self.directory / identity.certificate, pair)
            write_file(self.directory / "identity.json", encode(identity))
            self.keep_authorities(answer.ca)
            remove(self.directory / "next.key")
        return identity

    def _rehearsed(self, pair: bytes, certificate: str, device_id: str) -> Certificate:
        trial = self.directory / "next.pem"
        write_file(trial, pair)
        try:
            found = rehearse(trial, certificate)
        except TlsError as error:
            raise IdentityFilesError(f"the server's answer is not for this device's key: {error}") from error
        finally:
            remove(trial)
        if found.name != device_id:
            raise IdentityFilesError(f"the server answered with a certificate of {found.name!r:.80}, not {device_id}")
        return found

    def keep_authorities(self, pem: str) -> bool:
        """Store the authorities that the servers are known by; tell whether they are others than before."""
        found = list(dict.fromkeys(blocks(pem)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata="".join(found))
        except (ssl.SSLError, ValueError) as error:
            raise IdentityFilesError(f"the server's list of authorities is not certificates: {error}") from error
        if len(context.get_ca_certs()) != len(found):
            raise IdentityFilesError("the server's list of authorities has certificates in it that are not of one")
        content = "".join(found).encode()
        path = self.directory / "ca.crt"
        if read_file(path, _MAX_FILE_BYTES) == content:
            return False
        with _told(path):
            write_file(path, content)
        return True

    def tidy(self, identity: Identity) -> None:
        """Remove the pairs that do not count any more, unless one is just being taken over."""
        with _told(self.directory):
            if (self.directory / "next.key").exists():
                return
            for path in self.directory.iterdir():
                if _PAIR.fullmatch(path.name) and path.name != identity.certificate:
                    remove(path)

    def tries(self) -> RenewalTries:
        """Return what came of the last tries; nothing, if that is not known. Never raises."""
        with contextlib.suppress(ProtocolError):
            return decode(read_file(self.directory / "renewal.json", _MAX_FILE_BYTES) or b"", RenewalTries)
        return RenewalTries()

    def keep_tries(self, tries: RenewalTries) -> None:
        """Store what came of a try."""
        with _told(self.directory):
            write_file(self.directory / "renewal.json", encode(tries))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise IdentityFilesError(f"{error.filename or path}: {error.strerror or error}; nothing was changed") from error
