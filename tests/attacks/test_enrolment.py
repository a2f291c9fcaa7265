"""Enrolment and renewal by who must not: spent, stolen, foreign and invented tokens, names of others, bad requests."""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import SECP192R1, SECP256K1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from protocol.enrolment import make_token
from tests.attacks.identities import Identity, enrolled, new_key, renewal, request_of, stranger, token_for, wish
from tests.attacks.test_isolation import by_hand
from tests.support.fleet import Fleet
from tests.support.processes import wait_until

NO_NAMES = (
    *("fleetlift.cloud", "+", "#", "a/b", "../a", "Named-1", "named-1 ", "named-1\n", "named-1\0", "", "x" * 65, "é"),
    *(None, 7, ["named-1"]),
)
TABLES = ("device", "certificate", "enrolment_token", "membership")


def records(fleet: Fleet) -> dict[str, list[dict[str, Any]]]:
    return {table: fleet.query(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}  # noqa: S608


@contextmanager
def unchanged(fleet: Fleet) -> Iterator[None]:
    """Nothing is issued, registered or used up inside, and the next device that may enrol does."""
    before = records(fleet)
    yield
    assert records(fleet) == before
    enrolled(fleet, f"good-{time.monotonic_ns()}")


def ask(fleet: Fleet, body: object, path: str = "/enrolment") -> tuple[int, str]:
    """Ask as a stranger; return the status and the error's code."""
    with stranger(fleet) as http:
        answer = http.post(path, json=body)
    assert "PRIVATE" not in answer.text
    return answer.status_code, answer.json().get("error", "")


def test_a_token_that_is_used_expired_revoked_foreign_or_invented_opens_nothing(fleet: Fleet) -> None:
    used, back, mine = token_for(fleet), token_for(fleet, name="back"), token_for(fleet, device_id="mine-1")
    other = fleet.product("kettle", "kettle-1")
    theirs, brief = token_for(fleet, product=other), token_for(fleet, lifetime_s=1)
    enrolled(fleet, "used-1", used)
    fleet.api("DELETE", "/enrolment-tokens/back")
    wait_until(lambda: not fleet.api("GET", "/enrolment-tokens")[0]["good"], what="a token's end")
    csr = request_of(new_key())
    with unchanged(fleet):
        assert ask(fleet, wish(used, "thief-1", csr)) == (403, "token_used")
        assert ask(fleet, wish(brief, "thief-1", csr)) == (403, "token_expired")
        assert ask(fleet, wish(back, "thief-1", csr)) == (403, "token_revoked")
        assert ask(fleet, wish(mine, "thief-1", csr)) == (403, "foreign_token")
        assert ask(fleet, wish(theirs, "thief-1", csr)) == (403, "foreign_token"), "hardware of another product"
        assert ask(fleet, wish(make_token(bytes(16)), "thief-1", csr)) == (403, "unknown_token")


def test_a_good_token_gives_nobody_the_name_or_the_key_of_another(fleet: Fleet) -> None:
    victim, good = enrolled(fleet, "named-1"), token_for(fleet, uses=100)
    fleet.enrol("named-2")
    with unchanged(fleet):
        for name in ("named-1", "named-2"):  # one with a certificate, and one with a token that it has not used yet
            assert ask(fleet, wish(good, name, request_of(new_key(), name))) == (409, "name_taken")
        assert ask(fleet, wish(good, "thief-2", request_of(victim.key))) == (409, "key_taken")
        for odd in NO_NAMES:
            assert ask(fleet, wish(good, "odd", request_of(new_key())) | {"device_id": odd}) == (422, "bad_message"), (
                odd
            )


def test_the_name_in_a_request_counts_for_nothing(fleet: Fleet) -> None:
    key, victim = new_key(), enrolled(fleet, "subject-1")
    names = [
        x509.NameAttribute(NameOID.COMMON_NAME, "fleetlift.cloud"),
        x509.NameAttribute(NameOID.COMMON_NAME, "subject-1"),
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    with stranger(fleet) as http:
        answer = http.post("/enrolment", json=wish(token_for(fleet), "subject-2", csr))
    assert answer.status_code == 201
    made = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
    assert made.subject.rfc4514_string() == "CN=subject-2"
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    with pytest.raises(x509.ExtensionNotFound):
        made.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert victim.certificate not in answer.text


def tampered(csr: str) -> str:
    """A request whose key is another's than the one that signed it."""
    der = bytearray(x509.load_pem_x509_csr(csr.encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


REQUESTS: dict[str, Callable[[], str]] = {
    "garbage": lambda: "no request",
    "another's signature": lambda: tampered(request_of(new_key())),
    "a certificate": lambda: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "RSA of 1024 bits": lambda: request_of(rsa.generate_private_key(65537, 1024)),  # noqa: S505 - that is the point
    "an exponent of 3": lambda: request_of(rsa.generate_private_key(3, 2048)),
    "a small curve": lambda: request_of(generate_private_key(SECP192R1())),
    "an odd curve": lambda: request_of(generate_private_key(SECP256K1())),
    "cut short": lambda: request_of(new_key())[:200],
    "nulls": lambda: "\0" * 500,
}


def test_bad_requests_are_refused_and_use_no_token_up(fleet: Fleet) -> None:
    token = token_for(fleet)
    with unchanged(fleet):
        for what, make in REQUESTS.items():
            assert ask(fleet, wish(token, "weak-1", make())) == (422, "bad_csr"), what
        assert ask(fleet, wish(token, "weak-1", "x" * 9000))[0] == 422
        assert ask(fleet, wish(token, "weak-1", request_of(new_key()) + "x" * 5_000_000))[0] == 413
    enrolled(fleet, "weak-1", token)


def test_a_renewal_takes_the_present_key_of_that_very_device(fleet: Fleet) -> None:
    one, other = enrolled(fleet, "renew-1"), enrolled(fleet, "renew-2")
    following = request_of(new_key())
    good = renewal(one.certificate, one.key, following)
    forged = by_hand(fleet, "renew-1")
    path = "/enrolment/renewal"
    with unchanged(fleet):
        assert ask(fleet, renewal(one.certificate, other.key, following), path) == (403, "bad_signature")
        assert ask(fleet, good | {"certificate": other.certificate}, path) == (403, "bad_signature")
        assert ask(fleet, good | {"csr": request_of(new_key())}, path) == (403, "bad_signature")
        assert ask(fleet, renewal(one.certificate, one.key, following, context=b""), path) == (403, "bad_signature")
        assert ask(fleet, good | {"signature": ""}, path)[0] == 422
        assert ask(fleet, good | {"signature": "AAAA"}, path) == (403, "bad_signature")
        assert ask(fleet, renewal(one.certificate, one.key, request_of(one.key)), path) == (403, "same_key")
        assert ask(fleet, renewal(one.certificate, one.key, request_of(other.key)), path) == (409, "key_taken")
        assert ask(fleet, renewal(forged.certificate, forged.key, following), path) == (403, "unknown_certificate")
        assert ask(fleet, good | {"csr": tampered(following)}, path) == (422, "bad_csr")
    with stranger(fleet) as http:
        assert http.post(path, json=good).status_code == 200


def test_who_was_revoked_gets_nothing_any_more(fleet: Fleet) -> None:
    device: Identity = enrolled(fleet, "revoked-1")
    spare = token_for(fleet, device_id="revoked-1")
    fleet.api("POST", "/devices/revoked-1/revoke", {"reason": "stolen"})
    following = request_of(new_key())
    with unchanged(fleet):
        assert ask(fleet, renewal(device.certificate, device.key, following), "/enrolment/renewal") == (403, "revoked")
        assert ask(fleet, wish(spare, "revoked-1", following))[1] in ("revoked", "token_revoked")


def test_a_token_that_is_nearly_right_opens_nothing(fleet: Fleet) -> None:
    """Tokens are looked up by their hash: how much of one is right cannot be measured, and none is stored."""
    good = token_for(fleet)
    near = good[:-1] + ("A" if good[-1] != "A" else "Q")
    with unchanged(fleet):
        assert ask(fleet, wish(near, "near-1", request_of(new_key())))[0] in (403, 422)
    assert good not in str(records(fleet)), "stored"
