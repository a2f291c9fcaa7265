"""People with keys: each a keyring of his own, on what might be a machine of his own."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from cloud.acceptance import Incoming
from cloud.key_files import load_key
from cloud.keyring import Keyring
from cloud.keys.changes import Changes
from cloud.keys.drafts import Draft
from cloud.keys.known_metadata import KnownMetadata
from cloud.roles import ROOT, TARGETS
from tests.cloud.repositories import House


@dataclass
class Holder:
    """Somebody with a keyring; `house` is where the server is."""

    house: House
    directory: Path
    keyring: Keyring = field(init=False)

    def __post_init__(self) -> None:
        self.keyring = Keyring(self.directory, now=self.house.clock)

    def follow(self) -> None:
        self.keyring.known.follow(self.house.repository.metadata)

    def changes(self, draft: Draft | None = None) -> Changes:
        return Changes(self.keyring.known, draft, now=self.house.clock)

    def sign(self, draft: Draft) -> Draft:
        """Check and sign, as `key sign` does, with the file in between."""
        read = Draft.from_bytes(draft.to_bytes(), "the draft")
        read.check(self.keyring.known, self.house.clock())
        return read.signed(self.keyring.known, self.keyring.signers)[0]

    def is_complete(self, draft: Draft) -> bool:
        return draft.is_complete(self.keyring.known)


def operator_of(house: House) -> Holder:
    """The one whose keyring the house began with."""
    return Holder(house, house.directory / "operator")


def joined(house: House, name: str, *keys: str) -> Holder:
    """Somebody who joined with the first root, and took these keys of the operator's along."""
    directory = house.directory / name
    KnownMetadata.join(directory, house.repository.metadata, root=house.keyring.roots()[0], root_sha256=None)
    for key in keys:
        for suffix in (".pem", ".pub.json"):
            shutil.move(house.directory / "operator" / f"{key}{suffix}", directory / f"{key}{suffix}")
    return Holder(house, directory)


def incoming(draft: Draft) -> Incoming:
    """What a draft is when it is sent."""
    pieces = {name: piece.to_bytes() for name, piece in draft.pieces.items()}
    return Incoming(pieces.pop(ROOT, None), pieces.pop(TARGETS, None), pieces)


def publish(house: House, draft: Draft) -> tuple[str, ...]:
    return house.repository.accept(incoming(draft))


def keyid(holder: Holder, name: str) -> str:
    return load_key(holder.directory / f"{name}.pem").public_key.keyid
