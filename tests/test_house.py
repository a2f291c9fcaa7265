"""The house keeps its laws, and each law could fail."""

import importlib.metadata
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import house
from tests.support.house import LAWS, Law, read_house, tracked_files

REPOSITORY = Path(__file__).parents[1]
FILES = tracked_files(REPOSITORY)
MODULES = read_house(
    {str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8") for path in FILES if path.suffix == ".py"}
)
OK = '"""Good."""\n'

# Spelled in pieces, so that this file does not contain what it looks for.
REGISTRY_HOSTS = (
    "py" + "pi.org",
    "python" + "hosted.org",
    "npm" + "js.",
    "crates" + ".io",
    "golang" + ".org",
)
MACHINE_PATHS = ("work", "farm")
FOREIGN_LOCKS = {"uv" + ".lock", "poetry" + ".lock", "pdm" + ".lock", "Pipfile" + ".lock"}

BROKEN: list[tuple[Law, Mapping[str, str]]] = [
    (house.imports_flow_one_way, {"protocol/a.py": OK + "import cloud.store"}),
    (house.imports_flow_one_way, {"cloud/a.py": OK + "from device_agent.machine import step"}),
    (house.imports_flow_one_way, {"device_agent/a.py": OK + "import cloud"}),
    (house.imports_flow_one_way, {"cloud/a.py": OK + "from tests.support import mqtt"}),
    (house.imports_flow_one_way, {"firmware_samples/a.py": OK + "from device_agent import journal"}),
    (house.no_module_has_a_name_that_says_nothing, {"cloud/utils.py": OK}),
    (house.no_module_has_a_name_that_says_nothing, {"cloud/common/text.py": OK}),
    (house.imports_stand_at_the_top_and_are_absolute, {"cloud/a.py": OK + "from . import store"}),
    (house.imports_stand_at_the_top_and_are_absolute, {"cloud/a.py": OK + "def f():\n    import os"}),
    (house.imports_stand_at_the_top_and_are_absolute, {"cloud/a.py": OK + "importlib.import_module('os')"}),
    (house.imports_make_no_circle, {"cloud/a.py": OK + "import cloud.b", "cloud/b.py": OK + "from cloud import a"}),
    (house.imports_make_no_circle, {"cloud/a.py": OK + "from cloud.b import x", "cloud/b.py": OK + "import cloud.a"}),
    (house.hearts_are_pure, {"cloud/planner.py": OK + "import asyncio"}),
    (house.hearts_are_pure, {"device_agent/machine/table.py": OK + "import logging"}),
    (house.hearts_are_pure, {"protocol/selection.py": OK + "from datetime import datetime\nx = datetime.now()"}),
    (house.hearts_are_pure, {"cloud/planner.py": OK + "from cloud.a import x", "cloud/a.py": OK + "import sqlmodel"}),
    (house.devices_need_only_their_libraries, {"device_agent/a.py": OK + "import rich"}),
    (house.devices_need_only_their_libraries, {"protocol/a.py": OK + "from cryptography import x509"}),
    (house.devices_need_only_their_libraries, {"device_agent/sdk.py": OK + "from protocol.errors import UserError"}),
    (house.only_a_cli_constructs, {"cloud/service.py": OK + "from cloud.cli import main"}),
    (house.errors_are_one_tree, {"cloud/a.py": OK + "class StoreError(ValueError): ..."}),
    (house.errors_are_one_tree, {"cloud/a.py": OK + "class Oops(Exception): ..."}),
    (
        house.errors_are_one_tree,
        {"cloud/a.py": OK + "class Oops(StoreError): ...\nclass StoreError(FleetliftError): ..."},
    ),
    (house.modules_are_of_human_size, {"cloud/a.py": OK + "\n" * house.MAX_LINES}),
    (house.files_begin_by_saying_what_they_are, {"cloud/a.py": "import os"}),
    (house.files_begin_by_saying_what_they_are, {"cloud/a.py": "# banner\n" + OK}),
    (house.files_begin_by_saying_what_they_are, {"cloud/a.py": '"""store"""'}),
    (house.files_begin_by_saying_what_they_are, {"cloud/a.py": ""}),
    (house.tls_contexts_say_how_old_they_may_be, {"cloud/a.py": OK + "x = ssl.create_default_context()"}),
    (house.tls_contexts_say_how_old_they_may_be, {"device_agent/a.py": OK + "SSLContext(PROTOCOL_TLS_CLIENT)"}),
]

LAWFUL: list[tuple[Law, Mapping[str, str]]] = [
    (house.tls_contexts_say_how_old_they_may_be, {"cloud/a.py": OK + "x = SSLContext(y)\nx.minimum_version = z"}),
    (house.imports_flow_one_way, {"cloud/a.py": OK + "import protocol.topics\nfrom cloud import b"}),
    (house.imports_flow_one_way, {"firmware_samples/a.py": OK + "from device_agent.sdk import Updates"}),
    (house.imports_stand_at_the_top_and_are_absolute, {"cloud/entry.py": OK + "importlib.import_module('cloud.cli')"}),
    (
        house.imports_make_no_circle,
        {"cloud/a.py": OK + "from cloud import b", "cloud/b.py": OK, "cloud/__init__.py": OK},
    ),
    (house.hearts_are_pure, {"cloud/planner.py": OK + "from datetime import datetime\ndef plan(now: datetime): ..."}),
    (
        house.devices_need_only_their_libraries,
        {"device_agent/a.py": OK + "try:\n    import cryptography\nexcept ImportError:\n    cryptography = None"},
    ),
    (house.only_a_cli_constructs, {"cloud/cli/release.py": OK + "from cloud.cli import output"}),
    (
        house.errors_are_one_tree,
        {"cloud/a.py": OK + "class StoreError(errors.FleetliftError): ...\nclass LostError(StoreError): ..."},
    ),
]


def name_of(law: Any) -> str:
    return getattr(law, "__name__", "")


@pytest.mark.parametrize("law", LAWS, ids=name_of)
def test_the_house_keeps(law: Law) -> None:
    assert law(MODULES) == []


@pytest.mark.parametrize(("law", "sources"), BROKEN, ids=name_of)
def test_a_broken_law_is_seen(law: Law, sources: Mapping[str, str]) -> None:
    assert law(read_house(sources)) != []


@pytest.mark.parametrize(("law", "sources"), LAWFUL, ids=name_of)
def test_a_lawful_module_is_left_in_peace(law: Law, sources: Mapping[str, str]) -> None:
    assert law(read_house(sources)) == []


def test_the_laws_looked_at_the_whole_house() -> None:
    assert {"protocol.errors", "cloud.entry", "device_agent", "tests.test_house"} <= set(MODULES)


def test_files_speak_of_the_project_alone() -> None:
    hosts = "|".join(map(re.escape, REGISTRY_HOSTS))
    paths = "|".join(MACHINE_PATHS)
    foreign = re.compile(rf"{hosts}|(?<![\w./}}-])/(?:{paths})/\w")
    assert foreign.search("see " + "/wo" + "rk/main") is not None
    assert foreign.search("./docs/work/x") is None
    found = []
    for path in FILES:
        if path.name != ".gitignore":
            text = path.read_bytes().decode("utf-8", errors="replace")
            found += [f"{path.relative_to(REPOSITORY)}: {match[0]}" for match in foreign.finditer(text)]
    assert found == []


def test_there_is_one_lock_with_a_hash_for_everything_and_no_address() -> None:
    assert [path for path in FILES if path.name in FOREIGN_LOCKS] == []
    for path in (REPOSITORY / "requirements").glob("*.txt"):
        blocks = re.split(r"\n(?=\S)", path.read_text(encoding="utf-8").strip())
        assert [block for block in blocks if "==" not in block or "--hash=sha256:" not in block] == []
        assert "://" not in path.read_text(encoding="utf-8")


def test_the_checks_stay_strict() -> None:
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["ruff"]["lint"]["select"] == ["ALL"]
    assert len(tools["ruff"]["lint"]["ignore"]) <= 12
    assert tools["mypy"]["strict"] is True
    loosened = [set(override) - {"module", "follow_untyped_imports"} for override in tools["mypy"].get("overrides", [])]
    assert not any(loosened)
    assert tools["pytest"]["ini_options"]["filterwarnings"][0] == "error"


def test_a_device_gets_pure_python_alone() -> None:
    locked = re.findall(
        r"^([\w.-]+)==", (REPOSITORY / "requirements" / "agent.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {"paho-mqtt", "tuf", "cattrs"} <= set(locked)
    compiled = [
        f"{name}: {file}"
        for name in locked
        for file in importlib.metadata.files(name) or ()
        if file.suffix in {".so", ".pyd"}
    ]
    assert compiled == []
