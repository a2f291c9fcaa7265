"""However a command goes wrong, a person gets a sentence and a documented exit code: each command, each way."""

import os
import subprocess
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import pytest

from tests.cloud.cli.garbage import ANSWERS, garbage
from tests.cloud.cli.offices import FLEETLIFT, Office, captured
from tests.cloud.cli.trees import LEAVES, PATHS, split
from tests.cloud.homes import MODEL, PRODUCT

CODES: Final = frozenset({0, 1, 2, 3, 4, 5})
LONG: Final = {("serve",), ("demo",), ("doctor",), ("simulate",)}
"""They work on for a while, and ask no server."""
UNREACHABLE: Final = "http://127.0.0.1:1"
BAD_VALUES: Final = ("", "\x1b[2J\n", "-1", "99999999999999999999999999", "é" * 300, "[]{}\"'%s", "../../etc/passwd")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with keys, and a directory beside it with files of the names that the examples use, and nothing right."""
    desk = tmp_path_factory.mktemp("desk")
    code, _out, err = captured(
        *("init", "--home", desk / "home", "--product", PRODUCT, "--hardware", MODEL, "--plain", "--no-passphrase")
    )
    assert code == 0, err
    for path in PATHS:
        for example in LEAVES[path].examples:
            for word in split(example)[1:]:
                if "." in word and "/" not in word and ":" not in word and not word[0].isdigit():
                    (desk / word).write_bytes(b"\x00garbage\xff\n")
    (desk / "build" / "app").mkdir(parents=True)
    (desk / "build" / "app" / "__main__.py").write_text("print('hello')\n")
    return desk / "home"


@pytest.fixture(autouse=True)
def _at_the_desk(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(webbrowser, "open", lambda _url: False)


def examples(path: tuple[str, ...], server: str) -> list[list[str]]:
    """Return the examples of a command as words, said of another server."""
    lines = [split(line)[1:] for line in LEAVES[path].examples if line.startswith("fleetlift ")]
    return [[server if word.startswith("https://ota.example") else word for word in line] for line in lines]


def is_a_sentence(code: int, err: str, of: Sequence[object], *, strange: bool = False) -> None:
    assert code in CODES, (of, code, err)
    assert "Traceback" not in err, of
    assert "not prepared for" not in err, (of, err)
    assert strange or "does not understand" not in err, (of, err)
    if code:
        assert err.strip(), of
        assert "\x1b" not in err, of


@pytest.mark.parametrize("path", [path for path in PATHS if path not in LONG], ids=" ".join)
def test_a_server_that_is_not_there(path: tuple[str, ...], home: Path) -> None:
    for words in examples(path, UNREACHABLE):
        is_a_sentence(*_ends("--server", UNREACHABLE, "--home", home, *words, *agreed(path)), words)


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_server_that_answers_what_it_should_not(kind: str, home: Path) -> None:
    """Each command hears a third of what there is."""
    turn = list(ANSWERS).index(kind)
    with garbage(kind) as url:
        for number, path in enumerate(PATHS):
            if path not in LONG | {("init",)} and (number + turn) % 3 == 0:
                for words in examples(path, url)[:1]:
                    is_a_sentence(
                        *_ends("--server", url, "--home", home, *words, *agreed(path)), (kind, *words), strange=True
                    )


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_arguments_that_are_wrong(path: tuple[str, ...], home: Path) -> None:
    common = ("--server", UNREACHABLE, "--home", home)
    is_a_sentence(*_ends(*common, *path, "one", "two", "three", "four", "five"), path)
    is_a_sentence(*_ends(*common, *path, "--no-such-option"), path)
    if any(isinstance(it, click.Argument) and it.required for it in LEAVES[path].params):
        code, err = _ends(*common, *path)
        assert (code, "Missing argument" in err) == (2, True)
    if path in LONG:
        return
    options = [it for it in LEAVES[path].params if isinstance(it, click.Option) and not it.is_flag and not it.is_eager]
    for number, option in enumerate(options):
        value = BAD_VALUES[(number + len(path[-1])) % len(BAD_VALUES)]
        words = examples(path, UNREACHABLE)[:1] or [[*path]]
        is_a_sentence(*_ends(*common, *words[0], option.opts[0], value), (*path, option.opts[0], value))
    for value in BAD_VALUES:
        count = sum(max(it.nargs, 1) for it in LEAVES[path].params if isinstance(it, click.Argument))
        is_a_sentence(*_ends(*common, *path, "--", *([value] * count)), (*path, value))


@pytest.mark.parametrize("what", ["a file", "a broken context", "a context that is a directory", "no text", "nowhere"])
def test_a_home_that_is_none(what: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    match what:
        case "a file":
            home.write_text("not a directory")
        case "nowhere":
            home = Path("/proc/no-such-home")  # where nothing can be made, whoever one is
        case "a context that is a directory":
            (home / "operator" / "context.toml").mkdir(parents=True)
        case _:
            (home / "operator").mkdir(parents=True)
            text = b"server = 17\nprodukt = 3" if what == "a broken context" else b"\xff\xfe\x00"
            (home / "operator" / "context.toml").write_bytes(text)
            (home / "operator" / "token").write_bytes(text)
    for path in PATHS:
        if path not in LONG - {("doctor",)}:
            for words in examples(path, UNREACHABLE)[:1]:
                is_a_sentence(*_ends("--home", home, *words), (what, *words))
    if what not in ("nowhere", "a file"):
        return
    code, err = _ends("serve", "--home", home)
    assert code in (1, 2), err
    is_a_sentence(code, err, ("serve", what))


def test_a_token_that_the_server_does_not_know(office: Office, tmp_path: Path, home: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("not-the-token\n")
    server = f"http://127.0.0.1:{office.port}"
    refused = 0
    for path in PATHS:
        if path in LONG | {("init",)}:
            continue
        for words in examples(path, server)[:1]:
            if "--token-file" in words:
                continue
            code, err = _ends("--server", server, "--token-file", wrong, "--home", home, *words, *agreed(path))
            is_a_sentence(code, err, words)
            assert "not-the-token" not in err
            refused += code == 4
    assert refused > 50


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&-", "> /dev/full"])
def test_streams_that_are_closed_or_full(redirection: str, office: Office) -> None:
    common = f"--home {office.home} --server http://127.0.0.1:{office.port}"
    for words in ("product list", "product list -o json", "--help", "device show nobody"):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{FLEETLIFT} {words} {'' if words == '--help' else common} {redirection}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        expected = 1 if "nobody" in words or redirection == "> /dev/full" else 0
        assert done.returncode == expected, (words, done)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


def test_an_interrupt_ends_it_with_130(office: Office) -> None:
    following = office.start("device", "list", "--watch", name="watching")
    following.wait_for_line("There is no device yet.", timeout_s=30)
    following.process.send_signal(2)
    assert following.process.wait(30) == 130
    assert "Traceback" not in following.log()


def test_words_that_are_not_text_are_refused(home: Path) -> None:
    done = subprocess.run(
        [os.fsencode(FLEETLIFT), b"device", b"show", b"pump-\xff", b"--home", os.fsencode(home)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert b"is not text" in done.stderr


def test_what_was_not_expected_can_be_traced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETLIFT_TRACEBACK", "1")
    with garbage("object") as url:
        code, _out, err = captured("device", "list", "--server", url, "--home", home)
    assert code == 1
    assert "Traceback" in err
    assert "answered something that this command does not understand" in err


def agreed(path: tuple[str, ...]) -> list[str]:
    return ["--yes"] if any("--yes" in parameter.opts for parameter in LEAVES[path].params) else []


def _ends(*words: object) -> tuple[int, str]:
    code, _out, err = captured(*words)
    return code, err
