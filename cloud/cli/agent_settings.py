"""The text of an agent's settings file, `agent.toml`, from the options of `fleetlift device enrol`."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

from cloud.cli.context import Operator, parse_pairs

SETTINGS_NAME: Final = "agent.toml"
ROOT_NAME: Final = "root.json"
ZIPAPP_COMMAND: Final = ("{python}", "{image}")
F = TypeVar("F", bound=Callable[..., object])


def settings_options(function: F) -> F:
    """Add the options that say how the agent and its application are to run."""
    options = [
        click.option("--broker", metavar="URL", help="Where the device finds the broker (default: the server says)."),
        click.option("--component", metavar="C", help="The component that it runs (default: the context's)."),
        click.option(
            "--app-command", multiple=True, metavar="WORD", help="A word of the command; repeat. Default: a zipapp's."
        ),
        click.option(
            "--app-env", multiple=True, metavar="NAME=VALUE", help="For the application's environment; repeat."
        ),
        click.option("--health-url", metavar="URL", help="The application is well when this answers with success."),
        click.option(
            "--health-command", multiple=True, metavar="WORD", help="... or when this command ends with 0; repeat."
        ),
        click.option("--soak", type=float, metavar="SECONDS", help="How long a new version has to stay well."),
        click.option("--prove-timeout", type=float, metavar="SECONDS", help="How long it may take to prove good."),
        click.option("--confirm/--no-confirm", default=False, help="The application has to confirm a trial itself."),
        click.option(
            "--capacity", type=click.IntRange(min=1), metavar="BYTES", help="The largest image that a slot takes."
        ),
        click.option("--updates-disabled", is_flag=True, help="No update starts until the application enables them."),
        click.option(
            "--check-interval", type=float, metavar="SECONDS", help="How often it asks by itself (default: daily)."
        ),
        click.option(
            "--startup-wait", type=float, metavar="SECONDS", help="How long a start waits for mandatory updates."
        ),
        click.option("--window", type=click.IntRange(min=65536), metavar="BYTES", help="How much it asks for ahead."),
        click.option("--attribute", multiple=True, metavar="NAME=VALUE", help="A fact about the device; repeat."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def settings_text(
    operator: Operator,
    device: Mapping[str, Any],
    identity: Mapping[str, Any],
    broker: Mapping[str, Any],
    options: Mapping[str, Any],
) -> str:
    """Return the text of agent.toml; raises UserError for options that are none."""
    device = {**device, "attributes": parse_pairs(options["attribute"], "--attribute") or None}
    updates = {
        "enabled_at_start": False if options["updates_disabled"] else None,
        "check_interval_s": options["check_interval"],
        "startup_wait_s": options["startup_wait"],
        "window_bytes": options["window"],
    }
    component = {
        "command": list(options["app_command"] or ZIPAPP_COMMAND),
        "env": parse_pairs(options["app_env"], "--app-env") or None,
        "health": _health(options["health_url"], options["health_command"]),
        "soak_s": options["soak"],
        "prove_timeout_s": options["prove_timeout"],
        "confirm": options["confirm"] or None,
        "capacity_bytes": options["capacity"],
    }
    name = operator.component(options["component"])
    return "\n".join(
        [
            f"# The settings of {device['id']}'s agent. Relative paths are relative to this file.",
            *_table("device", device),
            *_table("identity", identity),
            *_table("broker", broker),
            *_table("updates", updates),
            *_table(f"components.{name}", component),
            "",  # its last line ends, too: people append
        ]
    )


def _health(url: str | None, command: Sequence[str]) -> dict[str, Any]:
    if url:
        return {"kind": "http", "url": url}
    if command:
        return {"kind": "exec", "command": list(command)}
    return {"kind": "alive"}


def _table(name: str, values: Mapping[str, Any]) -> list[str]:
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return [f"\n[{name}]", *lines] if lines else []


def _toml(value: Any) -> str:
    """Return a value as TOML: its strings, numbers, booleans and arrays are written as JSON writes them."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
