"""docs/ci.md as it is written: the preparation, and both pipelines' jobs, by a real shell against a real server."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from tests.cloud.cli.offices import FLEETLIFT, Office
from tests.cloud.homes import MODEL, PRODUCT
from tests.cloud.keys.test_uris import MODULES, PIN, softhsm_token
from tests.support.brokers import free_port, missing_service
from tests.support.processes import Processes

TEXT = (Path(__file__).parents[1] / "docs" / "ci.md").read_text(encoding="utf-8")
PREPARATION, IN_AN_HSM = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
GITHUB, GITLAB = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
SERVER = "https://ota.example:8321"
"""What the document calls the server; it is on another port here."""


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """A server, its administrator's desk, and what a job has built; prepared as the document says."""
    directory = tmp_path_factory.mktemp("pipeline")
    processes = Processes(directory)
    made = Office(directory, processes, free_port(), free_port())
    made.call(
        *("init", "--product", PRODUCT, "--hardware", MODEL, "--no-passphrase", "--port", made.port),
        *("--broker-port", made.broker_port, "--cloud-port", free_port()),
    )
    made.serve()
    built = directory / "build" / "app"
    built.mkdir(parents=True)
    (built / "__main__.py").write_text("print('hello')\n")
    said = shell(made, PREPARATION)
    assert said.returncode == 0, said
    yield made
    processes.close()


def shell(office: Office, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a runner does: each line after the one before has succeeded, nobody at the terminal."""
    return subprocess.run(
        ["/bin/bash", "-eo", "pipefail", "-c", script.replace(SERVER, f"https://127.0.0.1:{office.port}")],
        cwd=office.directory,
        env={
            "PATH": f"{FLEETLIFT.parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(office.directory),
            **variables,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def secret(office: Office, name: str) -> str:
    return (office.directory / f"ci.{name}").read_text().strip()


def github(office: Office, directory: Path, tag: str) -> subprocess.CompletedProcess[str]:
    step: dict[str, Any] = GITHUB["jobs"]["release"]["steps"][-1]
    assert set(step["env"]) == {"FLEETLIFT_SERVER", "CI_HOME", "CI_TOKEN", "CI_PASSPHRASE"}
    directory.mkdir(exist_ok=True)
    return shell(
        office,
        step["run"],
        FLEETLIFT_SERVER=f"https://127.0.0.1:{office.port}",
        CI_HOME=secret(office, "home"),
        CI_TOKEN=secret(office, "token"),
        CI_PASSPHRASE=secret(office, "passphrase"),
        RUNNER_TEMP=str(directory),
        GITHUB_REF_NAME=tag,
    )


def gitlab(office: Office, directory: Path, tag: str) -> subprocess.CompletedProcess[str]:
    job = GITLAB["release"]
    directory.mkdir(exist_ok=True)
    lines = [line for line in job["script"] if not line.startswith("pip ")]
    return shell(
        office,
        "\n".join(lines),
        FLEETLIFT_SERVER=f"https://127.0.0.1:{office.port}",
        **{
            f"FLEETLIFT_CI_{name.upper()}": str(office.directory / f"ci.{name}")
            for name in ("home", "token", "passphrase")
        },
        CI_PROJECT_DIR=str(directory),
        CI_COMMIT_TAG=tag,
    )


@pytest.mark.broker
@pytest.mark.timeout(300)
def test_a_tag_is_released_once_however_often_and_wherever_the_job_runs(office: Office, tmp_path: Path) -> None:
    first = github(office, tmp_path / "first", "v7.1.0")
    assert first.returncode == 0, first
    assert f"{PRODUCT}/everyone/app v1 is released" in first.stdout
    for run, name in ((github, "again"), (gitlab, "elsewhere")):
        again = run(office, tmp_path / name, "v7.1.0")
        assert again.returncode == 0, again
        assert f"{PRODUCT}/everyone/app v1 says exactly this already" in again.stdout
    (office.directory / "build" / "app" / "__main__.py").write_text("print('other')\n")
    refused = gitlab(office, tmp_path / "other", "v7.1.0")
    assert refused.returncode == 5, refused
    assert "Give this image a new version" in refused.stderr
    second = gitlab(office, tmp_path / "second", "v7.2.0")
    assert second.returncode == 0, second
    pages = office.json("release", "list")
    assert [(page["release"]["label"], page["release"]["created_by"]) for page in pages] == [(2, "ci"), (1, "ci")]
    assert secret(office, "token") not in first.stdout + first.stderr + refused.stderr


def of_the_hsm(script: str) -> str:
    """Return a script of another pipeline than `ci`, whose key is in a token."""
    return re.sub(r"\bci\b", "hsmci", script).replace("--label CI", "--label HSM")


@pytest.mark.broker
def test_a_pipeline_signs_with_a_key_that_never_leaves_its_token(office: Office, tmp_path: Path) -> None:
    module, tool = next((it for it in MODULES if it.exists()), None), shutil.which("softhsm2-util")
    if module is None or tool is None:
        missing_service("softhsm2 is not installed")
    environment = {"SOFTHSM2_CONF": str(softhsm_token(tmp_path, tool)), "PYKCS11LIB": str(module)}
    source = tmp_path / "generated.pem"
    source.write_bytes(CryptoSigner.generate_ecdsa().private_bytes)
    command = [tool, "--import", str(source), "--token", "release", "--label", "k", "--id", "02", "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    source.unlink()
    pin = office.directory / "hsmci.passphrase"
    pin.touch(0o600)
    pin.write_text(f"{PIN}\n")
    before, after = PREPARATION.split("(umask 077; ")
    script = before + IN_AN_HSM.replace("/usr/lib/softhsm/libsofthsm2.so", str(module)) + after.split("\n", 4)[4]
    assert (script.count("key add"), "key create" in script, "tar -C" in script) == (1, False, True)
    said = shell(office, of_the_hsm(script), **environment)
    assert said.returncode == 0, said
    packed = subprocess.run(
        ["/bin/bash", "-c", "base64 -d hsmci.home | tar -tz"], cwd=office.directory, capture_output=True, check=True
    )
    assert b"hsmci.pub.json" in packed.stdout
    assert b".pem" not in packed.stdout, "the pipeline's home holds no private key"
    (office.directory / "build" / "app" / "__main__.py").write_text("print('signed in a token')\n")
    lines = [line for line in GITLAB["release"]["script"] if not line.startswith("pip ")]
    files = {
        f"FLEETLIFT_CI_{it.upper()}": str(office.directory / f"hsmci.{it}") for it in ("home", "token", "passphrase")
    }
    done = shell(
        office,
        "\n".join(lines),
        FLEETLIFT_SERVER=f"https://127.0.0.1:{office.port}",
        CI_PROJECT_DIR=str(tmp_path),
        CI_COMMIT_TAG="v7.9.0",
        **files,
        **environment,
    )
    assert done.returncode == 0, done
    made = office.json("firmware", "show", "7.9.0")
    public = json.loads((office.directory / "hsmci.pub.json").read_text())
    assert public["keyid"] in json.dumps(made), "what the token signed is what was published"
    assert PIN not in done.stdout + done.stderr


@pytest.mark.broker
def test_the_pipelines_token_does_nothing_else(office: Office) -> None:
    token = ("--token-file", office.directory / "ci.token")
    for words in (("product", "set", PRODUCT, "--ota", "off", "--yes"), ("person", "add", "eve"), ("audit", "list")):
        assert office.run(*words, *token).code == 4, words
    more = office.run("api-token", "create", "more", "--role", "admin", *token)
    assert more.code == 4, more


def test_every_variable_of_the_document_is_one() -> None:
    named = set(re.findall(r"^\| `(FLEETLIFT_\w+)`", TEXT, re.MULTILINE))
    sources = "".join(
        path.read_text()
        for path in (Path(__file__).parents[1] / "cloud").rglob("*.py")
        if "FLEETLIFT_" in path.read_text()
    )
    assert len(named) == 6
    assert all(f'"{name}"' in sources for name in named)
