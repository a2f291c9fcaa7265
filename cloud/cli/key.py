"""`fleetlift key`: who signs what until when, and the keys of this home."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from cloud.cli.client import UnreachableError
from cloud.cli.context import Group, Operator, no_passphrase_option, pass_operator, passphrase_option
from cloud.cli.key_changes import add, online, renew, replace, revoke, threshold
from cloud.cli.key_drafts import publish, show, sign
from cloud.cli.key_joining import fetch, join, metadata
from cloud.cli.packaging import open_keyring
from cloud.cli.passphrases import choose_at_terminal, read_passphrase
from cloud.cli.render import Column, moment
from cloud.durable import write_durably
from cloud.keyring import Keyring
from cloud.keys.known_roles import known_roles
from cloud.keys.passphrases import check_passphrase
from cloud.keys.private_keys import KeyEntry, PrivateKeys
from cloud.keys.public_keys import check_scheme, from_document, label_of, shown_keyid, to_document
from cloud.roles import SNAPSHOT, TIMESTAMP, utc_now
from protocol.errors import UserError

ROLES: Final = (
    Column("role", lambda row: row["role"] if row["first"] else " "),
    Column("version", lambda row: (row["version"] or "-") if row["first"] else "", justify="right"),
    Column("needs", lambda row: f"{row['threshold']} of {row['of']}" if row["first"] and row["of"] else " "),
    Column("expires", lambda row: moment(row["expires_at_ms"])[:10] if row["first"] else " "),
    Column("due", lambda row: ("NOW" if row["due"] else "no") if row["first"] else " "),
    Column("key", lambda row: shown_keyid(row["keyid"] or "") or "-"),
    Column("whose", "label"),
    Column("private part", "where"),
    Column("signed", lambda row: " " if row["signed"] is None else "yes" if row["signed"] else "no"),
)
KEY_ID: Final = Column("key", "keyid")
ENTRY: Final = (
    Column("name", "name"),
    Column("whose", "label"),
    Column("key", "keyid"),
    Column("scheme", "scheme"),
    Column("private part", "where"),
)


@click.group(cls=Group)
def key() -> None:
    """Who may sign what: keys, thresholds, expiries, and the ways to change them (docs/keys.md).

    ROLE is root, targets, online (what the server signs by itself), or a product.
    """


for _command in (add, revoke, replace, threshold, renew, online, sign, show, publish, join, fetch, metadata):
    key.add_command(_command)


@key.command(
    "list",
    examples=(
        "fleetlift key list",
        "fleetlift key list --offline -o json",
    ),
)
@click.option("--offline", is_flag=True, help="Do not ask the server: show what this keyring knows.")
@pass_operator
def list_(operator: Operator, *, offline: bool) -> None:
    """List every role: how many of which keys must sign it, where they are, when it expires and what is due."""
    with open_keyring(operator) as keyring:
        served: list[dict[str, Any]] = []
        if not offline:
            try:
                served = operator.api.get("metadata")["roles"]
                keyring.known.follow(lambda name: operator.api.read("metadata", name))
            except UnreachableError as error:
                operator.output.warn(f"{error} What follows is what this keyring knows.")
            except UserError as error:
                if error.exit_code != 4:
                    raise
                operator.output.warn(f"The server was not asked: {error} What follows is what this keyring knows.")
        rows = _rows(keyring, {row["role"]: row for row in served if row["role"] in (SNAPSHOT, TIMESTAMP)})
    operator.output.rows(rows, ROLES, nothing="This keyring knows no role.", key=KEY_ID)
    late = sorted({row["role"] for row in rows if row["due"]})
    if late:
        operator.output.warn(f"Due: {', '.join(late)}. Renew with `fleetlift key renew`.")


def _rows(keyring: Keyring, served: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each key of each role, then the keys here that sign for none."""
    entries = {entry.key.keyid: entry for entry in keyring.keys.entries() if entry.key is not None}
    rows: list[dict[str, Any]] = []
    used: set[str] = set()
    for role in known_roles(keyring.known, utc_now()):
        shown = asdict(role) | {name: served[role.role][name] for name in ("version", "expires_at_ms", "due")
                                  if role.role in served}  # fmt: skip
        signed = {item["keyid"]: item["signed"] for item in served.get(role.role, {}).get("keys", ())}
        plain = {name: value for name, value in shown.items() if name != "keys"}
        for number, item in enumerate(role.keys):
            used.add(item.keyid)
            where = "the server" if role.renewed_by == "server" else where_of(entries.get(item.keyid))
            one = asdict(item) | {"signed": signed.get(item.keyid, item.signed if role.version else None)}
            rows.append(plain | one | {"first": number == 0, "of": len(role.keys), "where": where})
    unused = [entry for keyid, entry in entries.items() if keyid not in used]
    rows += [_unused(entry) for entry in unused]
    return rows


def _unused(entry: KeyEntry) -> dict[str, Any]:
    nothing = dict.fromkeys(("version", "expires_at_ms", "renewed_by", "threshold", "signed"))
    return nothing | entry_row(entry) | {"role": None, "due": False, "first": True, "of": 0}


def where_of(entry: KeyEntry | None) -> str:
    """Return where the private part of a key is, seen from here."""
    if entry is None or entry.place == "elsewhere":
        return "elsewhere"
    if entry.place == "uri":
        return entry.uri or "uri"
    return f"here, {entry.name}" + (", passphrase" if entry.protected else ", NO passphrase")


def entry_row(entry: KeyEntry) -> dict[str, Any]:
    """Return a key of this home as a row."""
    known = entry.key
    return {
        "name": entry.name,
        "keyid": known.keyid if known else None,
        "label": label_of(known) if known else "",
        "scheme": known.scheme if known else None,
        "where": where_of(entry),
    }


@key.command("create", examples=("fleetlift key create alice --label Alice",))
@click.argument("name")
@click.option("--label", default="", metavar="WHO", help="Whose it is; stands in the signed metadata beside the key.")
@passphrase_option
@no_passphrase_option
@pass_operator
def create(operator: Operator, *, name: str, label: str) -> None:
    """Make an Ed25519 key called NAME in this home. It signs for nothing until `key add` says so."""
    entry = PrivateKeys(operator.home.keys, operator.passphrases).create(name, label)
    operator.output.say(f"The key {name} is made. Its public part: fleetlift key public {name}")
    operator.output.record(entry_row(entry), ENTRY)


@key.command(
    "import",
    examples=(
        "fleetlift key import ci --uri awskms:alias/fleetlift --public ci.pub.pem --needs-cryptography",
        "fleetlift key import token --uri hsm:2 --label Alice",
    ),
)
@click.argument("name")
@click.option("--uri", required=True, metavar="URI", help="Where a KMS or HSM keeps it: hsm:…, awskms:…, gcpkms:…, …")
@click.option(
    "--public",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Its public part, PEM or JSON (hsm: and file2: can be asked for theirs).",
)
@click.option("--label", default="", metavar="WHO", help="Whose it is; stands in the signed metadata beside the key.")
@click.option("--needs-cryptography", is_flag=True, help="It is not Ed25519, and every device can check that.")
@click.option("--for-server", is_flag=True, help="Note it in the server's part of the home: online-next.")
@passphrase_option
@pass_operator
def import_(
    operator: Operator,
    *,
    name: str,
    uri: str,
    public: Path | None,
    label: str,
    needs_cryptography: bool,
    for_server: bool,
) -> None:
    """Let a key that something else keeps sign from this home, as NAME; it signs a proof first."""
    known = from_document(public.read_bytes(), str(public))[0] if public else None
    directory = operator.home.cloud / "keys" if for_server else operator.home.keys
    keys = PrivateKeys(directory, operator.passphrases)
    found = keys.public_at(uri, known)
    check_scheme(found, needs_cryptography=needs_cryptography)
    entry = keys.adopt_uri(name, uri, found, label)
    operator.output.say(f"The key {name} is where its URI says, and signs.")
    operator.output.record(entry_row(entry), ENTRY)


@key.command("public", examples=("fleetlift key public alice --to alice.pub.json",))
@click.argument("name")
@click.option("--to", type=click.Path(path_type=Path), help="The file to write (default: standard output).")
@passphrase_option
@pass_operator
def public_(operator: Operator, *, name: str, to: Path | None) -> None:
    """Show the public part of the key NAME: what others need to let it sign, and no secret."""
    keys = PrivateKeys(operator.home.keys, operator.passphrases)
    if name not in keys.names():
        raise UserError(f"{operator.home.keys} has no key {name}. It has: {', '.join(keys.names()) or 'none'}.")
    document = to_document(keys.entry(name).key or keys.signer(name).public_key)
    if to is None:
        operator.output.stdout.write(document.decode())
        return
    write_durably(to, document)
    operator.output.record(entry_row(keys.entry(name)) | {"file": str(to)}, (*ENTRY[:4], Column("file", "file")))


@key.command(
    "protect",
    examples=(
        "fleetlift key protect --all",
        "fleetlift key protect alice --new-passphrase-file new-passphrase",
    ),
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Every key file of this home.")
@click.option(
    "--new-passphrase-file",
    type=click.Path(path_type=Path),
    help="A file whose first line is the new passphrase (default: you are asked, twice).",
)
@passphrase_option
@no_passphrase_option
@pass_operator
def protect(operator: Operator, *, names: tuple[str, ...], everything: bool, new_passphrase_file: Path | None) -> None:
    """Put keys behind a passphrase, or behind another one; with --no-passphrase behind none."""
    keys = PrivateKeys(operator.home.keys, operator.passphrases)
    here = {entry.name: entry for entry in keys.entries() if entry.place == "here"}
    chosen = tuple(here) if everything else names
    if not chosen:
        raise UserError(f"name keys, or --all. Nothing was changed. Here are: {', '.join(here) or 'none'}.")
    passphrase = None
    if not operator.no_passphrase:
        fresh = not any(here[name].protected for name in chosen if name in here)
        passphrase = _new_passphrase(operator, new_passphrase_file, fresh=fresh).encode()
    changed = keys.protect(chosen, passphrase)
    how = "behind no passphrase" if passphrase is None else "behind the new passphrase"
    operator.output.say(f"{', '.join(changed)}: {how}. Copies made before still open with the old one, or with none.")
    operator.output.rows([entry_row(keys.entry(name)) for name in changed], ENTRY, nothing="")


def _new_passphrase(operator: Operator, file: Path | None, *, fresh: bool) -> str:
    if file is not None:
        return check_passphrase(read_passphrase(file.expanduser()))
    if fresh and operator.passphrase_option is not None:  # there is no old one that it could be meant for
        return check_passphrase(read_passphrase(operator.passphrase_option.expanduser()))
    if not operator.output.can_ask:
        raise UserError("nobody is here to choose a passphrase. Nothing was changed; add --new-passphrase-file.")
    return choose_at_terminal()
