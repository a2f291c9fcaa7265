"""Keys that are not here: securesystemslib's signer URIs, with a second file and with a real PKCS #11 token."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from cloud.key_files import KeyFileError
from cloud.keys.passphrases import Passphrases
from cloud.keys.private_keys import PrivateKeys
from cloud.keys.public_keys import PublicKeyError
from cloud.online_key import OnlineKey
from tests.cloud.keys.holders import Holder, operator_of, publish
from tests.cloud.repositories import House, Judge

PIN = "648219"
MODULES = (Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib64/softhsm/libsofthsm2.so"))


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.add_product("thermostat")
    house.publish("1.0.0", 1)
    return house


@pytest.fixture
def operator(house: House) -> Holder:
    holder = operator_of(house)
    holder.follow()
    return holder


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    path = tmp_path / "vault" / "key.pem"
    path.parent.mkdir()
    path.write_bytes(CryptoSigner.generate_ed25519().private_bytes)
    path.chmod(0o600)
    return f"file2:{path}"


def let_it_sign(house: House, operator: Holder, name: str, *, instead_of: str) -> None:
    """Put the key of a name in the place of the product's."""
    key = operator.keyring.keys.entry(name).key
    assert key is not None
    changes = operator.changes()
    changes.replace_key("thermostat", operator.keyring.keys.signer(instead_of).public_key.keyid, key)
    publish(house, operator.sign(changes.draft()))
    operator.keyring.keys.path(instead_of).unlink()
    operator.follow()


def test_a_key_at_a_uri_signs_in_place_of_a_file(
    house: House, operator: Holder, elsewhere: str, tmp_path: Path
) -> None:
    keys = operator.keyring.keys
    entry = keys.adopt_uri("vault", elsewhere, keys.public_at(elsewhere), "the vault")
    assert (entry.place, entry.uri) == ("uri", elsewhere)
    let_it_sign(house, operator, "vault", instead_of="product-thermostat")
    house.keyring = operator.keyring
    house.publish("1.1.0", 2)
    judge = Judge(house.repository, house.keyring.roots()[0], tmp_path / "device")
    assert judge.firmware("thermostat/app/1.1.0") is not None
    Path(elsewhere.removeprefix("file2:")).unlink()
    with pytest.raises(KeyFileError, match="is not here"):
        Holder(house, operator.directory).sign(_renewal(operator))


def _renewal(operator: Holder):  # type: ignore[no-untyped-def]  # noqa: ANN202
    changes = operator.changes()
    changes.renew("thermostat")
    return changes.draft()


def test_a_uri_has_to_prove_that_it_is_the_key(tmp_path: Path, elsewhere: str) -> None:
    keys = PrivateKeys(tmp_path / "keys")
    with pytest.raises((PublicKeyError, KeyFileError), match=r"nothing was changed|Nothing was signed"):
        keys.adopt_uri("vault", elsewhere, CryptoSigner.generate_ed25519().public_key)
    assert keys.names() == ()


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("ftp:key", "not the address of a key"),
        ("file2:relative.pem", "whole path"),
        ("file2:/nowhere/key.pem", "is not here"),
        ("gcpkms:projects/p", "name the file with --public"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused(tmp_path: Path, uri: str, reason: str) -> None:
    keys = PrivateKeys(tmp_path)
    with pytest.raises(KeyFileError, match=reason):
        keys.adopt_uri("a", uri, keys.public_at(uri) if "kms" in uri else CryptoSigner.generate_ed25519().public_key)
    assert keys.names() == ()


def test_a_file_that_others_can_read_is_no_better_for_being_at_a_uri(tmp_path: Path, elsewhere: str) -> None:
    Path(elsewhere.removeprefix("file2:")).chmod(0o644)
    with pytest.raises(KeyFileError, match="can be read by others"):
        PrivateKeys(tmp_path).public_at(elsewhere)


def test_the_servers_key_may_be_at_a_uri_too(house: House, operator: Holder, elsewhere: str, tmp_path: Path) -> None:
    keys = PrivateKeys(tmp_path / "cloud")
    keys.adopt_uri("online-next", elsewhere, keys.public_at(elsewhere))
    following = house.repository.prepare_online_key()
    changes = operator.changes()
    changes.replace_key("online", house.key.public.keyid, following)
    publish(house, operator.sign(changes.draft()))
    assert not (tmp_path / "cloud" / "online.pem").exists()
    house.key = OnlineKey.load_or_create(tmp_path / "cloud" / "online.pem")
    assert house.key.public.keyid == following.keyid
    judge = Judge(house.reopen(), house.keyring.roots()[0], tmp_path / "device")
    assert judge.firmware("thermostat/app/1.0.0") is not None


def test_an_hsm_signs_a_products_role(
    house: House, operator: Holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SoftHSM2: a PKCS #11 token whose key never leaves it. securesystemslib signs with ECDSA there."""
    module, tool = next((path for path in MODULES if path.exists()), None), shutil.which("softhsm2-util")
    missing = module is None or tool is None or importlib.util.find_spec("pkcs11") is None
    if missing or module is None or tool is None:
        assert not os.environ.get("CI"), "softhsm2 and python-pkcs11 are missing"
        pytest.skip("softhsm2 and python-pkcs11 are not installed")
    monkeypatch.setenv("SOFTHSM2_CONF", str(softhsm_token(tmp_path, tool)))
    monkeypatch.setenv("PYKCS11LIB", str(module))
    source = tmp_path / "generated.pem"
    source.write_bytes(CryptoSigner.generate_ecdsa().private_bytes)
    command = [tool, "--import", str(source), "--token", "release", "--label", "k", "--id", "02", "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True)
    source.unlink()
    asked: list[str] = []
    holder = Holder(house, operator.directory)
    holder.keyring.keys.passphrases = Passphrases(lambda what: asked.append(what) or PIN)  # type: ignore[func-returns-value]
    keys, uri = holder.keyring.keys, "hsm:2?label=release"
    key = keys.public_at(uri)
    assert key.scheme == "ecdsa-sha2-nistp256"
    keys.adopt_uri("hsm", uri, key, "the HSM")
    let_it_sign(house, holder, "hsm", instead_of="product-thermostat")
    house.keyring = holder.keyring
    house.publish("1.1.0", 2)
    assert house.repository.signers("thermostat") == (key.keyid,)
    judge = Judge(house.repository, house.keyring.roots()[0], tmp_path / "device")
    assert judge.firmware("thermostat/app/1.1.0") is not None
    assert len(asked) == len(set(asked)) == 1, "the PIN is asked for once a command"
    wrong = Holder(house, operator.directory)
    wrong.keyring.keys.passphrases = Passphrases(lambda _what: "0000")
    with pytest.raises(KeyFileError, match=r"hsm:2\?label=release cannot be used"):
        wrong.sign(_renewal(wrong))


def softhsm_token(directory: Path, tool: str) -> Path:
    """Make a token named `release`; return the configuration that knows it."""
    tokens = directory / "tokens"
    tokens.mkdir()
    conf = directory / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    command = [tool, "--init-token", "--free", "--label", "release", "--so-pin", PIN, "--pin", PIN]
    environment = {"SOFTHSM2_CONF": str(conf), "PATH": os.environ["PATH"]}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return conf
