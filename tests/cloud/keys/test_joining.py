"""Somebody joins: from a root that came another way, through metadata that is checked, never from the server's word."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from cloud.keys.known_metadata import KeyringError, KnownMetadata, Read
from cloud.keys.known_roles import known_roles
from cloud.roles import ConflictingRoleError, TrustError
from tests.cloud.keys.holders import operator_of
from tests.cloud.repositories import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.add_product("thermostat")
    house.publish("1.0.0", 1)
    house.repository.accept_root(house.keyring.renew_root())
    house.repository.accept_root(house.keyring.renew_root())
    return house


def served(house: House, changed: Mapping[str, bytes | None] | None = None) -> Read:
    """What the server has, with some of it changed."""
    other = changed or {}
    return lambda name: other[name] if name in other else house.repository.metadata(name)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_one_joins_from_any_root_by_its_file_or_its_digest(house: House, tmp_path: Path, version: int) -> None:
    root = house.keyring.roots()[version - 1]
    by_file = KnownMetadata.join(tmp_path / "a", served(house), root=root, root_sha256=None)
    by_digest = KnownMetadata.join(tmp_path / "b", served(house), root=None, root_sha256=sha256(root).upper())
    for known in (by_file, by_digest):
        assert known.root_versions() == list(range(version, 4))
        assert known.role("thermostat") == house.role()
        assert {path.suffix for path in known.directory.iterdir()} == {".json"}
    assert {path.stat().st_mode & 0o777 for path in by_file.directory.iterdir()} == {0o600}


def test_a_server_with_metadata_of_its_own_is_refused_and_nothing_is_made(house: House, tmp_path: Path) -> None:
    evil = House(tmp_path / "evil")
    evil.add_product("thermostat")
    theirs = evil.repository.metadata
    root = house.keyring.roots()[0]
    attempts: list[tuple[Read, bytes | None, str | None]] = [
        (theirs, None, sha256(root)),
        (theirs, root, None),
        (served(house, {"2.root.json": evil.keyring.renew_root()}), root, None),
        (served(house, {"targets.json": evil.keyring.targets()}), root, None),
        (served(house, {"targets.json": None}), root, None),
        (served(house, {"2.root.json": b"garbage"}), root, None),
    ]
    for read, file, digest in attempts:
        with pytest.raises((TrustError, KeyringError)):
            KnownMetadata.join(tmp_path / "mine", read, root=file, root_sha256=digest)
        assert not (tmp_path / "mine").exists()


def test_a_server_cannot_take_a_keyring_back(house: House, tmp_path: Path) -> None:
    known = KnownMetadata.join(tmp_path / "mine", served(house), root=house.keyring.roots()[0], root_sha256=None)
    old = {"thermostat.json": house.role(), "targets.json": house.keyring.targets()}
    house.publish("1.1.0", 2)
    house.repository.accept_targets(operator_of(house).keyring.renew_targets(house.keyring.targets()))
    known.follow(served(house))
    before = {path.name: path.read_bytes() for path in known.directory.iterdir()}
    for name, data in old.items():
        with pytest.raises(ConflictingRoleError, match="this keyring has seen"):
            known.follow(served(house, {name: data}))
    known.follow(served(house, {"4.root.json": None}))
    assert {path.name: path.read_bytes() for path in known.directory.iterdir()} == before


def test_a_keyring_is_never_joined_over(house: House) -> None:
    operator = house.directory / "operator"
    before = {path.name: path.read_bytes() for path in operator.iterdir()}
    with pytest.raises(KeyringError, match="holds a keyring already; nothing was changed"):
        KnownMetadata.join(operator, served(house), root=house.keyring.roots()[0], root_sha256=None)
    assert {path.name: path.read_bytes() for path in operator.iterdir()} == before


def test_what_is_due_is_known_without_the_server(house: House, tmp_path: Path) -> None:
    known = KnownMetadata.join(tmp_path / "mine", served(house), root=house.keyring.roots()[0], root_sha256=None)
    assert not any(view.due for view in known_roles(known, house.clock()))
    house.clock.advance(days=310)
    due = [view.role for view in known_roles(known, house.clock()) if view.due]
    assert due == ["root", "targets", "thermostat"]
