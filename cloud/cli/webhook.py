"""`fleetlift webhook`: who is told of what happens."""

import sys
from pathlib import Path
from typing import Any

import click

from cloud.cli.client import FAILED, TIMED_OUT, Json
from cloud.cli.context import Group, Operator, pass_operator
from cloud.cli.options import yes_option
from cloud.cli.render import Column, moment
from protocol.errors import UserError

MAX_SECRET_BYTES = 1024


def _standing(hook: Any) -> str:
    if not hook["enabled"]:
        return hook["why_disabled"] or "disabled"
    since = hook["failing_since_ms"]
    return f"failing since {moment(since)}" if since else "good"


COLUMNS = (
    Column("name", "name"),
    Column("url", "url"),
    Column("product", lambda hook: hook["product"] or "every product"),
    Column("kinds", lambda hook: hook["kinds"] or "all"),
    Column("enabled", "enabled"),
    Column("pending", "pending", justify="right"),
    Column("delivered", "delivered", justify="right"),
    Column("given up", "given_up", justify="right"),
    Column("is", _standing),
)
DETAILS = (
    *COLUMNS,
    Column("plain HTTP", lambda hook: "allowed" if hook["allow_plain"] else "on this machine alone"),
    Column("private addresses", lambda hook: "allowed" if hook["allow_private"] else "refused"),
    Column("added", lambda hook: f"{moment(hook['created_at_ms'])} by {hook['created_by']}"),
)
DELIVERIES = (
    Column("event", lambda row: row["event"]["number"], justify="right"),
    Column("happened", lambda row: moment(row["event"]["at_ms"])),
    Column("kind", lambda row: row["event"]["kind"]),
    Column("subject", lambda row: row["event"]["subject"]),
    Column("is", "state"),
    Column("tries", "tries", justify="right"),
    Column("last answer", "answer"),
    Column("next try", lambda row: moment(row["due_at_ms"])),
)


@click.group(cls=Group)
def webhook() -> None:
    """Webhooks: addresses that are told of what happens, signed."""


@webhook.command(
    "add", examples=("fleetlift webhook add pager https://pager.example/hook --kind 'rollout.*' --kind device.failed",)
)
@click.argument("name", metavar="WEBHOOK")
@click.argument("url")
@click.option("--product", metavar="P", help="What happens to this product alone (default: to every one).")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="As in device.failed or rollout.*; repeat.")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="What it is signed with: whsec_ and base64 (default: one is made, and shown once).",
)
@click.option("--allow-plain", is_flag=True, help="HTTP without encryption, beyond this machine too.")
@click.option("--allow-private", is_flag=True, help="An address of the server's own machine or network.")
@pass_operator
def add(operator: Operator, *, secret_file: Path | None, **hook: Any) -> None:
    """Tell URL of what happens from now on; docs/webhooks.md says what it gets and how it checks the signature."""
    body = hook | {"kinds": list(hook["kinds"])}
    if secret_file is not None:
        body["secret"] = _read_secret(secret_file)
    made: Json = operator.api.post("webhooks", body=body)
    operator.output.say(f"{made['webhook']['name']} is told of what happens from now on.")
    if operator.output.for_program:
        operator.output.document(made, names=[made["webhook"]["name"]])
        return
    if made["secret"]:
        operator.output.warn("Its secret, which is shown this once: who has it can sign in this server's name.")
        sys.stdout.write(f"{made['secret']}\n")
        sys.stdout.flush()
    operator.output.record(made["webhook"], DETAILS)


@webhook.command("list", examples=("fleetlift webhook list",))
@pass_operator
def list_(operator: Operator) -> None:
    """List webhooks, and how they fare."""
    operator.output.rows(operator.api.get("webhooks"), COLUMNS, nothing="There is no webhook.")


@webhook.command("show", examples=("fleetlift webhook show pager --limit 50",))
@click.argument("name", metavar="WEBHOOK")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many deliveries.")
@pass_operator
def show(operator: Operator, *, name: str, limit: int) -> None:
    """Show one webhook and its last deliveries."""
    page: Json = operator.api.get("webhooks", name, limit=limit)
    if operator.output.for_program:
        operator.output.document(page, names=[page["webhook"]["name"]])
        return
    operator.output.record(page["webhook"], DETAILS)
    operator.output.rows(page["deliveries"], DELIVERIES, nothing="Nothing has happened that it is to be told.")


@webhook.command("test", examples=("fleetlift webhook test pager",))
@click.argument("name", metavar="WEBHOOK")
@pass_operator
def test(operator: Operator, *, name: str) -> None:
    """Tell one webhook of a test, and say what its receiver answered; exit code 1 if it did not take it."""
    found: Json = operator.api.post("webhooks", name, "test")
    said = found["answer"] or "nothing yet"
    taken = found["state"] == "delivered"
    operator.output.say(f"{name} {'took it' if taken else 'did not take it'}: {said}.")
    operator.output.record(found, DELIVERIES)
    if not taken:
        click.get_current_context().exit(FAILED if found["tries"] else TIMED_OUT)


@webhook.command("enable", examples=("fleetlift webhook enable pager",))
@click.argument("name", metavar="WEBHOOK")
@pass_operator
def enable(operator: Operator, *, name: str) -> None:
    """Enable a webhook again: what waited goes on, what happened meanwhile it is not told."""
    found = operator.api.patch("webhooks", name, body={"enabled": True})
    operator.output.say(f"{name} is told of what happens again; {found['pending']} not delivered yet.")
    operator.output.record(found, DETAILS)


@webhook.command("disable", examples=("fleetlift webhook disable pager",))
@click.argument("name", metavar="WEBHOOK")
@pass_operator
def disable(operator: Operator, *, name: str) -> None:
    """Disable a webhook: what happens until it is enabled it is never told."""
    found = operator.api.patch("webhooks", name, body={"enabled": False})
    operator.output.say(f"{name} is not told of anything any more.")
    operator.output.record(found, DETAILS)


@webhook.command("remove", examples=("fleetlift webhook remove pager",))
@click.argument("name", metavar="WEBHOOK")
@yes_option
@pass_operator
def remove(operator: Operator, *, name: str, yes: bool) -> None:
    """Remove a webhook, its secret, and what it was still to be told."""
    hook = operator.api.get("webhooks", name)["webhook"]
    operator.output.confirm(f"Remove {name} ({hook['pending']} not delivered yet)?", yes=yes)
    operator.api.delete("webhooks", name)
    operator.output.say(f"{name} is removed.")
    if operator.output.for_program:
        operator.output.document(hook, names=[name])


def _read_secret(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            return file.read(MAX_SECRET_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"the secret {path} cannot be read: {why}. Nothing was changed.") from None
