"""What is signed is checked as it was received, before anything of it is decoded."""

from __future__ import annotations

import pytest

from protocol.codec import encode
from protocol.down import Notice
from protocol.errors import MessageError
from protocol.signing import DESIRED_TYPE, NOTICE_TYPE, Envelope, Signature, pae, seal, unseal
from tests.protocol.samples import DIGEST_A, DIGEST_B, MESSAGES

NOTICE = next(message for message in MESSAGES if isinstance(message, Notice))


def test_the_encoding_is_that_of_dsse() -> None:
    # The example of the specification (protocol.md, DSSE v1).
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"") == "DSSEv1 2 é 0 ".encode()


def test_what_is_sealed_is_unsealed_over_the_very_bytes() -> None:
    signed: list[bytes] = []

    def sign(data: bytes) -> tuple[Signature, ...]:
        signed.append(data)
        return (Signature(keyid=DIGEST_A, sig="00"),)

    checked: list[bytes] = []
    envelope = seal(NOTICE, NOTICE_TYPE, sign)
    assert unseal(envelope, NOTICE_TYPE, Notice, lambda data, _: checked.append(data)) == NOTICE
    assert signed == checked == [pae(NOTICE_TYPE, encode(NOTICE))]


def test_a_payload_is_not_decoded_before_its_signatures_are_checked() -> None:
    class NoGoodError(Exception):
        pass

    def refuse(_data: bytes, _signatures: tuple[Signature, ...]) -> None:
        raise NoGoodError

    envelope = encode(Envelope(type=NOTICE_TYPE, payload="not JSON", signatures=(Signature(keyid=DIGEST_A, sig="00"),)))
    with pytest.raises(NoGoodError):
        unseal(envelope, NOTICE_TYPE, Notice, refuse)


def test_an_envelope_of_another_type_is_refused() -> None:
    envelope = seal(NOTICE, DESIRED_TYPE, lambda _: (Signature(keyid=DIGEST_A, sig="00"),))
    with pytest.raises(MessageError, match="envelope of type"):
        unseal(envelope, NOTICE_TYPE, Notice, lambda *_: None)


@pytest.mark.parametrize(
    "signatures",
    [(), (Signature(keyid=DIGEST_A, sig="00"),) * 2, tuple(Signature(keyid=f"{n:064x}", sig="00") for n in range(9))],
)
def test_no_twice_or_too_many_signatures_are_refused(signatures: tuple[Signature, ...]) -> None:
    with pytest.raises(MessageError):
        Envelope(type=NOTICE_TYPE, payload="{}", signatures=signatures)


@pytest.mark.parametrize("sig", ["", "0", "0G", "AB", "00" * 1025])
def test_what_is_no_signature(sig: str) -> None:
    with pytest.raises(MessageError):
        Signature(keyid=DIGEST_B, sig=sig)
