"""The record of decisions in the console: filters in the address, what changed, from where, and whether it is whole."""

from __future__ import annotations

import json
import time

from cloud.access.roles import Role
from cloud.auditing import verify
from cloud.console.auditing import Change, changes_of
from tests.cloud.console.releasing import fleet, parses, release, stat
from tests.cloud.console.visits import Page, Reader, reading
from tests.cloud.homes import PRODUCT, Api


def checked(reader: Reader) -> Page:
    """The page when the hashes were checked: a thread does that, and has no event to wait for."""
    until = time.monotonic() + 30
    while "checking" in (page := reader.get("/audit/chain", fragment=True)).text:
        assert time.monotonic() < until
        time.sleep(0.02)
    return page


def test_each_decision_says_who_what_whence_and_what_changed(api: Api) -> None:
    fleet(api)
    with reading(api) as ann:
        made = release(api, "1.1.0", percentage=20)
        api("PATCH", f"/releases/{made['release_id']}", {"percentage": 50})
        ann.get("/groups/new").submit("Make the group", {"Name": "pilots"})
        page = ann.get("/audit")
        parses(page)
        newest = page.rows()[0]
        assert newest[2] == "ann console from 127.0.0.1"
        assert newest[3:5] == ["group.created", f"group/{PRODUCT}/pilots"]
        assert newest[5] == "rank 1"
        patched = page.soup.select_one("tbody tr:nth-of-type(2)")
        assert patched is not None
        assert [it.get_text() for it in patched.select("del, ins")] == ["20", "50"]
        assert "api with operator" in patched.get_text()
        assert page.follow(f"group/{PRODUCT}/pilots").title == "pilots"


def test_filters_are_in_the_address_and_in_the_command(api: Api) -> None:
    fleet(api)
    release(api, "1.1.0")
    with reading(api) as ann:
        page = ann.get("/audit").submit("Show", {"About": "device/", "Who": "device/pi-01"})
        parses(page)
        assert "actor=device%2Fpi-01" in page.path
        assert {row[4] for row in page.rows()} == {"device/pi-01"}
        assert "fleetlift audit list --actor device/pi-01 --prefix device/" in page.cli()
        page = page.submit("Show", {"About": "device/pi-01", "Who": "", "What": "release.created"})
        assert "Nothing like that was decided." in page.text
        assert page.follow("All").path == "/audit"
        assert [row[3] for row in ann.get("/audit?action=release.created").rows()] == ["release.created"]
        assert not ann.get("/audit?since=2099-01-01T00:00").rows()
        assert ann.get("/audit?until=2099-01-01").rows()
        assert "A time is written as in" in ann.get("/audit?since=yesterday", expect=422).text


def test_pages_lead_to_the_first_row(api: Api) -> None:
    fleet(api, 60)
    with reading(api) as ann:
        first = ann.get("/audit?subject=device/")
        assert len(first.rows()) == 50
        second = first.follow("Next page")
        assert "subject=device%2F" in second.path
        numbers = [int(row[0]) for row in [*first.rows(), *second.rows()]]
        assert numbers == sorted(numbers, reverse=True)
        assert len(set(numbers)) == 60
        assert second.follow("First page").rows() == first.rows()


def test_the_hashes_are_checked_and_a_changed_row_is_found(api: Api) -> None:
    fleet(api)
    with reading(api) as ann:
        ann.get("/audit")
        head = api("GET", "/audit/head")
        page = checked(ann)
        assert stat(page, "Hashes", "body, #chain") == "agree"
        assert head["hash"] in page.text
        with api.home.store._database.changing() as change:
            change.session.connection().exec_driver_sql("UPDATE audit SET actor = 'nobody' WHERE number = 3")
        verdict = api("GET", "/audit/verification")
        assert verdict["why_not"].startswith("line 3: row 3 was changed")
        until = time.monotonic() + 30
        while "tampered" not in (page := ann.get("/audit/chain", fragment=True)).text:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert "The record was tampered with, or is damaged: line 3: row 3 was changed" in page.text


def test_the_export_is_what_is_checked_without_the_server(api: Api) -> None:
    fleet(api)
    with reading(api) as ann:
        page = ann.get("/audit")
        answer = ann.http.get(str(page.one("a[download]")["href"]))
        assert answer.headers["Content-Disposition"] == 'attachment; filename="audit.jsonl"'
        lines = answer.text.splitlines(keepends=True)
        verdict = verify(lines, head=api("GET", "/audit/head")["hash"])
        assert not verdict.why_not
        assert verdict.rows == json.loads(lines[-1])["number"] > 3


def test_the_record_is_for_those_who_may_look_at_the_server(api: Api) -> None:
    with reading(api, "ben", Role.ADMIN, PRODUCT) as ben:
        for path in ("/audit", "/audit/chain", "/audit/export"):
            ben.get(path, expect=403)


def test_what_changed_is_told_field_by_field() -> None:
    before = {"terms": {"optional": False, "groups": ["a", "b"]}, "enabled": True, "gone": 1}
    after = {"terms": {"optional": True, "groups": ["a", "b"]}, "enabled": True, "expires_at_ms": 1_700_000_000_000}
    assert changes_of(before, after) == (
        Change("terms optional", "no", "yes"),
        Change("gone", "1", None),
        Change("expires at", None, "2023-11-14 22:13 UTC"),
    )
    assert changes_of(3, 1) == (Change("", "3", "1"),)
    assert changes_of(None, None) == ()
    assert changes_of(None, {"devices": []}) == (Change("devices", None, "none"),)
    long = changes_of(None, {"text": "x" * 1000})[0].after
    assert long is not None
    assert len(long) == 300
