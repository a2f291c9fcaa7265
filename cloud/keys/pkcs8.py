"""Encrypted PKCS #8 with scrypt: what `cryptography` reads, and writes with 2048 rounds of PBKDF2 only.

EncryptedPrivateKeyInfo of RFC 5958 under PBES2 (RFC 8018): scrypt (RFC 7914, section 7) and AES-256-CBC. The cost is
OWASP's for 16 MiB of memory, which `openssl pkey` still opens without being asked to.
"""

import base64
import secrets
import textwrap
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7

SCRYPT_N: Final = 2**14
SCRYPT_R: Final = 8
SCRYPT_P: Final = 5
KEY_BYTES: Final = 32
_PBES2: Final = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT: Final = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC: Final = bytes.fromhex("060960864801650304012a")
_INTEGER, _OCTETS, _SEQUENCE = 0x02, 0x04, 0x30


def encrypt(private_key_der: bytes, passphrase: bytes) -> bytes:
    """Return a PKCS #8 private key (DER), encrypted, in PEM."""
    salt, vector = secrets.token_bytes(16), secrets.token_bytes(16)
    key = Scrypt(salt, KEY_BYTES, SCRYPT_N, SCRYPT_R, SCRYPT_P).derive(passphrase)
    padder, encryptor = PKCS7(AES.block_size).padder(), Cipher(AES(key), CBC(vector)).encryptor()
    padded = padder.update(private_key_der) + padder.finalize()
    encrypted = encryptor.update(padded) + encryptor.finalize()
    cost = b"".join(map(_integer, (SCRYPT_N, SCRYPT_R, SCRYPT_P)))
    derivation = _sequence(_SCRYPT, _sequence(_tagged(_OCTETS, salt), cost))
    cipher = _sequence(_AES_256_CBC, _tagged(_OCTETS, vector))
    algorithm = _sequence(_PBES2, _sequence(derivation, cipher))
    body = base64.b64encode(_sequence(algorithm, _tagged(_OCTETS, encrypted))).decode()
    lines = ["-----BEGIN ENCRYPTED PRIVATE KEY-----", *textwrap.wrap(body, 64), "-----END ENCRYPTED PRIVATE KEY-----"]
    return "\n".join([*lines, ""]).encode()


def _tagged(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def _sequence(*parts: bytes) -> bytes:
    return _tagged(_SEQUENCE, b"".join(parts))


def _integer(value: int) -> bytes:
    return _tagged(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))
