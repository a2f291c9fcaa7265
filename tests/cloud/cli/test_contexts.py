"""Several servers: logging in and out, which context a command uses, and how a server is known."""

import hashlib
import re
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.cli.contexts import Contexts
from cloud.config import OperatorContext
from protocol.errors import UserError
from tests.cloud.cli.garbage import garbage
from tests.cloud.cli.offices import Answer, Office, captured, make_office
from tests.cloud.homes import MODEL, PRODUCT
from tests.support.brokers import free_port
from tests.support.processes import Processes


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An operator's empty configuration, in a directory without a home."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("FLEETLIFT_HOME", "FLEETLIFT_CONTEXT", "FLEETLIFT_SERVER", "FLEETLIFT_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    desk = tmp_path / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)
    return tmp_path / "config" / "fleetlift"


def call(*words: object, typed: str = "", expect: int = 0) -> Answer:
    answer = Answer(*captured(*words, typed=typed))
    assert answer.code == expect, answer
    return answer


def url_of(office: Office) -> str:
    return f"http://127.0.0.1:{office.port}"


def token_of(office: Office) -> Path:
    return office.home / "operator" / "token"


def login(office: Office, name: str, *more: object) -> Answer:
    return call("login", url_of(office), "--name", name, "--token-file", token_of(office), *more)


def test_who_logs_in_needs_no_home_and_nothing_else_said(office: Office, config: Path) -> None:
    said = login(office, "here", "--product", PRODUCT)
    assert "You are operator at" in said.out
    assert call("product", "show", "-o", "name").out == f"{PRODUCT}\n"
    assert stat.S_IMODE((config / "contexts" / "here.token").stat().st_mode) == 0o600
    assert stat.S_IMODE((config / "contexts").stat().st_mode) == 0o700
    assert token_of(office).read_text().strip() not in said.out + said.err


def test_the_token_is_read_from_standard_input(office: Office) -> None:
    text = token_of(office).read_text()
    call("login", url_of(office), "--name", "piped", "--token-file", "-", typed=text)
    assert call("product", "list", "-o", "name").out == f"{PRODUCT}\n"


def test_a_code_that_is_good_once_logs_in_on_another_machine(office: Office, config: Path) -> None:
    link = office.call("console").out
    said = call("login", url_of(office), "--name", "coded", "--code", "--expires", "2d", typed=link)
    assert re.search(r"You are logged in until \S+ \S+, as the token login-[0-9a-f]{8}\.", said.out)
    kept = config / "contexts" / "coded.token"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text().startswith("flt_")
    assert kept.read_text().strip() not in said.out + said.err
    assert call("product", "list", "-o", "name").out == f"{PRODUCT}\n"
    again = call("login", url_of(office), "--name", "coded", "--code", typed=link, expect=4)
    assert "was used already, or is older than five minutes" in again.err
    assert call("product", "list", "-o", "name").out == f"{PRODUCT}\n", "the login before is as good as it was"
    call("logout", "--revoke", "--yes")
    code = office.json("console")["code"]
    answer = call("login", url_of(office), "--name", "coded", "--code", "-o", "json", typed=f"{code}\n").json
    assert answer["person"] == "operator"
    assert answer["expires_at_ms"] > 0


@pytest.mark.parametrize("typed", ["", "\n", "too-short", "flt_ a b", "https://ota.example/login?code="])
def test_what_is_no_login_code_is_not_sent(office: Office, typed: str) -> None:
    said = call("login", url_of(office), "--code", typed=typed, expect=4).err
    assert "that is no login code. Nothing was changed" in said


def test_a_code_is_no_argument_and_no_second_way_in(office: Office) -> None:
    assert "unexpected extra argument" in call("login", url_of(office), "--code", "a" * 43, expect=2).err
    said = call("login", url_of(office), "--code", "--token-file", token_of(office), expect=2).err
    assert "two ways to log in" in said
    assert "--expires goes with --code" in call("login", url_of(office), "--expires", "1d", expect=2).err


def test_a_login_that_cannot_be_kept_leaves_no_token_behind(office: Office, config: Path) -> None:
    config.parent.mkdir(exist_ok=True)
    config.write_text("no directory")
    code = office.json("console")["code"]
    before = {it["name"] for it in office.json("api-token", "list", "--all")}
    assert "could not be written" in call("login", url_of(office), "--code", typed=code, expect=1).err
    (made,) = [it for it in office.json("api-token", "list", "--all") if it["name"] not in before]
    assert made["name"].startswith("login-")
    assert made["revoked_at_ms"], "nobody has it"


def test_a_server_that_does_not_know_the_token_leaves_nothing(office: Office, tmp_path: Path, config: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("flt_wrong\n")
    login(office, "here")
    before = (config / "contexts" / "here.token").read_text()
    call("login", url_of(office), "--name", "here", "--token-file", wrong, expect=4)
    assert (config / "contexts" / "here.token").read_text() == before
    call("login", url_of(office), "--name", "other", "--token-file", wrong, expect=4)
    assert Contexts.of_user().names() == ["here"]


def test_nobody_is_asked_who_is_not_there(office: Office) -> None:
    assert "add --token-file" in call("login", url_of(office), expect=2).err


@pytest.mark.parametrize("url", ["", "https://", "ftp://x", "http://a b", "https://me:secret@host", "http://[::1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    assert "is not a server's address" in call("login", url, "--token-file", "-", typed="x", expect=2).err


def test_a_server_in_the_clear_beyond_this_machine_gets_no_token(config: Path) -> None:
    said = call("login", "http://ota.example", "--token-file", "-", typed="flt_x", expect=2).err
    assert "is not encrypted" in said
    assert not config.exists()


def test_what_answers_and_is_no_fleetlift_server_is_refused(office: Office, config: Path) -> None:
    for kind in ("object", "list", "page", "error", "brackets"):
        with garbage(kind) as url:
            call("login", url, "--token-file", token_of(office), expect=1)
    assert Contexts.of_user().names() == []
    assert not config.exists()


def test_contexts_are_listed_used_shown_and_removed(office: Office) -> None:
    assert "There is no context" in call("context", "list").out
    login(office, "one")
    login(office, "two")
    assert call("context", "list", "-o", "name").out.split() == ["one", "two"]
    assert call("context", "show", "-o", "json").json["context"] == "two"
    call("context", "use", "one")
    assert [row["current"] for row in call("context", "list", "-o", "json").json] == [True, False]
    assert "Did you mean 'one'?" in call("context", "use", "onne", expect=2).err
    assert "Add --yes" in call("context", "remove", "one", expect=2).err
    call("context", "remove", "one", "--yes")
    assert call("context", "list", "-o", "name").out.split() == ["two"]
    assert "cannot be read" in call("product", "list", expect=4).err, "no context is current now"


def test_a_context_of_another_server_is_not_overwritten(office: Office) -> None:
    login(office, "here")
    said = call("login", f"http://localhost:{office.port}", "--name", "here", "--token-file", "-", expect=5).err
    assert f"the context here is of {url_of(office)}" in said


def test_the_option_goes_before_the_variable_that_before_the_home_and_that_before_the_current_one(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("by-option", "by-variable", "current"):
        login(office, name)

    def used(*words: object) -> str:
        return str(call("context", "show", *words, "-o", "json").json["context"])

    assert used() == "current"
    (Path.cwd() / "fleetlift-home" / "operator").mkdir(parents=True)
    assert used() == "(home)"
    assert used("--home", office.home) == "(home)"
    monkeypatch.setenv("FLEETLIFT_CONTEXT", "by-variable")
    assert used() == "by-variable"
    assert used("--context", "by-option", "--home", office.home) == "by-option"
    assert call("product", "list", "-o", "name").out == f"{PRODUCT}\n"
    monkeypatch.setenv("FLEETLIFT_CONTEXT", "by-variabel")
    assert "Did you mean 'by-variable'?" in call("product", "list", expect=2).err


def test_logging_in_beside_a_home_says_that_the_home_goes_first(office: Office) -> None:
    (Path.cwd() / "fleetlift-home").mkdir()
    assert "goes before it" in login(office, "here").err


def test_logging_out_forgets_the_token_and_revokes_it_if_asked(office: Office, tmp_path: Path) -> None:
    token = tmp_path / "token"
    office.call("api-token", "create", "leaving", "--token-to", token)
    call("login", url_of(office), "--name", "leaving", "--token-file", token)
    assert "--yes" in call("logout", "--revoke", expect=2).err
    assert "the server refuses it" in call("logout", "--revoke", "--yes").out
    call("product", "list", expect=4)
    call("product", "list", "--context", "leaving", "--token-file", token, expect=4)
    call("logout", expect=1)
    login(office, "staying")
    assert "stays good" in call("logout", "staying").out
    assert call("product", "list", "--context", "staying", "--token-file", token_of(office), "-o", "name").out


def test_a_name_never_becomes_a_path(tmp_path: Path) -> None:
    directory = tmp_path / "contexts"
    contexts = Contexts(directory)
    for name in ("../x", "a/b", "", ".", "a.b", "x" * 65, "Ä"):
        with pytest.raises(UserError, match="is not a context's name"):
            contexts.write(name, OperatorContext(), "flt_x", None)
    assert not directory.exists()
    directory.mkdir()
    (directory / "current").write_text("../../etc/passwd\n")
    assert contexts.current() is None


def test_a_configuration_that_cannot_be_written_is_a_sentence(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/none")
    said = call("login", url_of(office), "--token-file", token_of(office), expect=1).err
    assert "could not be written" in said


# TLS: an authority that this machine does not know


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """An office whose server speaks TLS, with a certificate of its own authority."""
    directory = tmp_path_factory.mktemp("secured")
    processes = Processes(directory)
    office = Office(directory, processes, free_port(), free_port())
    made = office.call(
        *("init", "--product", PRODUCT, "--hardware", MODEL, "--no-passphrase", "--port", office.port),
        *("--broker-port", office.broker_port, "--cloud-port", free_port()),
    )
    assert str(office.home) in made.out
    office.serve()
    yield office
    processes.close()


def sha256_of(office: Office) -> str:
    pem = (office.home / "operator" / "ca.crt").read_text()
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


@pytest.mark.broker
def test_a_server_is_known_by_the_sha256_that_somebody_told(secured: Office) -> None:
    url, words = f"https://127.0.0.1:{secured.port}", ("--token-file", token_of(secured))
    refused = call("login", url, *words, expect=4).err
    assert "an authority that this machine does not know" in refused
    shown = re.search(r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}", refused)
    assert shown is not None
    assert shown[0].replace(":", "").lower() == sha256_of(secured)
    call("product", "list", expect=4)
    wrong = sha256_of(secured)[:-2] + ("00" if sha256_of(secured)[-2:] != "00" else "11")
    assert "another authority" in call("login", url, *words, "--ca-sha256", wrong, expect=4).err
    assert "64 hexadecimal digits" in call("login", url, *words, "--ca-sha256", "abc", expect=2).err
    call("login", url, *words, "--ca-sha256", shown[0])
    said = call("console")
    assert f"have it import {Contexts.of_user().directory}" in said.err, "browsers do not know the authority either"
    assert said.out.startswith(f"https://127.0.0.1:{secured.port}/login?code=")
    assert call("product", "list", "-o", "name").out == f"{PRODUCT}\n"


@pytest.mark.broker
def test_a_server_is_known_by_a_file(secured: Office, tmp_path: Path, processes: Processes) -> None:
    url, words = f"127.0.0.1:{secured.port}", ("--token-file", token_of(secured))
    ca = secured.home / "operator" / "ca.crt"
    call("login", url, *words, "--ca-file", ca, "--name", "by-file")
    assert call("product", "list", "-o", "name").out == f"{PRODUCT}\n"
    nothing = tmp_path / "nothing"
    nothing.write_text("no certificate")
    assert "holds no certificate authority" in call("login", url, *words, "--ca-file", nothing, expect=2).err
    other = tmp_path / "other"
    other.mkdir()
    stranger = make_other(other, processes)
    said = call("login", url, *words, "--ca-file", stranger, expect=4).err
    assert "no certificate of the authority" in said


def make_other(directory: Path, processes: Processes) -> Path:
    """Make another home, for its authority."""
    office = Office(directory, processes, free_port(), free_port())
    office.call("init", "--product", PRODUCT, "--hardware", MODEL, "--no-passphrase")
    return office.home / "operator" / "ca.crt"


@pytest.mark.broker
def test_an_environment_is_a_context_of_its_own(secured: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETLIFT_SERVER", f"https://127.0.0.1:{secured.port}")
    monkeypatch.setenv("FLEETLIFT_TOKEN_FILE", str(token_of(secured)))
    assert "did not prove that it is your server" in call("product", "list", expect=1).err
    monkeypatch.setenv("FLEETLIFT_CA_FILE", str(secured.home / "operator" / "ca.crt"))
    assert call("product", "list", "-o", "name").out == f"{PRODUCT}\n"


def test_two_servers_are_told_apart_by_their_contexts(office: Office, tmp_path: Path, processes: Processes) -> None:
    directory = tmp_path / "second"
    directory.mkdir()
    second = make_office(directory, processes)
    second.serve()
    login(office, "first")
    login(second, "second")
    second.call("group", "create", "only-there")
    listed = ("group", "list", "-o", "name", "--product", PRODUCT)
    assert "only-there" in call(*listed).out.split()
    assert "only-there" not in call(*listed, "--context", "first").out.split()
