"""Private keys at rest: behind passphrases that are asked for once, for one user alone, or not here at all."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from cloud.cli.passphrases import passphrases_from, read_passphrase
from cloud.key_files import KeyFileError, create_key, is_protected, load_key
from cloud.keyring import Keyring
from cloud.keys.passphrases import PassphraseError, Passphrases
from cloud.keys.private_keys import PrivateKeys
from cloud.keys.public_keys import PublicKeyError, check_scheme, from_document, label_of, labelled, to_document
from protocol.errors import UserError
from tests.cloud.repositories import House

SECRET = "correct horse battery"


class Person:
    """Somebody at the terminal, who counts how often he is asked."""

    def __init__(self, *said: str) -> None:
        self.said, self.asked = list(said), list[str]()

    def __call__(self, what: str) -> str | None:
        self.asked.append(what)
        return self.said.pop(0) if self.said else None

    def choose(self) -> str | None:
        return self("a new one")


def asking(*said: str) -> tuple[Person, Passphrases]:
    person = Person(*said)
    return person, Passphrases(person, person.choose)


def test_a_protected_key_is_standard_pkcs8_and_others_tools_open_it(tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    made = create_key(path, SECRET.encode()).public_key
    assert path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    openssl = shutil.which("openssl")
    assert openssl is not None
    command = [openssl, "pkey", "-in", str(path), "-passin", f"pass:{SECRET}", "-noout", "-text_pub"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    public = "".join(said.partition("pub:")[2].split()).replace(":", "")
    assert public == made.keyval["public"]
    command = [openssl, "asn1parse", "-in", str(path)]
    details = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "scrypt" in details
    assert "aes-256-cbc" in details
    assert load_key(path, Passphrases(lambda _what: SECRET)).public_key == made


def test_a_key_that_openssl_protected_is_opened_too(tmp_path: Path) -> None:
    path, openssl = tmp_path / "a.pem", shutil.which("openssl") or ""
    command = [openssl, "genpkey", "-algorithm", "ed25519", "-aes256", "-pass", f"pass:{SECRET}", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.chmod(0o600)
    person, passphrases = asking(SECRET)
    keys = PrivateKeys(tmp_path, passphrases)
    assert keys.entry("a").key is None, "it is not opened to be listed"
    keyid = keys.signer("a").public_key.keyid
    assert person.asked == [str(path)]
    entry = PrivateKeys(tmp_path).entry("a")
    assert entry.key is not None
    assert entry.key.keyid == keyid, "once opened it is known"


def test_a_wrong_passphrase_and_none_at_all_are_sentences(tmp_path: Path) -> None:
    create_key(tmp_path / "a.pem", SECRET.encode())
    with pytest.raises(PassphraseError, match=r"not the passphrase of .*a\.pem; nothing was signed") as refusal:
        load_key(tmp_path / "a.pem", Passphrases(lambda _what: "something else"))
    assert "something else" not in str(refusal.value)
    with pytest.raises(PassphraseError, match=r"protected by a passphrase.*--passphrase-file"):
        load_key(tmp_path / "a.pem")
    with pytest.raises(PassphraseError, match="8 characters or more"):
        Passphrases(choose=lambda: "short").for_new_keys()


def test_one_passphrase_is_asked_for_once_for_all_keys(tmp_path: Path) -> None:
    person, passphrases = asking(SECRET)
    house = House(tmp_path / "house")
    keyring = Keyring.create(tmp_path / "mine", house.key.public, passphrases=passphrases)
    assert person.asked == ["a new one"]
    assert all(is_protected(path) for path in (tmp_path / "mine").glob("*.pem"))

    person, passphrases = asking(SECRET)
    keyring = Keyring(tmp_path / "mine", passphrases=passphrases)
    keyring.delegate("thermostat")
    keyring.renew_root()
    assert person.asked == [str(tmp_path / "mine" / "targets.pem")]
    assert is_protected(tmp_path / "mine" / "product-thermostat.pem"), "a new key is behind the one that was said"


def test_keys_with_passphrases_of_their_own_are_asked_for_one_by_one(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        create_key(tmp_path / f"{name}.pem", f"passphrase-{name[0].replace('c', 'a')}".encode())
    person, passphrases = asking("passphrase-a", "passphrase-b")
    keys = PrivateKeys(tmp_path, passphrases)
    for name in ("a", "b", "c"):
        keys.signer(name)
    assert [Path(what).name for what in person.asked] == ["a.pem", "b.pem"]


def test_a_key_is_protected_and_changed_and_laid_open(tmp_path: Path) -> None:
    before = create_key(tmp_path / "a.pem").public_key
    PrivateKeys(tmp_path).protect(["a"], SECRET.encode())
    assert is_protected(tmp_path / "a.pem")
    with pytest.raises(PassphraseError):
        PrivateKeys(tmp_path).protect(["a"], b"another one")
    _, passphrases = asking(SECRET)
    PrivateKeys(tmp_path, passphrases).protect(["a"], b"another one")
    assert load_key(tmp_path / "a.pem", Passphrases(lambda _what: "another one")).public_key == before
    _, passphrases = asking("another one")
    PrivateKeys(tmp_path, passphrases).protect(["a"], None)
    assert load_key(tmp_path / "a.pem").public_key == before


def test_keys_that_are_protected_together_are_all_opened_before_the_first_is_written(tmp_path: Path) -> None:
    create_key(tmp_path / "a.pem")
    create_key(tmp_path / "b.pem", b"somebody else's")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(PassphraseError):
        PrivateKeys(tmp_path).protect(["a", "b"], SECRET.encode())
    assert before.items() <= {path: path.read_bytes() for path in tmp_path.glob("*.pem")}.items()


def _readable(path: Path) -> None:
    path.chmod(0o640)


def _empty(path: Path) -> None:
    path.write_text("\n")


@pytest.mark.parametrize(
    ("damage", "reason"), [(_readable, "can be read by others"), (_empty, "holds no passphrase"), (os.unlink, "cannot")]
)
def test_a_passphrase_file_that_must_not_be_used_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "passphrase"
    path.write_text(f"{SECRET}\nanother line\n")
    path.chmod(0o600)
    assert read_passphrase(path) == SECRET
    damage(path)
    with pytest.raises(UserError, match=reason):
        read_passphrase(path)


def test_without_terminal_and_file_new_keys_are_open_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLEETLIFT_PASSPHRASE_FILE", raising=False)
    said: list[str] = []
    assert passphrases_from(None, said.append).for_new_keys() is None
    assert "key protect" in said[0]
    assert passphrases_from(None, said.append, without=True).for_new_keys() is None
    assert len(said) == 1
    (tmp_path / "file").write_text(SECRET)
    (tmp_path / "file").chmod(0o600)
    monkeypatch.setenv("FLEETLIFT_PASSPHRASE_FILE", str(tmp_path / "file"))
    assert passphrases_from(None, said.append).for_new_keys() == SECRET.encode()


def test_a_public_key_travels_with_whose_it_is(tmp_path: Path) -> None:
    keys = PrivateKeys(tmp_path)
    entry = keys.create("alice", "Alice \u00c9.")
    assert entry.key is not None
    read, uri = from_document(to_document(entry.key), "it")
    assert (read, label_of(read), uri) == (entry.key, "Alice \u00c9.", None)
    with pytest.raises(KeyFileError, match="never overwritten"):
        keys.create("alice")
    with pytest.raises(KeyFileError, match="is not an id"):
        keys.create("../alice")
    with pytest.raises(PublicKeyError, match="cannot be whose"):
        keys.create("bob", "bell\a")
    assert keys.names() == ("alice",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a public key"),
        (b"{}", "not a public key"),
        (b"[" * 9_000, "not a public key"),
        (b"x" * 20_000, "more than 16384"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a public key in PEM"),
        (b"-----BEGIN PRIVATE KEY-----\n", "is a PRIVATE key"),
        (b'{"keyid": "ab", "keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "zz"}}', "not a public key"),
    ],
)
def test_what_is_no_public_key_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(PublicKeyError, match=reason):
        from_document(content, "it")


def test_a_key_under_an_id_of_somebodys_choice_is_refused() -> None:
    key = CryptoSigner.generate_ed25519().public_key
    twin = to_document(key).replace(key.keyid.encode(), b"ab" * 32)
    with pytest.raises(PublicKeyError, match="does not have the id"):
        from_document(twin, "it")
    louder = to_document(key).replace(key.keyval["public"].encode(), key.keyval["public"].upper().encode())
    if louder != to_document(key):
        twin_id = CryptoSigner.generate_ed25519().public_key.keyid.encode()
        with pytest.raises(PublicKeyError, match="does not have the id"):
            from_document(louder.replace(key.keyid.encode(), twin_id), "it")


def test_what_pure_python_cannot_check_is_refused_unless_said() -> None:
    for signer in (CryptoSigner.generate_ecdsa(), CryptoSigner.generate_rsa(size=2048)):
        key = labelled(signer.public_key, "")
        with pytest.raises(PublicKeyError, match=r"can check Ed25519 alone.*--needs-cryptography"):
            check_scheme(key, needs_cryptography=False)
        check_scheme(key, needs_cryptography=True)
        assert from_document(to_document(key), "it")[0] == key
