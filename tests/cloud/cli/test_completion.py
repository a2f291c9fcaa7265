"""Completion as a person meets it: a real shell, a half-typed word, the Tab key; and names from a real server."""

import contextlib
import io
import os
import pty
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final
from unittest import mock

import pytest

from cloud.cli import main
from tests.cloud.cli.deeds import push
from tests.cloud.cli.offices import FLEETLIFT, Office, captured
from tests.cloud.homes import PRODUCT

SETSID: Final = shutil.which("setsid") or "setsid"
PATIENCE_S: Final = 30.0
SHELLS: Final = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(fleetlift completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -Uz compinit; compinit -u -D; eval "$(fleetlift completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "fleetlift completion fish | source"),
}


def environment(office: Office, directory: Path) -> dict[str, str]:
    path = f"{FLEETLIFT.parent}:{os.environ['PATH']}"
    found = os.environ | {"PATH": path, "HOME": str(directory), "TERM": "xterm", "PS1": "> "}
    found.pop("XDG_CONFIG_HOME", None)
    return found | {"FLEETLIFT_HOME": str(office.home)}


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], directory: Path) -> None:
        self._main, side = pty.openpty()
        self._process = subprocess.Popen(
            [SETSID, "--ctty", "--wait", *command],  # it is the shell's own terminal, as fish insists
            stdin=side,
            stdout=side,
            stderr=side,
            env=environment,
            cwd=directory,
        )
        os.close(side)
        self.seen = b""

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def wait_for(self, text: str) -> None:
        """Wait until a text stands on the terminal, after what was waited for before."""
        deadline = time.monotonic() + PATIENCE_S
        while text.encode() not in self.seen:
            ready, _, _ = select.select([self._main], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} never came: {self.seen!r}"
            self.seen += os.read(self._main, 65536)
        self.seen = self.seen.partition(text.encode())[2]

    def close(self) -> None:
        os.close(self._main)  # which hangs up
        self._process.wait(10)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_options_and_names(shell: str, office: Office, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command, setup = SHELLS[shell]
    terminal = Terminal(command, environment(office, tmp_path), tmp_path)
    try:
        terminal.type(f"{setup}\n")
        terminal.type("echo set-up-(math 40 + 2)\n" if shell == "fish" else "echo set-up-$((40 + 2))\n")
        terminal.wait_for("set-up-42")
        for begun, rest in (
            ("fleetlift prod", "uct"),
            ("fleetlift device list --prod", "uct"),
            (f"fleetlift product show {PRODUCT[:4]}", PRODUCT[4:]),
            (f"fleetlift device list --product {PRODUCT[:4]}", PRODUCT[4:]),
        ):
            terminal.type(begun)
            terminal.type("\t")
            terminal.wait_for(rest)
            terminal.type("\x15")  # the line is taken back
    finally:
        terminal.close()


def completed(office: Office, line: str, **more: str) -> list[str]:
    """Return what is offered for the last word of a line, as the shells are told it."""
    words = line.split(" ")
    asked = {"_FLEETLIFT_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    told, err = io.BytesIO(), io.StringIO()
    out = io.TextIOWrapper(told, encoding="utf-8", write_through=True)  # click writes bytes here
    with (
        mock.patch.dict(os.environ, environment(office, office.directory) | asked | more),
        contextlib.chdir(office.directory),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert (ended.value.code, err.getvalue()) == (0, "")
    return [item.partition(",")[2] for item in told.getvalue().decode().splitlines() if item]


def test_names_come_from_the_server(office: Office) -> None:
    push(office, "41.0.0")
    office.call("group", "create", "completed")
    office.call("webhook", "add", "pager", "https://pager.example/", "--kind", "release.*")
    office.call("person", "add", "alice")
    office.call("set", "create", "pair")
    with office.device("done-1"), office.device("done-2"), office.device("other-1"):
        for line, expected in (
            ("fleetlift product show ", [PRODUCT]),
            ("fleetlift group show comp", ["completed"]),
            ("fleetlift device list --group comp", ["completed"]),
            ("fleetlift device show done-", ["done-1", "done-2"]),
            ("fleetlift device why x", []),
            ("fleetlift group add completed done-1 oth", ["other-1"]),
            ("fleetlift firmware show 41", ["41.0.0"]),
            ("fleetlift ota start done-1 41", ["41.0.0"]),
            ("fleetlift release status v", ["v1"]),
            ("fleetlift release status v1 --group completed --component ", ["app"]),
            ("fleetlift release status --group completed v", []),
            ("fleetlift webhook test p", ["pager"]),
            ("fleetlift person show al", ["alice"]),
            ("fleetlift api-token revoke op", ["operator"]),
            ("fleetlift set show ", ["pair"]),
            ("fleetlift key add t", ["targets", PRODUCT]),
            ("fleetlift -o y", ["yaml"]),
            ("fleetlift completion z", ["zsh"]),
        ):
            assert completed(office, line) == expected, line


def test_what_the_line_says_of_the_server_counts(office: Office, tmp_path: Path) -> None:
    home = ["--home", str(office.home)]
    line = " ".join(["fleetlift", *home, "product", "show", ""])
    assert completed(office, line, FLEETLIFT_HOME=str(tmp_path)) == [PRODUCT]
    assert completed(office, "fleetlift product show --server http://127.0.0.1:1 ") == []


def test_contexts_are_completed_without_a_server(office: Office, tmp_path: Path) -> None:
    directory = tmp_path / "fleetlift" / "contexts"
    directory.mkdir(parents=True)
    (directory / "staging.toml").write_text("")
    assert completed(office, "fleetlift context use st", XDG_CONFIG_HOME=str(tmp_path)) == ["staging"]
    assert completed(office, "fleetlift --context st", XDG_CONFIG_HOME=str(tmp_path)) == ["staging"]


def test_a_server_that_says_nothing_is_given_up_silently(office: Office) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        line = f"fleetlift product show --server http://127.0.0.1:{silent.getsockname()[1]} "
        assert completed(office, line) == []
        assert time.monotonic() - began < 20, "start-up, and a second and a half"


@pytest.mark.parametrize("variable", ["FLEETLIFT_HOME", "FLEETLIFT_TOKEN_FILE", "FLEETLIFT_CONTEXT"])
def test_whatever_is_wrong_nothing_is_said(variable: str, office: Office) -> None:
    assert completed(office, "fleetlift product show ", **{variable: "/nowhere"}) == []


def test_the_script_is_printed_for_each_shell() -> None:
    for shell in SHELLS:
        code, out, _err = captured("completion", shell)
        assert (code, "_FLEETLIFT_COMPLETE" in out) == (0, True)
    assert captured("completion", "tcsh")[0] == 2
