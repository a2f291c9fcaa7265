"""Tampering with the record of decisions is found: any one change, removal or swap; a cut end by the newest hash."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.auditing import canonical, hash_of, verify
from cloud.provenance import ORIGIN, Origin
from cloud.store.audit import line, row_hash
from cloud.store.store import Store

ROWS = 7


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """An export of decisions with and without an origin, of every shape that JSON has."""
    now = iter(range(1, 1000))
    path: Path = tmp_path_factory.mktemp("audit") / "store.db"
    with Store.open(f"sqlite:///{path}", lambda: next(now)) as store:
        for number in range(ROWS):
            origin = Origin(address=f"192.0.2.{number}", via="cli", token="ann", request="r1") if number % 2 else None
            before = ORIGIN.set(origin)
            store.audit.record(
                "ann", "test.done", f"test/{number}", before=None, after={"n": number, "ü\u2028": [None]}
            )
            ORIGIN.reset(before)
        yield _lines(store)


def _lines(store: Store) -> list[str]:
    return "".join(store.audit.export()).split("\n")[:-1]


def test_an_export_that_nobody_touched_is_good_and_its_newest_hash_is_the_servers(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/store.db", lambda: 1.0) as store:
        assert verify(_lines(store)).why_not == ""
        for number in range(1203):
            store.audit.record("ann", "test.done", f"test/{number}")
        lines, head = _lines(store), store.audit.head()
        verdict = verify(lines, head=head.hash)
        assert (verdict.why_not, verdict.rows, verdict.number, verdict.hash) == ("", 1203, head.number, head.hash)
        store.audit.record("ann", "test.done", "test/later")
        assert verify(_lines(store), head=head.hash).why_not == "", "a hash that was once the newest is still there"


def test_a_row_without_an_origin_has_the_hash_that_it_always_had(export: list[str]) -> None:
    rows = [json.loads(it) for it in export]
    assert ["origin" in row for row in rows] == [bool(number % 2) for number in range(ROWS)]
    assert rows[1]["origin"] == {"address": "192.0.2.1", "via": "cli", "token": "ann", "request": "r1"}
    for row in rows:
        assert row["hash"] == hash_of(row)


def test_what_the_store_hashes_is_what_is_checked(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/store.db", lambda: 1.0) as store:
        row = store.audit.record("ann", "test.done", "test/1", after={"a": None})
        assert row_hash(row) == row.hash == hash_of(json.loads(line(row)))


def _wrong(lines: list[str], head: str) -> str:
    return verify(lines, head=head).why_not


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_one_removal_or_swap_is_found_and_named(export: list[str], data: st.DataObject) -> None:
    head = json.loads(export[-1])["hash"]
    lines = list(export)
    if data.draw(st.booleans()):
        gone = data.draw(st.integers(0, ROWS - 1))
        del lines[gone]
        assert f"row {gone + 1 if gone < ROWS - 1 else ROWS - 1} is" in _wrong(lines, head)
    else:
        one = data.draw(st.integers(0, ROWS - 2))
        other = data.draw(st.integers(one + 1, ROWS - 1))
        lines[one], lines[other] = lines[other], lines[one]
        assert f"row {one + 1} is not here, row {other + 1} is" in _wrong(lines, head)


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_any_one_change_is_found_and_the_row_is_named(export: list[str], data: st.DataObject) -> None:
    head, at = json.loads(export[-1])["hash"], data.draw(st.integers(0, ROWS - 1))
    row = json.loads(export[at])
    changed: dict[str, Any] = copy.deepcopy(row)
    name = data.draw(st.sampled_from([*sorted(row), "origin"]))
    value = data.draw(
        st.none() | st.integers() | st.text(max_size=5) | st.just("0" * 64) | st.dictionaries(st.text(), st.text())
    )
    changed[name] = value
    if changed == row and type(value) is type(row[name]):
        return
    if data.draw(st.booleans()) and name != "hash":
        changed["hash"] = hash_of(changed)  # whoever changes a row can hash it anew, and not the ones after it
    lines = [*export[:at], canonical(changed), *export[at + 1 :]]
    why = _wrong(lines, head)
    assert why, changed
    assert (
        "cut off" in why
        if at == ROWS - 1 and "line" not in why
        else f"line {at + 1}:" in why or f"line {at + 2}:" in why
    )


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_one_changed_character_is_found(export: list[str], data: st.DataObject) -> None:
    head, at = json.loads(export[-1])["hash"], data.draw(st.integers(0, ROWS - 1))
    text = export[at]
    place = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.characters(exclude_categories=["Cs"]))
    if char == text[place]:
        return
    lines = [*export[:at], text[:place] + char + text[place + 1 :], *export[at + 1 :]]
    assert _wrong(lines, head)


def test_a_cut_end_only_the_newest_hash_can_tell(export: list[str]) -> None:
    head = json.loads(export[-1])["hash"]
    for left in range(ROWS):
        assert verify(export[:left]).why_not == ""
        assert f"row {left} is the last" in _wrong(export[:left], head)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"number":1}', "[" * 100_000, '{"number":1,"number":1}'])
def test_what_is_no_row_is_said_to_be_none(export: list[str], text: str) -> None:
    assert verify([export[0], text, export[2]]).why_not.startswith("line 2: it is no ")
