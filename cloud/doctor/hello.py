"""Asks a server which TLS versions it takes, by one ClientHello for each (RFC 8446, 4.1.2; RFC 5246, 7.4.1).

The bytes are made here because a TLS library refuses to ask for what it holds to be too old, and this is the question.
Nothing secret is sent, and the connection ends with the server's first answer.
"""

import os
import socket
import struct
from typing import Final

VERSIONS: Final = {"TLS 1.0": 0x0301, "TLS 1.1": 0x0302, "TLS 1.2": 0x0303, "TLS 1.3": 0x0304}
_TLS_1_2: Final = 0x0303
_TLS_1_3: Final = 0x0304
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_HELLO: Final = 2
_MAX_RECORD: Final = 16_640
# ECDHE with ECDSA and RSA certificates: AES-GCM and ChaCha20 (1.2), AES-CBC with SHA-1 (all that 1.0 and 1.1 have).
_SUITES: Final = (0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC009, 0xC00A, 0xC013, 0xC014, 0x002F, 0x0035)
_SUITES_1_3: Final = (0x1301, 0x1302, 0x1303)
_GROUPS: Final = (0x001D, 0x0017, 0x0018)  # x25519, secp256r1, secp384r1
_SIGNATURES: Final = (0x0403, 0x0503, 0x0804, 0x0805, 0x0807, 0x0401, 0x0501, 0x0203, 0x0201)
_SERVER_NAME, _SUPPORTED_GROUPS, _POINT_FORMATS, _SIGNATURE_ALGORITHMS = 0, 10, 11, 13
_SUPPORTED_VERSIONS, _KEY_SHARE = 43, 51


def offers(host: str, port: int, version: int, *, timeout_s: float) -> bool:
    """Tell whether the server goes on in exactly this version; raises OSError when it cannot be reached."""
    with socket.create_connection((host, port), timeout=timeout_s) as opened:
        try:
            opened.sendall(client_hello(host, version))
            return chosen_version(_first_record(opened)) == version
        except (ConnectionError, TimeoutError):  # hanging up is an answer, too
            return False


def client_hello(host: str, version: int) -> bytes:
    """Return a record with a ClientHello that offers one version."""
    is_1_3 = version == _TLS_1_3
    extensions = [
        (_SUPPORTED_GROUPS, _sized(_words(_GROUPS), 2)),
        (_POINT_FORMATS, _sized(b"\0", 1)),
        (_SIGNATURE_ALGORITHMS, _sized(_words(_SIGNATURES), 2)),
    ]
    if not host.replace(".", "").isdigit() and ":" not in host:
        extensions.append((_SERVER_NAME, _sized(b"\0" + _sized(host.encode("idna"), 2), 2)))
    if is_1_3:
        share = struct.pack(">H", _GROUPS[0]) + _sized(os.urandom(32), 2)  # any 32 bytes are a point of x25519
        extensions += [(_SUPPORTED_VERSIONS, _sized(struct.pack(">H", version), 1)), (_KEY_SHARE, _sized(share, 2))]
    body = (
        struct.pack(">H", min(version, _TLS_1_2))
        + os.urandom(32)
        + _sized(os.urandom(32), 1)
        + _sized(_words(_SUITES_1_3 if is_1_3 else _SUITES), 2)
        + _sized(b"\0", 1)
        + _sized(b"".join(struct.pack(">H", kind) + _sized(content, 2) for kind, content in extensions), 2)
    )
    message = bytes([_CLIENT_HELLO]) + _sized(body, 3)
    return bytes([_HANDSHAKE]) + struct.pack(">H", 0x0301) + _sized(message, 2)


def chosen_version(record: bytes) -> int | None:
    """Return the version of a ServerHello in a record's first bytes; None for an alert or anything else."""
    try:
        if record[0] != _HANDSHAKE or record[5] != _SERVER_HELLO:
            return None
        (version,) = struct.unpack_from(">H", record, 9)
        at = 43 + 1 + record[43] + 3  # after random, session id, cipher suite and compression
        end = min(len(record), at + 2 + struct.unpack_from(">H", record, at)[0]) if at + 2 <= len(record) else at
        at += 2
        while at + 4 <= end:
            kind, length = struct.unpack_from(">HH", record, at)
            if kind == _SUPPORTED_VERSIONS:
                (version,) = struct.unpack_from(">H", record, at + 4)
            at += 4 + length
    except (IndexError, struct.error):
        return None
    return int(version)


def _first_record(opened: socket.socket) -> bytes:
    data = b""
    while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
        more = opened.recv(_MAX_RECORD)
        if not more or len(data) > _MAX_RECORD:
            break
        data += more
    return data


def _sized(content: bytes, size_bytes: int) -> bytes:
    return len(content).to_bytes(size_bytes, "big") + content


def _words(values: tuple[int, ...]) -> bytes:
    return struct.pack(f">{len(values)}H", *values)
