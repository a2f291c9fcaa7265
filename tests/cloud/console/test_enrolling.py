"""Keys and enrolment in the console: a code that is shown once and works, who signs, and authorities that change."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from cloud.access.roles import Role
from cloud.credentials import TokenDraft
from cloud.pki.authorities import Authorities
from device_agent.config import load_applicant
from protocol.enrolment import EnrolmentCode
from tests.cloud.console.releasing import parses
from tests.cloud.console.visits import Page, reading
from tests.cloud.homes import MODEL, PRODUCT, Api
from tests.cloud.pki.requesting import new_key, request


def code_on(page: Page) -> EnrolmentCode:
    return EnrolmentCode.parse(next(line for line in page.cli() if line.startswith("fl1.")))


def token(api: Api, name: str) -> None:
    sha256 = hashlib.sha256(secrets.token_bytes()).hexdigest()
    api.home.store.enrolment.add(TokenDraft(sha256=sha256, product=PRODUCT, name=name), by="test")


def test_a_code_is_shown_once_with_its_picture_and_names_what_devices_begin_with(api: Api) -> None:
    api("POST", "/groups", {"product": PRODUCT, "group": "pilots"}, expect=201)
    with reading(api, "ben", Role.OPERATOR) as ben:
        page = ben.get("/enrolment")
        parses(page)
        assert "No code is good now." in page.text
        fields = {"Devices": 50, "Groups": "pilots", "Good for": "168", "Name of the code": "batch-7"}
        shown = page.submit("Make the code", fields)
        assert shown.title == "Enrolment code batch-7"
        code = code_on(shown)
        made = api("GET", "/enrolment-tokens")[0]
        assert (made["max_uses"], made["groups"], made["created_by"]) == (50, ["pilots"], "ben")
        root = api.backend.repository.metadata("1.root.json") or b""
        assert code.root_sha256 == hashlib.sha256(root).hexdigest()
        answer = shown.answer
        assert answer.headers["Cache-Control"] == "no-store"
        assert "set-cookie" not in answer.headers, "the code is in no cookie"
        assert not re.search(r"\sstyle=", answer.text)
        assert shown.one(".qr")["role"] == "img"
        assert shown.has(".qr svg path")
        listed = ben.get("/enrolment")
        assert listed.rows("#codes table")[0][:5] == ["batch-7", PRODUCT, "any new device", "pilots", "0 of 50"]
        assert code.token not in listed.answer.text
        line = next(it for it in shown.cli() if it.startswith("fleetlift token create"))
        assert line == (
            f"fleetlift token create --product {PRODUCT} --group pilots --uses 50 --expires 168h --name batch-7"
        )


def test_the_authority_that_a_code_names_is_the_oldest_that_servers_have(api: Api) -> None:
    authorities = api.backend.authorities
    assert isinstance(authorities, Authorities)
    first = authorities.views("services")[0].sha256
    authorities.rotate("services")
    with reading(api) as ann:
        shown = ann.get("/enrolment").submit("Make the code", {"This device alone": "pump-1"})
        assert code_on(shown).ca_sha256 == first
        line = next(it for it in shown.cli() if it.startswith("printf"))
        assert line.endswith(f"--server {api.backend.base_url} --device-id pump-1 --code-file -")
        assert str(code_on(shown)) in line.partition("|")[0], "the code goes through a pipe"


def test_the_line_for_a_device_agrees_with_the_settings_that_are_beside_it(api: Api, tmp_path: Path) -> None:
    with reading(api) as ann:
        shown = ann.get("/enrolment").submit("Make the code", {})
        line = next(it for it in shown.cli() if it.startswith("printf"))
        assert "--device-id" not in line, "the settings say who the device is"
        config = tmp_path / "agent.toml"
        config.write_text(shown.one("details.hint pre").text)
        applicant = load_applicant(config)
        assert (applicant.device_id, applicant.product, applicant.hardware_model) == ("device-1", PRODUCT, MODEL)
        named = ann.get("/enrolment").submit("Make the code", {"This device alone": "pump-1"})
        config.write_text(named.one("details.hint pre").text)
        assert load_applicant(config).device_id == "pump-1"


def enrol(api: Api, code: EnrolmentCode, device_id: str) -> None:
    """Do as a device does that was handed the code."""
    wish = {"token": code.token, "device_id": device_id, "hardware_model": MODEL, "csr": request(new_key()).decode()}
    api("POST", "/enrolment", wish, expect=201)


def test_a_code_enrols_a_device_as_often_as_it_may(api: Api) -> None:
    with reading(api) as ann:
        code = code_on(ann.get("/enrolment").submit("Make the code", {"Hardware model": MODEL, "Devices": 2}))
        enrol(api, code, "pi-1")
        assert ann.get("/enrolment").rows("#codes table")[0][2:5] == [MODEL, "none", "1 of 2"]
        enrol(api, code, "pi-2")
        assert not ann.get("/enrolment").rows("#codes table")
        assert ann.get("/enrolment?all=yes").rows("#codes table")[0][0].endswith(" used")


def test_what_is_refused_keeps_what_was_typed(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get("/enrolment")
        wrong = page.submit("Make the code", {"Hardware model": "toaster", "Devices": 3}, expect=422)
        assert "no hardware model 'toaster'" in wrong.said
        assert wrong.one("#f-uses")["value"] == "3"
        assert "no group 'nobody'" in page.submit("Make the code", {"Groups": "nobody"}, expect=422).said
        assert "uses" in page.submit("Make the code", {"Devices": 0}, expect=422).said
        assert api("GET", "/enrolment-tokens") == []


def test_codes_are_revoked_and_past_ones_are_listed_when_asked(api: Api) -> None:
    token(api, "batch-1")
    with reading(api) as ann:
        page = ann.get("/enrolment").submit("Revoke the code")
        parses(page)
        assert page.said.startswith("The enrolment token batch-1 enrols nobody any more.")
        assert not page.rows("#codes table")
        page = page.follow("Used and past ones, too")
        assert page.rows("#codes table")[0][0] == "batch-1 revoked"


def test_who_signs_is_told_without_a_private_key(api: Api) -> None:
    with reading(api, "cat", Role.VIEWER) as cat:
        page = cat.get("/enrolment")
        parses(page)
        roles = {row[0]: row for row in page.rows("#keys table")}
        assert set(roles) == {"root", "targets", PRODUCT, "snapshot", "timestamp"}
        assert roles["root"][1] == "1"
        assert roles["root"][3] == "2 of 3"
        assert "renewed by itself" in roles["timestamp"][2]
        assert "this server" in roles["timestamp"][4]
        assert not page.has("form[method=post][action^='/enrolment']")


def test_authorities_change_over_with_a_question(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get("/enrolment").submit("Make the next authority for devices")
        parses(page)
        assert page.said.startswith("devices-2 signs from now on")
        assert [row[0] for row in page.rows("#authorities table")][:2] == ["devices-2 signs", "devices-1 trusted"]
        page = page.submit("Retire the old authorities for devices")
        assert page.said.startswith("devices-2 alone is trusted for devices.")
        actions = [row["action"] for row in api("GET", "/audit?prefix=authority/")]
        assert actions == ["authority.rotated", "authority.retired"]


def test_an_authority_that_devices_need_is_retired_by_force_alone(api: Api) -> None:
    with reading(api) as ann:
        enrol(api, code_on(ann.get("/enrolment").submit("Make the code")), "pi-1")
        page = ann.get("/enrolment").submit("Make the next authority for devices")
        assert "1 devices still need the one before" in page.text
        button = "Retire the old authorities for devices"
        refused = page.submit(button)
        assert "1 of the devices still need the old authority (pi-1)" in refused.said
        assert len(refused.rows("#authorities table")) == 3
        forced = {"All the same: those devices are shut out, and have to enrol again.": True}
        page = refused.submit(button, forced)
        parses(page)
        assert page.said.startswith("devices-2 alone is trusted for devices.")
        assert "fleetlift ca retire devices --force --yes" in page.cli()


def test_authorities_are_for_those_who_may_look_at_the_server(api: Api) -> None:
    with reading(api, "ben", Role.ADMIN, PRODUCT) as ben:
        page = ben.get("/enrolment")
        assert not page.has("#authorities")
        csrf = page.soup.select("input[name=csrf]")[0]["value"]
        answer = ben.http.post("/enrolment/authorities/devices/rotate", data={"csrf": csrf})
        assert answer.status_code == 403
