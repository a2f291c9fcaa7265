"""docs/agent-settings.md names every setting of the agent, table by table, and its example is one."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from device_agent.config import (
    COMPONENT_KEYS,
    DEVICE_KEYS,
    TOP_KEYS,
    BrokerSettings,
    IdentitySettings,
    UpdateSettings,
    load_applicant,
)

TEXT = (Path(__file__).parents[2] / "docs" / "agent-settings.md").read_text(encoding="utf-8")


def names(kind: type) -> list[str]:
    return [item.name for item in fields(kind)]


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ("device", DEVICE_KEYS),
        ("identity", names(IdentitySettings)),
        ("broker", names(BrokerSettings)),
        ("updates", names(UpdateSettings)),
        ("components.<name>", COMPONENT_KEYS),
    ],
)
def test_every_setting_is_named(table: str, keys: list[str]) -> None:
    section = TEXT.split(f"## `[{table}]`\n")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(keys)


def test_every_table_is_there() -> None:
    assert [name.split(".")[0] for name in re.findall(r"^## `\[(.+)\]`$", TEXT, re.MULTILINE)] == list(TOP_KEYS)


def test_the_example_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "agent.toml"
    path.write_text(example, encoding="utf-8")
    assert load_applicant(path).product == "thermostat"
