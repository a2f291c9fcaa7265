"""Drafts at the command line: look, sign, lay copies together, publish when all have signed who must."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from cloud.cli.client import UnreachableError
from cloud.cli.context import Command, Operator, pass_operator, passphrase_option
from cloud.cli.options import yes_option
from cloud.cli.packaging import open_keyring
from cloud.cli.render import Column, plural
from cloud.durable import write_durably
from cloud.keyring import Keyring
from cloud.keys.describing import describe
from cloud.keys.drafts import MAX_BYTES, Demand, Draft
from cloud.keys.public_keys import label_of, shown_keyid
from cloud.roles import ROOT, TARGETS, utc_now
from protocol.errors import UserError

F = TypeVar("F", bound=Callable[..., object])
SUFFIX: Final = ".draft.json"
DEMANDS: Final = (
    Column("signs", "piece"),
    Column("by the word of", "by"),
    Column("needs", "threshold", justify="right"),
    Column("has", lambda row: len(row["signed"]), justify="right"),
    Column("signed", lambda row: row["signed"]),
    Column("not signed", lambda row: row["missing"]),
)
file_argument = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


def draft_option(function: F) -> F:
    """Add the option that keeps a change from being sent."""
    return click.option(
        "--draft",
        "draft_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Do not send it, and do not ask the server: add it to this draft, for others to sign.",
    )(function)


def read_draft(path: Path) -> Draft:
    """Return the draft of a file; raises UserError, KeyringError."""
    try:
        with path.open("rb") as file:
            return Draft.from_bytes(file.read(MAX_BYTES + 1), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Nothing was signed.") from None


def finish(operator: Operator, keyring: Keyring, draft: Draft, *, draft_file: Path | None, yes: bool) -> None:
    """Sign a draft with the keys that are here, and send it if that is enough; else write it down for the others."""
    draft.check(keyring.known, utc_now())
    tell(operator, keyring, draft)
    operator.output.confirm("Sign this?", yes=yes)
    signed, by = draft.signed(keyring.known, keyring.signers)
    if draft_file is None and signed.is_complete(keyring.known):
        send(operator, keyring, signed)
        return
    path = draft_file or Path(f"{draft.name}{SUFFIX}")
    if draft_file is None and path.exists():
        raise UserError(f"{path} is there already. Nothing was sent; name another file with --draft.", exit_code=5)
    write_durably(path, signed.to_bytes())
    hand_on(operator, keyring, signed, path, len(by))


def tell(operator: Operator, keyring: Keyring, draft: Draft) -> None:
    """Say what a draft changes."""
    for line in describe(draft, keyring.known):
        operator.output.say(line)


def hand_on(operator: Operator, keyring: Keyring, draft: Draft, path: Path, signatures: int) -> None:
    """Say how far a draft is, and what comes next."""
    say, demands = operator.output.say, draft.demands(keyring.known)
    say(f"Signed with {plural(signatures, 'key')} of this home. The draft is {path}.")
    if all(demand.is_met for demand in demands):
        say(f"All have signed who must. Send it: fleetlift key publish {path}")
    else:
        say(f"Others must sign it, each with a key of his own: fleetlift key sign {path}")
    operator.output.rows([_row(keyring, draft, demand, path) for demand in demands], DEMANDS, nothing="")


def send(operator: Operator, keyring: Keyring, draft: Draft) -> None:
    """Send a complete draft to the server, and take note of it; what could not be sent is kept in a file."""
    pieces = {name: piece.to_bytes() for name, piece in draft.pieces.items()}
    roles = {name: data.decode() for name, data in pieces.items() if name not in (ROOT, TARGETS)}
    body: dict[str, Any] = {"roles": roles}
    body |= {name: pieces[name].decode() for name in (ROOT, TARGETS) if name in pieces}
    try:
        answer = operator.api.put("metadata", body=body)
    except UnreachableError as error:
        path = Path(f"{draft.name}{SUFFIX}")
        if not path.exists():
            write_durably(path, draft.to_bytes())
        raise UserError(
            f"{error} The signed draft is kept in {path}: send it with `fleetlift key publish {path}`",
            exit_code=error.exit_code,
        ) from None
    if ROOT in pieces:
        keyring.known.add_root(pieces[ROOT])
    if TARGETS in pieces:
        keyring.known.newest_targets(pieces[TARGETS])
    for product in roles:
        keyring.known.newest_role(product, pieces[product])
    versions = {name: piece.signed.version for name, piece in draft.pieces.items()}
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    operator.output.say(f"Published: {said}. Devices follow with their next bundle.")
    row = {"published": versions, "accepted": answer["accepted"]}
    operator.output.record(row, (Column("published", "published"),))


def follow(operator: Operator, keyring: Keyring) -> None:
    """Bring the keyring up to what the server has, checked; raises UserError when it cannot be reached."""
    try:
        keyring.known.follow(lambda name: operator.api.read("metadata", name))
    except UnreachableError as error:
        raise UserError(
            f"{error} To prepare a change without the server, on top of what this keyring knows, add --draft FILE.",
            exit_code=error.exit_code,
        ) from None


def _row(keyring: Keyring, draft: Draft, demand: Demand, path: Path) -> dict[str, Any]:
    labels: dict[str, str] = {}
    roots = [piece.signed for piece in (keyring.known.read_root(), draft.root) if piece is not None]
    targets = [piece.signed for piece in (keyring.known.read_targets(), draft.targets) if piece is not None]
    for keys in (*(root.keys for root in roots), *(role.delegations.keys for role in targets if role.delegations)):
        labels |= {keyid: label_of(key) for keyid, key in keys.items()}

    def names(keyids: tuple[str, ...]) -> list[str]:
        return [f"{shown_keyid(keyid)} {labels.get(keyid, '')}".strip() for keyid in keyids]

    plain = demand._asdict() | {"missing": names(demand.missing), "signed": names(demand.signed)}
    return plain | {"file": str(path), "is_met": demand.is_met}


@click.command("show", cls=Command, examples=("fleetlift key show root.draft.json",))
@file_argument
@pass_operator
def show(operator: Operator, *, file: Path) -> None:
    """Say what the draft FILE changes, and whose signatures it has and lacks."""
    draft = read_draft(file)
    with open_keyring(operator) as keyring:
        draft.check(keyring.known, utc_now())
        tell(operator, keyring, draft)
        demands = draft.demands(keyring.known)
        operator.output.rows([_row(keyring, draft, demand, file) for demand in demands], DEMANDS, nothing="")


@click.command("sign", cls=Command, examples=("fleetlift key sign root.draft.json",))
@file_argument
@passphrase_option
@yes_option
@pass_operator
def sign(operator: Operator, *, file: Path, yes: bool) -> None:
    """Sign the draft FILE with every key of this home that counts; the server is not asked.

    FILE is what another `key` command wrote, or a product's role from `firmware sign`. It is checked against what this
    home knows, not against what it says of itself.
    """
    draft = read_draft(file)
    with open_keyring(operator) as keyring:
        draft.check(keyring.known, utc_now())
        tell(operator, keyring, draft)
        operator.output.confirm("Sign this?", yes=yes)
        signed, by = draft.signed(keyring.known, keyring.signers)
        if not by:
            if draft.is_complete(keyring.known):
                raise UserError("All have signed who must. Nothing was added; send it with `fleetlift key publish`.")
            names = ", ".join(keyring.keys.names()) or "none at all"
            raise UserError(
                f"none of the keys of this home ({names}) is one that still has to sign. Nothing was changed; "
                f"`fleetlift key show {file}` says whose is missing."
            )
        write_durably(file, signed.to_bytes())
        hand_on(operator, keyring, signed, file, len(by))


@click.command(
    "publish",
    cls=Command,
    examples=(
        "fleetlift key publish root.draft.json",
        "fleetlift key publish from-alice.draft.json from-bob.draft.json --yes",
    ),
)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@yes_option
@pass_operator
def publish(operator: Operator, *, files: tuple[Path, ...], yes: bool) -> None:
    """Send the draft of FILES to the server. Several files are copies of one draft that were signed apart."""
    draft = read_draft(files[0])
    for file in files[1:]:
        draft = draft.merged(read_draft(file))
    with open_keyring(operator) as keyring:
        follow(operator, keyring)
        draft.check(keyring.known, utc_now())
        lacking = [demand for demand in draft.demands(keyring.known) if not demand.is_met]
        if lacking:
            demand = lacking[0]
            names = ", ".join(map(shown_keyid, demand.missing))
            raise UserError(
                f"{demand.piece} has {len(demand.signed)} of the {demand.threshold} signatures that {demand.by} "
                f"demands. Nothing was sent; one of these has to sign it with `fleetlift key sign`: {names}."
            )
        tell(operator, keyring, draft)
        operator.output.confirm("Publish this?", yes=yes)
        send(operator, keyring, draft)
