"""The operator's keyring: signs what devices take, on top of nothing that it has not checked; its keys stay private."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # exported without saying so

from cloud.key_files import KeyFileError, create_key, load_key
from cloud.keyring import Keyring, KeyringError, next_seq
from cloud.online_key import OnlineKey
from cloud.roles import ConflictingRoleError, TrustError
from tests.cloud.repositories import House, Judge, manifest


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.add_product("thermostat")
    return house


@pytest.fixture
def operator(house: House) -> Path:
    return house.directory / "operator"


def test_keys_are_ed25519_for_their_owner_alone_and_none_of_them_is_on_the_server(house: House, operator: Path) -> None:
    keys = sorted(path.name for path in operator.glob("*.pem"))
    assert keys == ["product-thermostat.pem", "root-1.pem", "root-2.pem", "root-3.pem", "targets.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in operator.iterdir()} == {0o600}
    assert stat.S_IMODE(operator.stat().st_mode) == 0o700
    assert {load_key(operator / name).public_key.keytype for name in keys} == {"ed25519"}
    offline = {(operator / name).read_bytes() for name in keys}
    served = [path.read_bytes() for path in (house.directory / "cloud").rglob("*") if path.is_file()]
    assert not [key for key in offline if any(key in content for content in served)]
    assert [path.name for path in (house.directory / "cloud").rglob("*.pem")] == ["online.pem"]


def test_root_needs_two_of_three_keys_and_names_the_servers_key_for_what_the_server_signs(house: House) -> None:
    root: Metadata[Root] = Metadata[Root].from_bytes(house.keyring.root())
    assert (len(root.signed.roles["root"].keyids), root.signed.roles["root"].threshold) == (3, 2)
    online = [root.signed.roles[name].keyids for name in ("snapshot", "timestamp")]
    assert online == [[house.key.public.keyid]] * 2
    assert not {house.key.public.keyid} & {*root.signed.roles["root"].keyids, *root.signed.roles["targets"].keyids}
    root.verify_delegate("root", root)


def test_a_keyring_is_never_made_over_another(house: House, operator: Path) -> None:
    before = {path.name: path.read_bytes() for path in operator.iterdir()}
    with pytest.raises(KeyringError, match="holds a keyring already; nothing was changed"):
        Keyring.create(operator, house.key.public)
    assert {path.name: path.read_bytes() for path in operator.iterdir()} == before


def test_a_keyring_whose_making_was_interrupted_is_completed_with_the_keys_that_it_has(
    house: House, operator: Path
) -> None:
    before = {path.name: path.read_bytes() for path in operator.glob("root-*.pem")}
    (operator / "1.root.json").unlink()
    (operator / "targets.pem").unlink()
    with pytest.raises(KeyringError, match="not a keyring"):
        Keyring(operator)
    keyring = Keyring.create(operator, house.key.public)
    assert {path.name: path.read_bytes() for path in operator.glob("root-*.pem")} == before
    targets: Metadata[Targets] = Metadata[Targets].from_bytes(keyring.targets())
    Metadata[Root].from_bytes(keyring.root()).verify_delegate("targets", targets)


def test_signing_the_same_firmware_again_gives_the_same_bytes(house: House) -> None:
    first = house.sign("1.0.0", 1)
    house.repository.accept_product_role("thermostat", first)
    assert house.sign("1.0.0", 1) == house.role() == first


def test_firmware_never_changes_once_it_is_signed(house: House) -> None:
    house.publish("1.0.0", 1)
    with pytest.raises(KeyringError, match=r"thermostat/app/1\.0\.0 is signed already.*Give this one a new version"):
        house.sign("1.0.0", 1, content=b"other")
    with pytest.raises(KeyringError, match=r"thermostat/app/1\.0\.0 has the seq 1 already"):
        house.sign("1.1.0", 1)
    assert next_seq(house.role(), "thermostat", "app") == 2
    assert next_seq(house.role(), "thermostat", "os") == 1


def test_a_manifest_that_is_of_another_image_is_not_signed(house: House) -> None:
    other = manifest("1.0.0", 1, b"other")
    with pytest.raises(TrustError, match="identity blob is not the image"):
        house.keyring.sign_firmware(house.role(), other, 5, "ab" * 32)


def test_nothing_is_signed_on_top_of_a_role_that_the_server_made_up(house: House) -> None:
    forged: Metadata[Targets] = Metadata[Targets].from_bytes(house.sign("6.6.6", 1, content=b"malicious"))
    forged.sign(house.key.signer)
    item = manifest("1.0.0", 2, b"1.0.0")
    with pytest.raises(TrustError, match="signed by 0/1 keys"):
        house.keyring.sign_firmware(forged.to_bytes(), item, 5, item.blobs[0].ref.digest)
    targets: Metadata[Targets] = Metadata[Targets].from_bytes(house.keyring.targets())
    targets.signed.version += 1
    targets.sign(house.key.signer)
    with pytest.raises(TrustError, match="signed by 0/1 keys"):
        house.keyring.delegate("doorbell", targets.to_bytes())


def test_nothing_is_signed_on_top_of_a_role_older_than_one_seen_before(house: House, operator: Path) -> None:
    old = house.role()
    house.publish("1.0.0", 1)
    house.keyring.record(house.keyring.targets(), ("thermostat", house.role()))
    item = manifest("1.1.0", 2, b"1.1.0")
    with pytest.raises(ConflictingRoleError, match=r"version 1, and this keyring has seen 2.*thermostat\.json"):
        house.keyring.sign_firmware(old, item, 5, item.blobs[0].ref.digest)
    assert Keyring(operator).role("thermostat") == house.role()


def test_what_was_signed_and_never_sent_is_no_hindrance(house: House) -> None:
    house.sign("1.0.0", 1, content=b"a build that nobody wants any more")
    house.publish("1.0.0", 1)
    assert [item.length for item in house.repository.firmware("thermostat")] == [5]


def test_two_release_managers_share_a_product(house: House, operator: Path, tmp_path: Path) -> None:
    """The second keyring has the product's key, the public metadata and nothing else."""
    second = tmp_path / "second"
    second.mkdir(mode=0o700)
    for name in ("product-thermostat.pem", "1.root.json", "targets.json"):
        (second / name).write_bytes((operator / name).read_bytes())
        (second / name).chmod(0o600)
    house.publish("1.0.0", 1)
    item = manifest("1.1.0", 2, b"1.1.0")
    role = Keyring(second).sign_firmware(house.role(), item, 5, item.blobs[0].ref.digest)
    house.repository.accept_product_role("thermostat", role)
    house.publish("1.2.0", 3)
    assert [item.manifest.seq for item in house.repository.firmware("thermostat")] == [1, 2, 3]
    with pytest.raises(KeyFileError, match=r"targets\.pem is not here"):
        Keyring(second).delegate("doorbell")
    with pytest.raises(KeyringError, match="0 of the root keys are here, 2 are needed"):
        Keyring(second).renew_root()


def test_another_key_in_a_keys_place_signs_nothing(house: House, operator: Path) -> None:
    (operator / "product-thermostat.pem").unlink()
    create_key(operator / "product-thermostat.pem")
    with pytest.raises(KeyringError, match=r"product-thermostat\.pem is not the key"):
        house.sign("1.0.0", 1)


def test_delegating_twice_says_the_same(house: House, operator: Path) -> None:
    first = house.keyring.delegate("doorbell")
    assert house.keyring.delegate("doorbell") == first == Keyring(operator).delegate("doorbell")
    (operator / "doorbell.json").unlink()  # the power went before it was written
    again = house.keyring.delegate("doorbell")
    house.repository.accept_targets(again.targets, {"doorbell": again.role})
    assert house.repository.products() == ("thermostat", "doorbell")


@pytest.mark.parametrize("product", ["root", "targets", "snapshot", "timestamp", "Upper", "", "../x", "a" * 65])
def test_products_that_cannot_have_a_role_are_refused(house: House, operator: Path, product: str) -> None:
    before = sorted(operator.iterdir())
    with pytest.raises(TrustError, match=r"cannot be called|is not an id"):
        house.keyring.delegate(product)
    assert sorted(operator.iterdir()) == before


def test_a_product_may_be_called_as_a_key(house: House, operator: Path, tmp_path: Path) -> None:
    root_key = (operator / "root-1.pem").read_bytes()
    for product in ("root-1", "product-thermostat"):
        house.add_product(product)
        house.publish("1.0.0", 1, product=product)
    assert (operator / "root-1.pem").read_bytes() == root_key
    judge = Judge(house.repository, house.keyring.root(), tmp_path / "device")
    assert judge.firmware("root-1/app/1.0.0") is not None


def test_a_floor_only_rises_and_never_above_all_firmware(house: House, tmp_path: Path) -> None:
    house.publish("1.0.0", 1)
    house.publish("1.1.0", 2)
    for seq, reason in ((3, "could install none at all"), (0, "is 1 and can only rise")):
        with pytest.raises(KeyringError, match=reason):
            house.keyring.raise_floor("thermostat", house.role(), "app", seq)
    house.repository.accept_product_role("thermostat", house.keyring.raise_floor("thermostat", house.role(), "app", 2))
    assert house.repository.floors("thermostat") == {"app": 2}
    assert house.keyring.raise_floor("thermostat", house.role(), "app", 2) == house.role()
    with pytest.raises(KeyringError, match="is 2 and can only rise"):
        house.keyring.raise_floor("thermostat", house.role(), "app", 1)
    house.publish("1.2.0", 3)
    assert house.repository.floors("thermostat") == {"app": 2}
    assert Judge(house.repository, house.keyring.root(), tmp_path / "device").firmware("thermostat/app/1.2.0")


def test_of_three_root_keys_two_are_enough(house: House, operator: Path) -> None:
    (operator / "root-2.pem").unlink()
    house.repository.accept_root(house.keyring.renew_root())
    (operator / "root-3.pem").unlink()
    with pytest.raises(KeyringError, match="1 of the root keys are here, 2 are needed"):
        house.keyring.renew_root()
    assert len(house.keyring.roots()) == 2


def test_the_last_online_key_is_not_revoked(house: House) -> None:
    with pytest.raises(KeyringError, match="nothing was signed"):
        house.keyring.revoke_online_key(house.key.public.keyid)
    assert len(house.keyring.roots()) == 1


def _chmod(path: Path) -> None:
    path.chmod(0o644)


def _garble(path: Path) -> None:
    path.write_bytes(b"not a key")


def _rsa(path: Path) -> None:
    path.write_bytes(type(load_key(path)).generate_rsa(size=2048).private_bytes)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_chmod, r"can be read by others.*chmod 600"),
        (_garble, "not a private key in PEM"),
        (_rsa, "not an Ed25519 key"),
        (Path.unlink, "is not here"),
    ],
)
def test_a_key_that_must_not_be_used_is_refused(
    house: House, operator: Path, damage: Callable[[Path], Any], reason: str
) -> None:
    damage(operator / "product-thermostat.pem")
    with pytest.raises(KeyFileError, match=reason) as refusal:
        house.sign("1.0.0", 1)
    assert "PRIVATE" not in str(refusal.value)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    first = OnlineKey.load_or_create(tmp_path / "online.pem").public
    assert OnlineKey.load_or_create(tmp_path / "online.pem").public == first
    with pytest.raises(KeyFileError, match="never overwritten"):
        create_key(tmp_path / "online.pem")
    assert [path.name for path in tmp_path.iterdir()] == ["online.pem"]
    (tmp_path / "file").touch()
    with pytest.raises(KeyFileError, match="could not be written"):
        create_key(tmp_path / "file" / "online.pem")


def test_what_is_signed_is_what_the_manifest_says_on_the_wire(house: House) -> None:
    target = json.loads(house.sign("1.0.0", 1))["signed"]["targets"]["thermostat/app/1.0.0"]
    assert target["custom"]["fleetlift"]["hardware_models"] == ["pi-4"]
    assert target["custom"]["fleetlift"]["seq"] == 1
    assert list(target["hashes"]) == ["sha256"]
