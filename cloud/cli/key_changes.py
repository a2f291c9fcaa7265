"""Changing who signs: add, revoke, replace, thresholds, renewal, and the server's own key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from securesystemslib.signer import Key  # type: ignore[attr-defined]  # exported without saying so

from cloud.cli.context import Command, Group, Operator, pass_operator, passphrase_option
from cloud.cli.key_drafts import draft_option, finish, follow, read_draft
from cloud.cli.options import yes_option
from cloud.cli.packaging import open_keyring
from cloud.cli.render import Column, moment
from cloud.keyring import Keyring
from cloud.keys.changes import ONLINE, Changes
from cloud.keys.known_roles import known_roles
from cloud.keys.public_keys import check_scheme, from_document, labelled, shown_keyid
from cloud.roles import SNAPSHOT, TIMESTAMP, utc_now
from protocol.errors import UserError

F = TypeVar("F", bound=Callable[..., object])
role_argument = click.argument("role", metavar="ROLE")
label_option = click.option("--label", metavar="WHO", help="Whose it is, where its file does not say so.")
scheme_option = click.option(
    "--needs-cryptography", is_flag=True, help="It is not Ed25519, and every device can check its signatures."
)


def change_options(function: F) -> F:
    """Add the options of every change: where it goes, passphrase, no questions."""
    return draft_option(passphrase_option(yes_option(function)))


def _apply(
    operator: Operator, change: Callable[[Keyring, Changes], None], *, draft_file: Path | None, yes: bool
) -> None:
    with open_keyring(operator) as keyring:
        if draft_file is None:
            follow(operator, keyring)
        begun = read_draft(draft_file) if draft_file is not None and draft_file.exists() else None
        changes = Changes(keyring.known, begun)
        change(keyring, changes)
        finish(operator, keyring, changes.draft(), draft_file=draft_file, yes=yes)


def _public_key(keyring: Keyring, text: str, label: str | None, *, needs_cryptography: bool) -> Key:
    """Return the key of a file, or of a name in this home; raises UserError, PublicKeyError."""
    path = Path(text)
    if path.is_file():
        key = from_document(path.read_bytes(), text)[0]
    elif text in keyring.keys.names():
        key = keyring.keys.entry(text).key or keyring.keys.signer(text).public_key
    else:
        raise UserError(
            f"{text!r} is neither a file with a public key nor a key of this home "
            f"({', '.join(keyring.keys.names()) or 'it has none'}). Nothing was changed; the other side writes that "
            "file with `fleetlift key public NAME --to FILE`."
        )
    check_scheme(key, needs_cryptography=needs_cryptography)
    return key if label is None else labelled(key, label)


def _find(keyring: Keyring, changes: Changes, role: str, text: str) -> str:
    """Return the id of a role's key: by its name in this home, the beginning of its id, or whose it is."""
    if text in keyring.keys.names():
        key = keyring.keys.entry(text).key or keyring.keys.signer(text).public_key
        if key.keyid in changes.holders(role):
            return key.keyid
    return changes.find(role, text)


@click.command(
    "add",
    cls=Command,
    examples=(
        "fleetlift key add thermostat alice.pub.json --label Alice",
        "fleetlift key add thermostat alice.pub.json --draft add-alice.draft.json --yes",
    ),
)
@role_argument
@click.argument("key", metavar="PUBLIC-KEY")
@label_option
@scheme_option
@change_options
@pass_operator
def add(operator: Operator, *, role: str, key: str, label: str | None, needs_cryptography: bool, **how: Any) -> None:
    """Let PUBLIC-KEY, a file or a key of this home, sign for ROLE too."""
    _not_online(role)

    def change(keyring: Keyring, changes: Changes) -> None:
        changes.add_key(role, _public_key(keyring, key, label, needs_cryptography=needs_cryptography))

    _apply(operator, change, **how)


@click.command("revoke", cls=Command, examples=("fleetlift key revoke thermostat Alice",))
@role_argument
@click.argument("key", metavar="KEY")
@change_options
@pass_operator
def revoke(operator: Operator, *, role: str, key: str, **how: Any) -> None:
    """Let KEY, by its name here, the beginning of its id or whose it is, no longer sign for ROLE.

    What it alone has signed is signed anew, by those who remain.
    """
    _not_online(role)
    _apply(operator, lambda keyring, changes: changes.revoke_key(role, _find(keyring, changes, role, key)), **how)


@click.command(
    "replace", cls=Command, examples=("fleetlift key replace root root-2 bob.pub.json --draft root.draft.json",)
)
@role_argument
@click.argument("key", metavar="OLD-KEY")
@click.argument("by", metavar="PUBLIC-KEY")
@label_option
@scheme_option
@change_options
@pass_operator
def replace(
    operator: Operator, *, role: str, key: str, by: str, label: str | None, needs_cryptography: bool, **how: Any
) -> None:
    """Put PUBLIC-KEY in the place of OLD-KEY: what else must be signed anew is part of the same change."""
    _not_online(role)

    def change(keyring: Keyring, changes: Changes) -> None:
        new = _public_key(keyring, by, label, needs_cryptography=needs_cryptography)
        changes.replace_key(role, _find(keyring, changes, role, key), new)

    _apply(operator, change, **how)


@click.command("threshold", cls=Command, examples=("fleetlift key threshold thermostat 2",))
@role_argument
@click.argument("number", type=click.IntRange(min=1))
@change_options
@pass_operator
def threshold(operator: Operator, *, role: str, number: int, **how: Any) -> None:
    """Let NUMBER of ROLE's keys be needed."""
    _apply(operator, lambda _keyring, changes: changes.set_threshold(role, number), **how)


@click.command(
    "renew",
    cls=Command,
    examples=(
        "fleetlift key renew   # what is due",
        "fleetlift key renew targets thermostat --yes",
    ),
)
@click.argument("roles", nargs=-1, metavar="[ROLE]...")
@click.option("--all", "everything", is_flag=True, help="All that people sign, due or not.")
@change_options
@pass_operator
def renew(operator: Operator, *, roles: tuple[str, ...], everything: bool, **how: Any) -> None:
    """Give ROLES another year; without a name all that is due, two months before it expires.

    What the server signs it renews by itself.
    """
    with open_keyring(operator) as keyring:
        if how["draft_file"] is None:
            follow(operator, keyring)
        there = [view for view in known_roles(keyring.known, utc_now()) if view.renewed_by == "operator"]
        mine = {entry.key.keyid for entry in keyring.keys.entries() if entry.key is not None}
    wanted = [view for view in there if everything or view.due]
    others = [view.role for view in wanted if mine.isdisjoint(item.keyid for item in view.keys)]
    if others and not roles:
        operator.output.warn(f"Due, and not for a key of this home to sign: {', '.join(others)}.")
    chosen = roles or tuple(view.role for view in wanted if view.role not in others)
    if not chosen:
        soonest = min(there, key=lambda view: view.expires_at_ms)
        operator.output.say("Nothing is due.")
        row = {"published": {}, "next": soonest.role, "expires_at_ms": soonest.expires_at_ms}
        operator.output.record(
            row, (Column("expires first", "next"), Column("on", lambda row: moment(row["expires_at_ms"])))
        )
        return

    def change(_keyring: Keyring, changes: Changes) -> None:
        for role in chosen:
            _not_online(role)
            changes.renew(role)

    _apply(operator, change, **how)


@click.group("online", cls=Group)
def online() -> None:
    """The key that the server signs snapshots, timestamps and messages with.

    Routine: `prepare` (the server makes the next key), `add` (root lets it sign too), `retire` (root drops the old
    one). Stolen: `prepare`, then `replace`, which does both at once.
    """


@online.command("prepare", examples=("fleetlift key online prepare",))
@pass_operator
def prepare(operator: Operator) -> None:
    """Have the server make its next key; it does not sign before root names it."""
    key = operator.api.post("metadata", "online-key")
    operator.output.say("The server has its next key. Let root name it: fleetlift key online add")
    operator.output.record(key, (Column("key", "keyid"), Column("scheme", "scheme")))


@online.command("add", examples=("fleetlift key online add --yes",))
@scheme_option
@change_options
@pass_operator
def add_online(operator: Operator, *, needs_cryptography: bool, **how: Any) -> None:
    """Let the server's next key sign beside the present one."""
    following = _next_key(operator, needs_cryptography=needs_cryptography)
    _apply(operator, lambda _keyring, changes: changes.add_key(ONLINE, following), **how)


@online.command("retire", examples=("fleetlift key online retire",))
@change_options
@pass_operator
def retire(operator: Operator, **how: Any) -> None:
    """Drop the server's old key, after `add`: devices refuse it from then on, and the server removes it."""
    following = _next_key(operator, needs_cryptography=True)

    def change(_keyring: Keyring, changes: Changes) -> None:
        there = list(changes.holders(ONLINE))
        if following.keyid not in there:
            raise UserError(
                f"root does not name the server's next key {shown_keyid(following.keyid)} yet, so nothing could sign "
                "when the old one is gone. Nothing was changed; `fleetlift key online add` first."
            )
        for keyid in there:
            if keyid != following.keyid:
                changes.revoke_key(ONLINE, keyid)

    _apply(operator, change, **how)


@online.command("replace", examples=("fleetlift key online replace",))
@scheme_option
@change_options
@pass_operator
def replace_online(operator: Operator, *, needs_cryptography: bool, **how: Any) -> None:
    """Drop the server's key for its next one at once: for a key that was stolen.

    Devices forget whatever the old key signed, and the versions begin anew.
    """
    following = _next_key(operator, needs_cryptography=needs_cryptography)

    def change(_keyring: Keyring, changes: Changes) -> None:
        there = list(changes.holders(ONLINE))
        if following.keyid not in there:
            changes.add_key(ONLINE, following)
        for keyid in there:
            if keyid != following.keyid:
                changes.revoke_key(ONLINE, keyid)

    _apply(operator, change, **how)


def _next_key(operator: Operator, *, needs_cryptography: bool) -> Key:
    document = operator.api.get("metadata")["next_online_key"]
    if document is None:
        raise UserError("the server has made no next key. Nothing was changed; `fleetlift key online prepare` first.")
    key = from_document(json.dumps(document).encode(), "the server's next key")[0]
    check_scheme(key, needs_cryptography=needs_cryptography)
    return key


def _not_online(role: str) -> None:
    if role in (ONLINE, TIMESTAMP, SNAPSHOT):
        raise UserError(
            "the server signs snapshot and timestamp, and renews them by itself. Nothing was changed; its key is "
            "replaced with `fleetlift key online`."
        )
