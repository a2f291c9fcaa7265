"""`person`, `api-token`, `audit` and `console`, from the command line to a real server and back."""

import json
import stat
from pathlib import Path

from tests.cloud.cli.deeds import refusal
from tests.cloud.cli.offices import Office
from tests.cloud.homes import PRODUCT


def test_somebody_is_made_known_and_may_what_they_are_granted(office: Office, tmp_path: Path) -> None:
    token = tmp_path / "ann.token"
    assert "is known" in office.call("person", "add", "ann", "--role", "viewer", "--product", PRODUCT).out
    refusal(office, "person", "add", "ann", code=5)
    made = office.json("api-token", "create", "anns", "--person", "ann", "--token-to", token)
    assert "text" not in made
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    as_ann = ("--token-file", token)
    assert [row["product"] for row in office.json(*as_ann, "product", "list")] == [PRODUCT]
    said = refusal(office, *as_ann, "group", "create", "hers", code=4)
    assert "takes the role release manager for product thermostat" in said
    assert (
        "release manager for thermostat"
        in office.call("person", "grant", "ann", "release_manager", "--product", PRODUCT).out
    )
    office.call(*as_ann, "group", "create", "hers")
    assert office.json(*as_ann, "person", "show")["grants"] == {PRODUCT: "release_manager"}
    assert "no role of their own" in office.call("person", "withdraw", "ann", "--product", PRODUCT).out
    refusal(office, *as_ann, "group", "show", "hers", code=1)
    office.call("person", "disable", "ann", "--yes")
    assert "disabled" in refusal(office, *as_ann, "person", "show", code=4)
    office.call("person", "enable", "ann")
    office.call("api-token", "revoke", "anns", "--yes")
    refusal(office, *as_ann, "person", "show", code=4)
    assert [row["name"] for row in office.json("api-token", "list", "--all") if row["revoked_at_ms"]] == ["anns"]


def test_where_a_role_is_for_has_to_be_said(office: Office) -> None:
    for arguments in (("grant", "operator", "admin"), ("withdraw", "operator"), ("add", "bob", "--role", "viewer")):
        assert "--everywhere" in refusal(office, "person", *arguments, code=2)
    refusal(office, "person", "grant", "operator", "viewer", "--everywhere", code=5)


def test_a_password_comes_from_a_file_of_ones_own_and_is_never_an_argument(office: Office, tmp_path: Path) -> None:
    office.call("person", "add", "eve")
    secret = tmp_path / "password"
    secret.write_text("correct horse battery\n")
    secret.chmod(0o644)
    assert "can be read by others" in refusal(office, "person", "password", "eve", "--password-file", secret, code=2)
    secret.chmod(0o600)
    assert "/login" in office.call("person", "password", "eve", "--password-file", secret).out
    assert office.json("person", "show", "eve")["has_password"] is True
    office.call("person", "password", "eve", "--remove")
    assert office.json("person", "show", "eve")["has_password"] is False
    secret.write_text("short\n")
    assert "at least 12 characters" in refusal(office, "person", "password", "eve", "--password-file", secret, code=2)
    assert "nobody is here" in refusal(office, "person", "password", "eve", code=2)


def test_a_token_is_told_on_standard_output_once(office: Office) -> None:
    said = office.call("api-token", "create", "ci", "--role", "viewer", "--expires", "1h")
    assert said.out.startswith("flt_")
    assert len(said.out.split()) == 1, "nothing but the token"
    assert said.out.strip() not in office.call("api-token", "list").out
    made = office.json("api-token", "create", "ci-2", "--product", PRODUCT)
    assert made["text"].startswith("flt_")
    assert (made["role"], made["product"]) == ("admin", PRODUCT)


def test_a_link_to_the_console_is_alone_on_standard_output(office: Office) -> None:
    said = office.call("console")
    assert said.out.startswith(f"http://127.0.0.1:{office.port}/login?code=")
    assert "Good once" in said.err
    assert set(office.json("console")) == {"code", "url", "expires_at_ms"}


def test_an_export_is_checked_without_the_server_and_tampering_is_found(office: Office, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        office.call("group", "create", f"audited-{name}")
    path = tmp_path / "audit.jsonl"
    office.call("audit", "export", "--to", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    refusal(office, "audit", "export", "--to", path, code=5)
    nowhere = ("--server", "http://127.0.0.1:1")
    verdict = office.json(*nowhere, "audit", "verify", path)
    assert verdict["good"] is True
    lines = path.read_text().split("\n")[:-1]
    assert (verdict["rows"], verdict["hash"]) == (len(lines), json.loads(lines[-1])["hash"])
    assert office.call("audit", "verify").out.startswith(f"{len(lines)} rows, all good")
    office.call("audit", "verify", path, "--server-head")

    def wrong(what: list[str], *options: str) -> str:
        path.write_text("".join(f"{line}\n" for line in what))
        return office.call(*nowhere, "audit", "verify", path, *options, expect=1).err

    altered = lines[2].replace('"actor":"operator"', '"actor":"nobody"').replace('"actor":"init"', '"actor":"nobody"')
    assert "row 3 was changed" in wrong([*lines[:2], altered, *lines[3:]])
    assert "row 4 is not here, row 5 is" in wrong([*lines[:3], *lines[4:]])
    assert "row 2 is not here, row 3 is" in wrong([lines[0], lines[2], lines[1], *lines[3:]])
    assert f"row {len(lines) - 1} is the last" in wrong(lines[:-1], "--head", verdict["hash"])
    assert office.call(*nowhere, "audit", "verify", path).code == 0, "without a hash nobody can tell"
    assert "is the last" in office.call("audit", "verify", path, "--server-head", expect=1).err


def test_what_the_servers_loops_do_comes_from_the_server(office: Office) -> None:
    with office.device("joins-by-itself"):
        rows = office.json("audit", "list", "--subject", "device/joins-by-itself")
    assert [(row["action"], row["origin"]) for row in rows] == [("device.registered", {"via": "server"})]


def test_the_record_is_listed_by_who_and_what(office: Office) -> None:
    office.call("group", "create", "listed")
    (row,) = office.json("audit", "list", "--actor", "operator", "--action", "group.created", "--limit", 1)
    assert row["subject"] == f"group/{PRODUCT}/listed"
    assert (row["origin"]["via"], row["origin"]["token"], row["origin"]["address"]) == ("cli", "operator", "127.0.0.1")
    assert office.json("audit", "list", "--since", "2999-01-01") == []
    assert office.json("audit", "list", "--prefix", "group/", "--until", "2000-01-01T00:00") == []
    assert "cli operator 127.0.0.1" in office.call("audit", "list", "--subject", row["subject"]).out
