"""`fleetlift key`: what a person sees, and what is refused with a sentence and changes nothing."""

import hashlib
import os
import pty
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from cloud.cli.client import ApiClient
from cloud.config import Home, load_context
from cloud.key_files import is_protected
from tests.cloud.cli.deeds import refusal
from tests.cloud.cli.offices import FLEETLIFT, Office


def keys_of(office: Office) -> Path:
    return office.home / "operator" / "keys"


def state_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def role(office: Office, name: str) -> list[dict[str, Any]]:
    return [row for row in office.json("key", "list") if row["role"] == name]


def test_the_list_says_who_signs_what_until_when_and_where_the_keys_are(office: Office) -> None:
    rows = office.json("key", "list")
    assert [row["role"] for row in rows if row["first"]] == [
        "root",
        "targets",
        "thermostat",
        "snapshot",
        "timestamp",
    ]
    root = [row for row in rows if row["role"] == "root"]
    assert [(row["threshold"], row["of"], row["where"]) for row in root] == [
        (2, 3, f"here, root-{number}, NO passphrase") for number in (1, 2, 3)
    ]
    timestamp = next(row for row in rows if row["role"] == "timestamp")
    assert (timestamp["where"], timestamp["signed"]) == ("the server", True)
    assert all(row["expires_at_ms"] > 0 and not row["due"] for row in rows)
    shown = office.call("key", "list").out.splitlines()
    assert shown[0].split()[:4] == ["ROLE", "VERSION", "NEEDS", "EXPIRES"]
    assert "2 of 3" in shown[1]


def test_without_a_server_the_list_says_what_the_keyring_knows(closed: Office) -> None:
    answer = closed.call("key", "list")
    assert "cannot be reached" in answer.err
    assert "root-1" in answer.out
    assert closed.call("key", "list", "--offline").err == ""


def test_a_change_without_a_server_says_how_to_draft_it(closed: Office) -> None:
    before = state_of(keys_of(closed))
    assert "--draft FILE" in refusal(closed, "key", "threshold", "root", 3, "--yes", code=1)
    assert state_of(keys_of(closed)) == before
    drafted = closed.json("key", "threshold", "root", 3, "--yes", "--draft", "d.json")
    assert [row["is_met"] for row in drafted] == [True, True]
    assert state_of(keys_of(closed)) == before
    assert "cannot be reached" in refusal(closed, "key", "publish", "d.json", "--yes", code=1)


def test_nothing_is_signed_that_nobody_agreed_to(office: Office) -> None:
    before = state_of(keys_of(office))
    said = refusal(office, "key", "threshold", "root", 3, code=2)
    assert "Nobody is here to answer: nothing was changed" in said
    assert state_of(keys_of(office)) == before


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (("add", "thermostat", "nowhere.json"), "neither a file with a public key nor a key of this home", 2),
        (("add", "kettle", "root-1"), "neither root, targets, online nor a product", 1),
        (("add", "timestamp", "root-1"), "the server signs snapshot and timestamp", 2),
        (("revoke", "online", "root-1"), "fleetlift key online", 2),
        (("revoke", "thermostat", "product-thermostat"), "so none can go", 1),
        (("revoke", "root", "nobody"), "no key of root can be meant", 1),
        (("threshold", "root", "9"), "9 of them cannot be needed", 1),
        (("online", "retire"), "has made no next key", 2),
        (("renew", "kettle"), "has seen no role of product kettle", 1),
        (("show", "README.md"), "does not exist", 2),
    ],
)
def test_what_cannot_be_is_a_sentence(closed_office: Office, arguments: tuple[str, ...], says: str, code: int) -> None:
    before = state_of(keys_of(closed_office))
    options = [] if arguments[0] == "show" else ["--yes"]
    assert says in refusal(closed_office, "key", *arguments, *options, code=code)
    assert state_of(keys_of(closed_office)) == before


@pytest.fixture(scope="module")
def closed_office(office: Office) -> Office:
    """The module's office: these tests change nothing in it."""
    return office


def test_a_key_that_devices_could_not_check_is_refused_with_the_reason(office: Office) -> None:
    path = office.directory / "ecdsa.pem"
    path.write_bytes(CryptoSigner.generate_ecdsa().private_bytes)
    path.chmod(0o600)
    uri = f"file2:{path}"
    assert "can check Ed25519 alone" in refusal(office, "key", "import", "vault", "--uri", uri, code=1)
    assert not list(keys_of(office).glob("vault*"))
    made = office.json("key", "import", "vault", "--uri", uri, "--needs-cryptography", "--label", "the vault")
    assert (made["where"], made["scheme"]) == (uri, "ecdsa-sha2-nistp256")
    assert "Ed25519 alone" in refusal(office, "key", "add", "root", "vault", "--yes", code=1)
    (unused,) = [row for row in office.json("key", "list") if row["role"] is None]
    assert (unused["name"], unused["label"]) == ("vault", "the vault")
    (keys_of(office) / "vault.pub.json").unlink()


def test_a_private_key_in_the_place_of_a_public_one_is_refused_loudly(office: Office) -> None:
    said = refusal(office, "key", "add", "root", keys_of(office) / "targets.pem", "--yes", code=1)
    assert "is a PRIVATE key" in said


def test_a_joiner_trusts_the_root_that_he_was_told_and_no_other(office: Office) -> None:
    first = (keys_of(office) / "1.root.json").read_bytes()
    context = load_context(Home(office.home).context_file)
    server: list[object] = ["--server", context.server, "--token-file", office.home / "operator" / "token"]
    if context.ca:
        server += ["--ca", office.home / "operator" / context.ca]
    home = office.directory / "joiner"
    wrong = refusal(office, "key", "join", *server, "--root-sha256", "ab" * 32, "--home", home, code=1)
    assert "no root there has the SHA-256" in wrong
    assert not (home / "operator" / "keys").exists()
    assert "either --root FILE or --root-sha256" in refusal(office, "key", "join", *server, "--home", home, code=2)
    digest = hashlib.sha256(first).hexdigest()
    made = office.json("key", "join", *server, "--root-sha256", digest, "--home", home)
    assert made["products"] == ["thermostat"]
    assert not list((home / "operator" / "keys").glob("*.pem"))
    assert "holds a keyring already" in refusal(
        office, "key", "join", *server, "--root-sha256", digest, "--home", home, code=1
    )


def test_what_a_keyring_cannot_sign_becomes_a_draft_for_others(office: Office) -> None:
    away = office.directory / "away"
    away.mkdir()
    for number in (2, 3):
        (keys_of(office) / f"root-{number}.pem").rename(away / f"root-{number}.pem")
    demands = office.json("key", "renew", "root", "--yes")
    (draft,) = office.directory.glob("root-*.draft.json")
    assert [(row["by"], row["threshold"], len(row["missing"])) for row in demands] == [
        ("root 1", 2, 2),
        ("root 2", 2, 2),
    ]
    assert "has 1 of the 2 signatures" in refusal(office, "key", "publish", draft, "--yes", code=2)
    assert "none of the keys of this home" in refusal(office, "key", "sign", draft, "--yes", code=2)
    assert "is there already" in refusal(office, "key", "renew", "root", "--yes", code=5)
    (away / "root-2.pem").rename(keys_of(office) / "root-2.pem")
    office.call("key", "sign", draft, "--yes")
    assert office.json("key", "publish", draft, "--yes")["published"] == {"root": 2}
    (away / "root-3.pem").rename(keys_of(office) / "root-3.pem")
    assert {row["version"] for row in role(office, "root")} == {2}


def test_every_change_of_trust_is_in_the_audit(office: Office) -> None:
    made = office.json("key", "create", "bob", "--label", "Bob")
    office.call("key", "add", "thermostat", "bob", "--yes")
    rows = _audit(office, "metadata/targets")
    assert rows[-1]["action"] == "metadata.accepted"
    assert made["keyid"] in rows[-1]["after"]["roles"]["thermostat"]["keyids"]
    assert made["keyid"] not in rows[-1]["before"]["roles"]["thermostat"]["keyids"]
    office.call("key", "revoke", "thermostat", "Bob", "--yes")
    assert made["keyid"] not in _audit(office, "metadata/targets")[-1]["after"]["roles"]["thermostat"]["keyids"]
    office.call("key", "online", "prepare")
    office.call("key", "online", "prepare")
    (online,) = _audit(office, "metadata/online")
    assert (online["action"], online["actor"]) == ("online_key.made", "operator")
    office.call("key", "online", "replace", "--yes")
    assert role(office, "timestamp")[0]["keyid"] == online["after"]["keyid"]


def _audit(office: Office, subject: str) -> list[dict[str, Any]]:
    home = Home(office.home)
    context = load_context(home.context_file)
    ca = home.operator / context.ca if context.ca else None
    with closing(ApiClient(context.server, home.token_file.read_text().strip(), ca)) as api:
        rows: list[dict[str, Any]] = api.get("audit", subject=subject)
        return rows


def at_a_terminal(office: Office, *arguments: object, answers: list[str]) -> tuple[int, str]:
    """Run the command with a person at a terminal, who answers one question after the other."""
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        ["/usr/bin/setsid", "--ctty", "--wait", str(FLEETLIFT), *map(str, arguments)],
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        cwd=office.directory,
    )
    os.close(secondary)
    heard = bytearray()
    left = list(answers)

    def listen() -> None:
        while True:
            try:
                data = os.read(primary, 4096)
            except OSError:
                return
            heard.extend(data)
            if left and data.rstrip().endswith(b":"):
                os.write(primary, left.pop(0).encode() + b"\n")

    listener = threading.Thread(target=listen)
    listener.start()
    code = process.wait(60)
    listener.join(10)
    os.close(primary)
    return code, heard.decode(errors="replace")


def test_a_person_at_a_terminal_is_asked_twice_for_a_new_passphrase_and_once_for_one_that_is(
    tmp_path: Path, closed: Office
) -> None:
    home, secret = tmp_path / "asked", "correct horse battery"
    code, said = at_a_terminal(closed, "init", "--plain", "--home", home, answers=[secret, secret])
    assert (code, said.count("passphrase")) == (0, 1), said
    assert secret not in said
    keys = home / "operator" / "keys"
    assert all(is_protected(path) for path in keys.glob("*.pem"))
    arguments = ("key", "renew", "root", "targets", "--draft", tmp_path / "d.json", "--yes", "--home", home)
    code, said = at_a_terminal(closed, *arguments, answers=[secret])
    assert (code, said.count("Passphrase of")) == (0, 1), said
    code, said = at_a_terminal(closed, *arguments, answers=["wrong passphrase"])
    assert code == 1
    assert "that is not the passphrase of" in said
    assert "Traceback" not in said
    refused = closed.call(*arguments, expect=1)
    assert "is protected by a passphrase" in refused.err
    file = tmp_path / "passphrase"
    file.write_text(secret)
    file.chmod(0o600)
    closed.call(*arguments, "--passphrase-file", file)


def test_keys_are_protected_by_a_command(closed: Office) -> None:
    for name in ("first", "second"):
        (closed.directory / name).write_text(f"passphrase {name}\n")
        (closed.directory / name).chmod(0o600)
    assert "nobody is here to choose" in refusal(closed, "key", "protect", "--all", code=2)
    assert "name keys, or --all" in refusal(closed, "key", "protect", code=2)
    rows = closed.json("key", "protect", "--all", "--passphrase-file", "first")
    assert len(rows) == 5
    assert all(is_protected(path) for path in keys_of(closed).glob("*.pem"))
    closed.call("key", "protect", "root-1", "--passphrase-file", "first", "--new-passphrase-file", "second")
    draft = ("key", "renew", "targets", "--draft", "d.json", "--yes")
    assert "protected by a passphrase" in refusal(closed, *draft, code=1)
    closed.call(*draft, "--passphrase-file", "first")
    assert "not the passphrase" in refusal(closed, *draft, "--passphrase-file", "second", code=1)


def test_init_without_anybody_to_ask_warns_unless_it_was_said(closed: Office) -> None:
    assert "key protect --all" in closed.call("init", "--plain", "--home", closed.directory / "a").err
    assert "key protect" not in closed.call("init", "--plain", "--no-passphrase", "--home", closed.directory / "b").err
    weak = closed.directory / "weak"
    weak.write_text("short\n")
    weak.chmod(0o600)
    home = closed.directory / "c"
    said = refusal(closed, "init", "--plain", "--passphrase-file", weak, "--home", home, code=1)
    assert "8 characters or more" in said
    assert not home.exists()
