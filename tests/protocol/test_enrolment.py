"""Enrolment codes are read in one spelling only, and never shown by accident."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import decode, encode
from protocol.enrolment import (
    RENEWAL_CONTEXT,
    Enrolled,
    EnrolmentCode,
    EnrolmentRequest,
    RenewalRequest,
    TrustDocument,
    make_token,
    read_code,
)
from protocol.errors import EnrolmentError, MessageError, ProtocolError

TOKEN = make_token(bytes(range(16)))
CODE = EnrolmentCode(TOKEN, hashlib.sha256(b"ca").hexdigest(), hashlib.sha256(b"root").hexdigest())
ENROLLED = Enrolled(
    device_id="dev-1",
    product="camera",
    certificate="PEM",
    ca="PEM",
    broker_url="mqtts://broker:8883",
    topic_root="fleetlift/v1",
    not_before_ms=1,
    not_after_ms=2,
)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_code_is_read_as_it_was_written(token: bytes, ca: bytes, root: bytes) -> None:
    code = EnrolmentCode(make_token(token), ca.hex(), root.hex())
    assert EnrolmentCode.parse(f" {code}\n") == code
    assert [len(part) for part in str(code).split(".")] == [3, 22, 43, 43]


def test_a_code_is_what_the_protocol_says() -> None:
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"ca").digest()).decode().rstrip("=")
    assert str(CODE).startswith(f"fl1.AAECAwQFBgcICQoLDA0ODw.{digest}.")
    assert RENEWAL_CONTEXT == b"fleetlift renewal 1\n"


def _with(part: int, text: str) -> str:
    parts = str(CODE).split(".")
    parts[part] = text
    return ".".join(parts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fl1",
        str(CODE)[:-1],
        str(CODE) + ".",
        _with(0, "fl2"),
        _with(1, TOKEN + "A"),
        _with(1, TOKEN[:-1] + "x"),  # the same bytes with other spare bits
        _with(1, TOKEN[:-2] + "=="),
        _with(2, "!" * 43),
        _with(3, "é" * 43),
        _with(3, "A" * 42),
    ],
)
def test_what_is_no_code_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(EnrolmentError) as refused:
        EnrolmentCode.parse(text)
    assert TOKEN[:12] not in str(refused.value)


@given(st.text(max_size=200))
def test_any_text_is_a_code_or_refused(text: str) -> None:
    with contextlib.suppress(EnrolmentError):
        assert str(EnrolmentCode.parse(text)) == text.strip()


def test_the_secret_is_not_in_a_repr() -> None:
    request = EnrolmentRequest(token=TOKEN, device_id="dev-1", hardware_model="pi4", csr="PEM")
    assert TOKEN not in repr(CODE) + repr(request)


def test_a_file_has_one_code_and_comments() -> None:
    assert read_code(f"# for the camera at the gate\n\n{CODE}\n") == CODE
    for text in ("", "# nothing\n", f"{CODE}\n{CODE}\n"):
        with pytest.raises(EnrolmentError, match="one line"):
            read_code(text)


@pytest.mark.parametrize(
    "message",
    [
        TrustDocument(ca="PEM", roots=("{}", '{"a":1}')),
        EnrolmentRequest(token=TOKEN, device_id="dev-1", hardware_model="pi4", csr="PEM"),
        RenewalRequest(certificate="PEM", csr="PEM", signature="AA=="),
        ENROLLED,
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_are_read_as_they_were_written(message: object) -> None:
    assert decode(encode(message), type(message)) == message


@pytest.mark.parametrize(
    "change",
    [
        {"device_id": "Dev 1"},
        {"product": ""},
        {"certificate": ""},
        {"ca": "x" * 70_000},
        {"broker_url": "x" * 500},
        {"not_after_ms": 1},
        {"not_before_ms": 0.5},
    ],
    ids=str,
)
def test_an_answer_that_is_none_is_refused(change: dict[str, object]) -> None:
    fields = {**json.loads(encode(ENROLLED)), **change}
    with pytest.raises(MessageError):
        decode(json.dumps(fields), Enrolled)


@pytest.mark.parametrize("change", [{"token": "short"}, {"device_id": "a/b"}, {"csr": "x" * 9000}], ids=str)
def test_a_request_that_is_none_is_refused(change: dict[str, str]) -> None:
    fields = {"token": TOKEN, "device_id": "dev-1", "hardware_model": "pi4", "csr": "PEM", **change}
    with pytest.raises(ProtocolError):
        EnrolmentRequest(**fields)
