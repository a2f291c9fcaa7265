"""The ceremony in docs/keys.md happens as it is written, block by block, and a device follows all of it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest

from cloud.cli.client import ApiClient
from device_agent.trust import DeviceTrust
from tests.support.brokers import free_port

DOCUMENT = Path(__file__).parents[1] / "docs" / "keys.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
SERVER = "https://ota.example:8321"
"""What the document calls the server; it is on another port here, as are its broker's listeners."""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A shell in an empty directory, ended with everything it started."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["/bin/bash", "--noprofile", "--norc"],
        cwd=tmp_path,
        env={"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def read_until(stream: IO[str], text: str, heard: list[str]) -> None:
    for line in stream:
        heard.append(line)
        if text in line:
            return
    pytest.fail(f"{text!r} was not said:\n{''.join(heard)}")


def do(shell: subprocess.Popen[str], block: str) -> str:
    """Type a block as a person does, each command after the one before has succeeded; return what was said."""
    heard: list[str] = []
    assert shell.stdin is not None
    assert shell.stdout is not None
    for command in block.strip().splitlines():
        print(command, file=shell.stdin, flush=True)
        heard.append(f"$ {command}\n")
        if command.endswith("&"):
            read_until(shell.stdout, "Ready.", heard)
            continue
        print('echo "ended with $?"', file=shell.stdin, flush=True)
        read_until(shell.stdout, "ended with", heard)
        assert heard[-1] == "ended with 0\n", "".join(heard)
    return "".join(heard)


@pytest.mark.timeout(300)
def test_the_ceremony_happens_as_it_is_written(shell: subprocess.Popen[str], tmp_path: Path) -> None:
    assert len(BLOCKS) == TEXT.count("```") // 2, "every block is one that is run"
    port, ports = free_port(), f"--broker-port {free_port()} --cloud-port {free_port()}"
    blocks = [
        block.replace("fleetlift init", f"fleetlift init --port {port} {ports}").replace(
            SERVER, f"https://127.0.0.1:{port}"
        )
        for block in BLOCKS
    ]
    said = [do(shell, blocks[0])]
    with closing(api_of(tmp_path, port)) as api:
        device = device_of(tmp_path, api)
        for block in blocks[1:]:
            said.append(do(shell, block))
            device.refresh()
        check_roles(tmp_path, api)
    assert device.root_version == 8
    for version in ("1.1.0", "1.2.0"):
        assert device.signed_firmware(f"thermostat/app/{version}").length > 0
    everything = "".join(said)
    assert "Traceback" not in everything
    assert (tmp_path / "passphrase").read_text().strip() not in everything


def api_of(directory: Path, port: int) -> ApiClient:
    home = directory / "home" / "operator"
    return ApiClient(f"https://127.0.0.1:{port}", (home / "token").read_text().strip(), home / "ca.crt")


def device_of(directory: Path, api: ApiClient) -> DeviceTrust:
    """A device that was given the first root, and asks the server."""
    root = (directory / "home" / "operator" / "keys" / "1.root.json").read_bytes()
    return DeviceTrust(
        directory / "device", root, "thermostat", ask=lambda name: api.read("metadata", name), now=time.time
    )


def check_roles(directory: Path, api: ApiClient) -> None:
    """What the document says in the end is how it is: whose keys sign what, and that all of it was audited."""
    roles: dict[str, Any] = {role["role"]: role for role in api.get("metadata")["roles"]}
    labels = {name: [key["label"] for key in role["keys"]] for name, role in roles.items()}
    assert (roles["root"]["threshold"], sorted(labels["root"])) == (2, ["", "Cem", "Dan"])
    assert (roles["thermostat"]["threshold"], labels["thermostat"]) == (1, ["", "the safe"])
    assert len(labels["timestamp"]) == 1
    rows = api.get("audit", subject="metadata/root")
    assert [row["after"]["version"] for row in rows] == list(range(1, roles["root"]["version"] + 1))
    assert rows[-1]["actor"] == "operator"
    for name in ("bob", "cem", "dan", "alice"):
        keys = directory / name / "operator" / "keys"
        assert [path.name for path in keys.glob("*.pem")] == [f"{name}.pem"]
        assert json.loads((keys / f"{name}.pub.json").read_bytes())["x-fleetlift-label"] == name.capitalize()
