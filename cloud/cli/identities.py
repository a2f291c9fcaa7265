"""An identity made for a device on the operator's machine: its key, its certificate, as the device keeps them.

identity.json           who the device is, and which pair counts; written last
device-<serial>.pem     the private key and its certificate
ca.crt                  the authorities that the servers are known by
next.key                the key while a certificate is being asked for: whoever is cut off asks again with it
"""

import json
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from cloud.cli.client import ApiClient
from cloud.durable import make_private_directory, write_durably
from cloud.key_files import NO_KEY_ERRORS
from protocol.codec import structure
from protocol.enrolment import Enrolled, EnrolmentCode
from protocol.errors import MessageError, UserError

DIRECTORY: Final = "identity"
IDENTITY: Final = "identity.json"
AUTHORITIES: Final = "ca.crt"
NEXT_KEY: Final = "next.key"


def make_identity(
    api: ApiClient, directory: Path, code: EnrolmentCode, device_id: str, hardware_model: str, *, server: str
) -> None:
    """Enrol a device with its code and leave its identity in `directory`; `server` is what it will renew at.

    Raises UserError, and OSError when nothing can be written; the same again goes on where this one ended.
    """
    make_private_directory(directory)
    key = _key(directory / NEXT_KEY)
    body = {"token": code.token, "device_id": device_id, "hardware_model": hardware_model, "csr": _request(key)}
    try:
        answer = structure(api.post("enrolment", body=body), Enrolled)
        certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
    except (MessageError, ValueError) as error:
        raise UserError(f"the server's answer is no enrolment of {device_id}: {error}.", exit_code=1) from None
    names = [it.value for it in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if certificate.public_key() != key.public_key() or names != [device_id] or answer.device_id != device_id:
        raise UserError(f"the server certified another name or key than {device_id}'s.", exit_code=1)
    pair = f"device-{certificate.serial_number:x}.pem"
    write_durably(directory / pair, _pem(key) + certificate.public_bytes(Encoding.PEM))
    write_durably(directory / AUTHORITIES, answer.ca.encode())
    write_durably(directory / IDENTITY, json.dumps(_identity(answer, pair, server)).encode())
    (directory / NEXT_KEY).unlink(missing_ok=True)


def _identity(answer: Enrolled, pair: str, server: str) -> dict[str, Any]:
    return {
        "device_id": answer.device_id,
        "product": answer.product,
        "server": server,
        "broker_url": answer.broker_url,
        "topic_root": answer.topic_root,
        "certificate": pair,
        "not_before_ms": answer.not_before_ms,
        "not_after_ms": answer.not_after_ms,
    }


def _key(path: Path) -> EllipticCurvePrivateKey:
    """Return the key that a certificate was asked for and not received, or a new one that is on the disk.

    Raises UserError for a file that is no such key: what a code was already used for is not to be lost unsaid.
    """
    try:
        found = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        key = generate_private_key(SECP256R1())
        write_durably(path, _pem(key))
        return key
    except NO_KEY_ERRORS:  # the library's texts quote the content
        found = None
    if not isinstance(found, EllipticCurvePrivateKey):
        raise UserError(
            f"{path} is not the private key that an earlier enrolment left there. Nothing was asked of the server, and "
            "the file was left as it is. Remove it to begin with a new key; a code that was used up is needed anew.",
            exit_code=1,
        )
    return found


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _request(key: EllipticCurvePrivateKey) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
