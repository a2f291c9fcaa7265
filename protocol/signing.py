"""Signed control messages: what is signed, exactly, and how it travels.

The cloud signs notices and desired states with the online key of the TUF timestamp role, so a device checks them with
the root metadata that it trusts anyway. A signature is over the pre-authentication encoding of DSSE v1
(https://github.com/secure-systems-lab/dsse): `DSSEv1 SP len(type) SP type SP len(payload) SP payload`, lengths in bytes
and decimal. The payload travels as text and is checked as received; it is never serialised again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from protocol.codec import decode, encode
from protocol.errors import MessageError
from protocol.identity import check_digest

NOTICE_TYPE: Final = "application/vnd.fleetlift.notice.v1+json"
DESIRED_TYPE: Final = "application/vnd.fleetlift.desired.v1+json"
MAX_SIGNATURES: Final = 8
MAX_SIGNATURE_LENGTH: Final = 2048
_HEX = re.compile(r"(?:[0-9a-f]{2})+")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature: the key's id as in the root metadata, and the signature in hexadecimal."""

    keyid: str
    sig: str

    def __post_init__(self) -> None:
        check_digest(self.keyid, "keyid")
        if len(self.sig) > MAX_SIGNATURE_LENGTH or not _HEX.fullmatch(self.sig):
            raise MessageError("sig is not a signature in lower-case hexadecimal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A signed message: `payload` is the message's JSON as text."""

    type: str
    payload: str
    signatures: tuple[Signature, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise MessageError(f"signatures has 1 to {MAX_SIGNATURES} items")
        if len({signature.keyid for signature in self.signatures}) != len(self.signatures):
            raise MessageError("signatures names a keyid twice")


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed (DSSE v1 pre-authentication encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(message: object, payload_type: str, sign: Callable[[bytes], tuple[Signature, ...]]) -> bytes:
    """Return a message in a signed envelope, encoded; `sign` signs the pre-authentication encoding."""
    payload = encode(message)
    signatures = sign(pae(payload_type, payload))
    return encode(Envelope(type=payload_type, payload=payload.decode(), signatures=signatures))


def unseal(
    envelope_bytes: bytes | bytearray,
    payload_type: str,
    kind: type[T],
    verify: Callable[[bytes, tuple[Signature, ...]], None],
) -> T:
    """Return the message in an envelope; raises MessageError, or whatever `verify` raises for bad signatures.

    Nothing of the payload is decoded before `verify` has accepted the signatures over its very bytes.
    """
    envelope = decode(envelope_bytes, Envelope)
    if envelope.type != payload_type:
        raise MessageError(f"an envelope of type {envelope.type!r:.80} where {payload_type} is expected")
    payload = envelope.payload.encode()
    verify(pae(payload_type, payload), envelope.signatures)
    return decode(payload, kind)
