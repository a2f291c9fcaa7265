"""A directory of authorities that OpenSSL looks in when it meets a certificate: `<hash of the subject>.<number>`.

Mosquitto reads its `cafile` when it starts, and not on SIGHUP in every version; in its `capath` it finds a new
authority at once. (An authority that is gone from here is forgotten at the next start at the latest.) The hash is
OpenSSL's: SHA-1 over the subject in canonical form, see X509_NAME_hash_ex and `openssl rehash`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.durable import make_private_directory, write_durably

_SEQUENCE, _SET, _UTF8_STRING, _OBJECT_IDENTIFIER = 0x30, 0x31, 0x0C, 0x06


def write_authorities(directory: Path, authorities: Iterable[x509.Certificate]) -> bool:
    """Make these the authorities in a directory; return whether anything changed. Raises OSError."""
    wanted = hashed_names(authorities)
    make_private_directory(directory)
    changed = False
    for name, pem in wanted.items():
        if not (directory / name).exists() or (directory / name).read_bytes() != pem:
            write_durably(directory / name, pem)
            changed = True
    for path in directory.iterdir():
        if path.name not in wanted:
            path.unlink()
            changed = True
    return changed


def hashed_names(authorities: Iterable[x509.Certificate]) -> Mapping[str, bytes]:
    """Return the name of each authority's file, and its certificate in PEM."""
    found: dict[str, bytes] = {}
    for authority in authorities:
        number = 0
        while (name := f"{subject_hash(authority.subject)}.{number}") in found:
            number += 1
        found[name] = authority.public_bytes(Encoding.PEM)
    return found


def subject_hash(subject: x509.Name) -> str:
    """Return what `openssl x509 -hash` says, in 8 hexadecimal digits."""
    canonical = b"".join(
        _der(_SET, b"".join(sorted(_der(_SEQUENCE, _attribute(attribute)) for attribute in part)))
        for part in subject.rdns
    )
    return hashlib.sha1(canonical, usedforsecurity=False).digest()[:4][::-1].hex()


def _attribute(attribute: x509.NameAttribute[str | bytes]) -> bytes:
    value = attribute.value if isinstance(attribute.value, str) else attribute.value.decode("utf-8", "replace")
    folded = "".join(char.lower() if char.isascii() else char for char in value)
    return _identifier(attribute.oid.dotted_string) + _der(_UTF8_STRING, " ".join(folded.split()).encode())


def _identifier(dotted: str) -> bytes:
    first, second, *others = (int(part) for part in dotted.split("."))
    content = b""
    for number in (first * 40 + second, *others):
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        content += bytes(reversed(digits))
    return _der(_OBJECT_IDENTIFIER, content)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
