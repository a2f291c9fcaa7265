"""Every name that a repository may choose has one name in messages, and comes back from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.names import from_wire, to_wire
from protocol.errors import MessageError
from protocol.values import check_metadata_name


@pytest.mark.parametrize("name", ["timestamp.json", "3.root.json", "12.thermostat.json", "a-b.json"])
def test_our_own_names_stay(name: str) -> None:
    assert to_wire(name) == from_wire(name) == name


@pytest.mark.parametrize(
    ("name", "escaped"),
    [("1.A.json", "1.x-41.json"), ("%3F.json", "x-253346.json"), ("2.x-41.json", "2.x-782d3431.json")],
)
def test_other_names_are_escaped(name: str, escaped: str) -> None:
    assert to_wire(name) == escaped
    assert from_wire(escaped) == name


@given(version=st.none() | st.integers(1, 10**9), role=st.text(min_size=1, max_size=15))
def test_names_come_back(version: int | None, role: str) -> None:
    name = f"{'' if version is None else f'{version}.'}{role}.json"
    try:
        wire = to_wire(name)
    except (MessageError, UnicodeEncodeError):
        return
    assert check_metadata_name(wire) == wire
    assert from_wire(wire) == name


@pytest.mark.parametrize("name", ["", "x", "1.json.txt", f"{'A' * 40}.json"])
def test_what_has_no_name_in_messages(name: str) -> None:
    with pytest.raises(MessageError):
        to_wire(name)


@pytest.mark.parametrize("name", ["x-.json", "x-4.json", "x-zz.json", "x-ff.json", "../x.json"])
def test_what_no_name_was_escaped_to(name: str) -> None:
    with pytest.raises(MessageError):
        from_wire(name)
