"""Control messages are decoded strictly: every refusal names what is wrong, and nothing else escapes."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import MAX_MESSAGE_BYTES, decode, encode, to_plain
from protocol.errors import MessageError
from protocol.up import DeviceState, Hello, Presence, Report, Want
from tests.protocol.samples import DIGEST_A, MESSAGES, STATE

KINDS = sorted({type(message) for message in MESSAGES}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: object) -> None:
    assert decode(encode(message), type(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_truncation_is_refused(message: object) -> None:
    payload = encode(message)
    for length in range(len(payload)):
        with pytest.raises(MessageError):
            decode(payload[:length], type(message))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_unknown_fields_are_tolerated(message: object) -> None:
    fields = to_plain(message) | {"of_the_next_version": [1.5, {"deep": None}]}
    assert decode(json.dumps(fields), type(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_no_field_takes_a_value_of_another_type(message: object) -> None:
    fields = to_plain(message)
    for name, value in fields.items():
        others: tuple[object, ...] = (1.0, True, "text", [1], {"a": 1})
        for other in others:
            if type(other) is type(value):
                continue
            with pytest.raises(MessageError, match=r"expected|is not one of"):
                decode(json.dumps(fields | {name: other}), type(message))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"session":1,"session":2}', "stands twice"),
        (b'{"session":NaN}', "NaN"),
        (b'{"session":-Infinity}', "Infinity"),
        (b'{"session":9007199254740992}', "2\\*\\*53"),
        (b'{"session":' + b"9" * 5000 + b"}", "2\\*\\*53"),
        (b'{"x":"\\ud800"}', "lone surrogate"),
        (b'{"x":[{"\\uDFFF":1}]}', "lone surrogate"),
        (b'{"x":' + b"[" * 60000 + b"]" * 60000 + b"}", "nested deeper"),
        (b'{"x":' + b"[" * 17 + b"]" * 17 + b"}", "nested deeper"),
        (b'{"x":' + b'{"x":' * 40 + b"1" + b"}" * 41, "nested deeper"),
        (b"[]", "object is expected"),
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"{}", "'session' is missing"),
        (b" " * (MAX_MESSAGE_BYTES + 1), "at most"),
    ],
)
def test_hostile_json_is_refused_by_name(payload: bytes, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        decode(payload, DeviceState)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"session": 0}, "session is 0"),
        ({"seq": -1}, "seq is -1"),
        ({"phase": "flying"}, "'flying' is not one of"),
        ({"components": [to_plain(STATE)["components"][0]] * 2}, "names one twice"),
        ({"components": [{"component": "../x", "version": "1.0.0", "build": 1, "digest": DIGEST_A}]}, "not an id"),
        ({"failed": ["A" * 64] * 65}, "more than 64"),
    ],
)
def test_a_state_out_of_bounds_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        decode(json.dumps(to_plain(STATE) | change), DeviceState)


@pytest.mark.parametrize(
    "ranges", [[], [[0]], [[0, 1, 2]], [[0, 0]], [[5, 1], [0, 1]], [[0, 5], [4, 1]], [[0, 5000]], [[-1, 2]], [[0, 1.0]]]
)
def test_a_want_with_wrong_ranges_is_refused(ranges: object) -> None:
    with pytest.raises(MessageError):
        decode(json.dumps({"blob": DIGEST_A, "ranges": ranges}), Want)


def test_a_report_with_a_hole_is_refused() -> None:
    entries = [{"seq": 1, "at_ms": 0}, {"seq": 3, "at_ms": 0}]
    with pytest.raises(MessageError, match="one after the other"):
        decode(json.dumps({"journal_id": "j", "entries": entries}), Report)


def test_a_message_of_nothing_but_mistakes_costs_no_more_than_a_good_one() -> None:
    entries = b'{"journal_id":"j","entries":[' + b"{}," * 40_000 + b"{}]}"
    refused = to_plain(STATE) | {"refused": {str(number): "x" for number in range(9_000)}}
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match="'seq' is missing"):
            decode(entries, Report)
        with pytest.raises(MessageError, match="int expected, not str"):
            decode(json.dumps(refused), DeviceState)
        assert tracemalloc.get_traced_memory()[1] < 12 * 2**20
    finally:
        tracemalloc.stop()


def test_a_key_that_stands_twice_is_found_at_once() -> None:
    keys = b",".join(b'"%d":0' % number for number in range(13_000))
    began = time.process_time()
    with pytest.raises(MessageError, match="'12999' stands twice"):
        decode(b"{%b,%b}" % (keys, b'"12999":1'), Presence)
    assert time.process_time() - began < 0.5


def test_the_refusal_names_the_path() -> None:
    fields = to_plain(STATE)
    fields["availability"]["holds"][0]["scopes"] = ["everything"]
    with pytest.raises(MessageError, match=r"\$\.availability\.holds\[0\]\.scopes\[0\]"):
        decode(json.dumps(fields), DeviceState)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_escape_as_another_error(payload: bytes) -> None:
    for kind in (Hello, Report, Want):
        try:
            decode(payload, kind)
        except MessageError:
            continue


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MESSAGES), st.data())
def test_any_value_in_any_field_is_decoded_or_refused(message: object, data: st.DataObject) -> None:
    fields = to_plain(message)
    name = data.draw(st.sampled_from(sorted(fields)))
    try:
        decode(json.dumps(fields | {name: data.draw(_JSON)}), type(message))
    except MessageError:
        return
