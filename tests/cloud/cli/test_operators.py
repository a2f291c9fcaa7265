"""`operator`: people with tokens of their own, so that a second one can agree to what the first one made."""

import stat
from pathlib import Path

from tests.cloud.cli.deeds import push, refusal
from tests.cloud.cli.offices import Office


def test_a_second_person_approves_what_the_first_one_made(office: Office, tmp_path: Path) -> None:
    token = tmp_path / "second.token"
    assert (
        "may speak to the server"
        in office.call("operator", "add", "second", "--role", "release_manager", "--token-to", token).out
    )
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert "exists already" in refusal(office, "operator", "add", "third", "--token-to", token, code=2)
    assert push(office, "5.0.0", "--phase", "100%:1h", "--approvals", 1).code == 0
    assert "waits for approval" in office.call("release", "rollout", "v1").out
    assert "cannot approve it" in refusal(office, "release", "approve", "v1", code=5)
    said = office.call("--token-file", token, "release", "approve", "v1")
    assert "is approved by you" in said.out
    assert "second (1 of 1)" in said.out
    assert office.json("release", "rollout", "v1")["status"] == "running"
    office.call("operator", "revoke", "second", "--yes")
    refusal(office, "--token-file", token, "release", "pause", "v1", code=4)
    assert [row["name"] for row in office.json("operator", "list") if row.get("revoked_at_ms")] == ["second"]
    assert office.json("release", "rollout", "v1")["status"] == "running"


def test_elsewhere_than_on_the_servers_machine_nothing_is_done(office: Office, tmp_path: Path) -> None:
    said = refusal(office, "--home", tmp_path, "operator", "list", code=2)
    assert "is no server's home" in said
