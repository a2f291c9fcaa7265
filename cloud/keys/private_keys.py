"""The private keys of one keyring: files that lie here, and URIs of keys that a KMS or an HSM keeps.

`<name>.pem` is a private key, `<name>.pub.json` its public part, so that nobody is asked for a passphrase only to be
told that it is another key which is needed. Where the public part holds a `uri` (securesystemslib's: `hsm:`,
`awskms:`, `gcpkms:`, `azurekms:`, `file2:`, …) the private part is there, and not here.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import unquote_plus

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import (  # type: ignore[attr-defined]  # exported without saying so
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    HSMSigner,
    Key,
    SecretsHandler,
    Signature,
    Signer,
    SSlibKey,
)

from cloud.durable import make_private_directory, write_durably
from cloud.key_files import (
    SUFFIX,
    KeyFileError,
    check_private,
    create_key,
    is_protected,
    load_key,
    protect_key,
)
from cloud.keys import public_keys
from cloud.keys.passphrases import PassphraseError, Passphrases
from cloud.keys.public_keys import PublicKeyError, from_document, labelled, to_document
from protocol.errors import FleetliftError, IdentityError
from protocol.identity import check_id

FILE_SCHEME: Final = "file2:"
HSM_SCHEME: Final = "hsm:"
_PROOF: Final = b"fleetlift: this key is where its URI says\n"

T = TypeVar("T")
Place = Literal["here", "uri", "elsewhere"]


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key that this keyring knows by name."""

    name: str
    key: Key | None
    """Unknown for a key file that came without its public part and has not been opened."""
    uri: str | None
    place: Place
    protected: bool


class PrivateKeys:
    """The keys in one private directory. A key is opened when it is needed, and again only if its file has changed."""

    def __init__(self, directory: Path, passphrases: Passphrases | None = None) -> None:
        self.directory = directory
        self.passphrases = passphrases or Passphrases()
        self._opened: dict[str, tuple[object, Signer]] = {}

    def path(self, name: str) -> Path:
        """Return where the private part of a key lies, or would lie."""
        return self.directory / f"{name}{SUFFIX}"

    def uri_of(self, name: str) -> str | None:
        """Return where a key is, if it is not in a file here; raises KeyFileError, PublicKeyError."""
        return self._public(name)[1]

    def names(self) -> tuple[str, ...]:
        """Return the names of all keys, sorted."""
        found = {path.name.removesuffix(SUFFIX) for path in self.directory.glob(f"*{SUFFIX}")}
        found |= {path.name.removesuffix(public_keys.SUFFIX) for path in self.directory.glob(f"*{public_keys.SUFFIX}")}
        return tuple(sorted(name for name in found if not name.startswith(".")))

    def entries(self) -> tuple[KeyEntry, ...]:
        """Return all keys by name, none of them opened; raises KeyFileError, PublicKeyError."""
        return tuple(self.entry(name) for name in self.names())

    def entry(self, name: str) -> KeyEntry:
        """Return one key; raises KeyFileError, PublicKeyError."""
        key, uri = self._public(name)
        here = self.path(name).exists()
        place: Place = "uri" if uri is not None else "here" if here else "elsewhere"
        protected = place == "here" and is_protected(self.path(name))
        if key is None and here and not protected:
            key = self.signer(name).public_key
        return KeyEntry(name, key, uri, place, protected)

    def create(self, name: str, label: str = "") -> KeyEntry:
        """Make a key of this name, behind the chosen passphrase; raises KeyFileError, PassphraseError."""
        _check_name(name)
        if name in self.names():
            raise KeyFileError(f"there is a key {name} in {self.directory} already; a key is never overwritten")
        labelled(CryptoSigner.generate_ed25519().public_key, label)  # refused before anything is made
        signer = create_key(self.path(name), self.passphrases.for_new_keys())
        self._opened[name] = (self._stamp(name), signer)
        return self._describe(name, labelled(signer.public_key, label))

    def load_or_create(self, name: str) -> Signer:
        """Return the signer of a key, made now if there is none; raises KeyFileError, PassphraseError."""
        make_private_directory(self.directory)
        if self.path(name).exists() or self._public(name)[1] is not None:
            signer = self.signer(name)
        else:
            signer = create_key(self.path(name), self.passphrases.for_new_keys())
            self._opened[name] = (self._stamp(name), signer)
        if not self._public_path(name).exists():
            self._describe(name, signer.public_key)
        return signer

    def public_at(self, uri: str, key: Key | None = None) -> Key:
        """Return the public part of the key at `uri`: the one that was named, else read from there.

        `file2:` and `hsm:` can be read; raises KeyFileError.
        """
        return key if key is not None else self._read_public(uri)

    def adopt_uri(self, name: str, uri: str, key: Key, label: str = "") -> KeyEntry:
        """Take note of a key whose private part is at `uri`; it has to sign something to prove it.

        Raises:
            KeyFileError: the name is taken, or the URI's signer fails.
            PublicKeyError: the URI's key is another.
        """
        _check_name(name)
        if name in self.names():
            raise KeyFileError(f"there is a key {name} in {self.directory} already; nothing was changed")
        make_private_directory(self.directory)
        signer = self._at(uri, key)
        try:
            key.verify_signature(signer.sign(_PROOF), _PROOF)
        except FleetliftError:
            raise
        except Exception as error:  # signers may raise what they like
            raise PublicKeyError(
                f"{uri} does not sign with the key that was named ({error}); nothing was changed"
            ) from error
        self._opened[name] = (None, signer)
        return self._describe(name, labelled(key, label or public_keys.label_of(key)), uri)

    def protect(self, names: Iterable[str], passphrase: bytes | None) -> tuple[str, ...]:
        """Put key files behind a new passphrase; return which. All are opened before the first is written."""
        chosen = tuple(names)
        for name in chosen:
            if self.entry(name).place != "here":
                raise KeyFileError(f"the key {self.path(name)} is not here; no key was changed")
            self.signer(name)
        for name in chosen:
            protect_key(self.path(name), self.passphrases, passphrase)
        return chosen

    def signer(self, name: str) -> Signer:
        """Return the signer of a key.

        Raises:
            KeyFileError: it is not here, not usable, or not the key that its public part says.
            PassphraseError: nobody says its passphrase.
        """
        stamp = self._stamp(name)
        before, opened = self._opened.get(name, (None, None))
        if opened is not None and before == stamp:
            return opened
        key, uri = self._public(name)
        if uri is not None and key is not None:
            signer: Signer = self._at(uri, key)
        else:
            signer = load_key(self.path(name), self.passphrases)
        self._opened[name] = (stamp, signer)
        if key is None and is_protected(self.path(name)):
            self._describe(name, signer.public_key)  # so that it need not be opened to be known
        return signer

    def signers(self, keyids: Collection[str], likely: Sequence[str], *, limit: int | None = None) -> list[Signer]:
        """Return the signers whose keys are among `keyids` (by id, each once), at most `limit`.

        Keys whose public part is known to be another are never opened. Of those whose public part is not known the
        `likely` names are opened first, and what is wrong with them is raised; the rest is skipped if it cannot be.
        """
        found: dict[str, Signer] = {}
        public = {name: self._public(name)[0] for name in self.names()}
        known = [name for name, key in public.items() if key is not None and key.keyid in keyids]
        unknown = [name for name, key in public.items() if key is None]
        for name in [*known, *(name for name in likely if name in unknown), *(set(unknown) - set(likely))]:
            if limit is not None and len(found) >= limit:
                break
            if not (self.path(name).exists() or self._public(name)[1] is not None):
                continue
            try:
                signer = self.signer(name)
            except (KeyFileError, PassphraseError):
                if name in known or name in likely:
                    raise
                continue
            if signer.public_key.keyid in keyids:
                found.setdefault(signer.public_key.keyid, signer)
        return list(found.values())

    def _stamp(self, name: str) -> object:
        try:
            stat = self.path(name).stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode

    def _public_path(self, name: str) -> Path:
        return self.directory / f"{name}{public_keys.SUFFIX}"

    def _public(self, name: str) -> tuple[Key | None, str | None]:
        path = self._public_path(name)
        try:
            return from_document(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None, None
        except OSError as error:
            raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error

    def _describe(self, name: str, key: Key, uri: str | None = None) -> KeyEntry:
        write_durably(self._public_path(name), to_document(key, uri=uri))
        return self.entry(name)

    def _read_public(self, uri: str) -> Key:
        try:
            if uri.startswith(FILE_SCHEME):
                pem = _checked_file(uri).read_bytes()
                return SSlibKey.from_crypto(load_pem_private_key(pem, None).public_key())
            if uri.startswith(HSM_SCHEME):
                number, _, label = uri.removeprefix(HSM_SCHEME).partition("?label=")
                secret, wanted = self._secret_of(uri), int(number) if number else None
                secret(HSMSigner.SECRETS_HANDLER_MSG)  # asked for here: nobody is asked in another thread
                return _apart(lambda: HSMSigner.import_(wanted, unquote_plus(label) or None, secret)[1])
        except FleetliftError:
            raise
        except Exception as error:  # signers may raise what they like
            raise _failed(uri, error) from error
        raise KeyFileError(
            f"the public part of {uri} is not known; nothing was changed. Fetch it as PEM with the tool of your KMS, "
            "and name the file with --public"
        )

    def _at(self, uri: str, key: Key) -> Signer:
        scheme = uri.partition(":")[0]
        if scheme not in SIGNER_FOR_URI_SCHEME:
            known = ", ".join(f"{name}:" for name in sorted(SIGNER_FOR_URI_SCHEME))
            raise KeyFileError(f"{uri!r:.200} is not the address of a key: it begins with one of {known}")
        if uri.startswith(FILE_SCHEME):
            _checked_file(uri)
        try:
            secret = self._secret_of(uri)
            if uri.startswith(HSM_SCHEME):
                secret(HSMSigner.SECRETS_HANDLER_MSG)
            return UriSigner(Signer.from_priv_key_uri(uri, key, secret), uri)
        except FleetliftError:
            raise
        except Exception as error:  # signers may raise what they like
            raise _failed(uri, error) from error

    def _secret_of(self, uri: str) -> "_SecretOf":
        return _SecretOf(self.passphrases, uri)


@dataclass(frozen=True, slots=True)
class _SecretOf:
    """Says the PIN of a token once a command."""

    passphrases: Passphrases
    uri: str

    def __call__(self, secret: str) -> str:
        return self.passphrases.secret(f"{self.uri} ({secret})").decode()


class UriSigner(Signer):
    """A signer somewhere else, whose failures are sentences."""

    def __init__(self, signer: Signer, uri: str) -> None:
        self._signer, self._uri = signer, uri

    @property
    def public_key(self) -> Key:
        """The key's public part."""
        return self._signer.public_key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> Signer:
        """Return a signer; not registered under any scheme."""
        return cls(Signer.from_priv_key_uri(priv_key_uri, public_key, secrets_handler), priv_key_uri)

    def sign(self, payload: bytes) -> Signature:
        """Sign; raises KeyFileError."""
        try:
            return (
                _apart(lambda: self._signer.sign(payload))
                if isinstance(self._signer, HSMSigner)
                else self._signer.sign(payload)
            )
        except FleetliftError:
            raise
        except Exception as error:  # signers may raise what they like
            raise _failed(self._uri, error) from error


def _failed(uri: str, error: Exception) -> KeyFileError:
    return KeyFileError(
        f"the key at {uri} cannot be used: {type(error).__name__}: {error}"[:400] + ". Nothing was signed"
    )


def _checked_file(uri: str) -> Path:
    path = Path(uri.removeprefix(FILE_SCHEME))
    if not path.is_absolute():
        raise KeyFileError(f"{uri}: the file's whole path is needed, because commands run in many directories")
    check_private(path)
    if is_protected(path):
        raise KeyFileError(
            f"{path} is behind a passphrase, which file2: does not know; import it as a key file instead"
        )
    return path


def _check_name(name: str) -> None:
    try:
        check_id(name, "key name")
    except IdentityError as error:
        raise KeyFileError(f"{error}; nothing was made") from None


def _apart(work: Callable[[], T]) -> T:
    """Do what a token's module does in a thread of its own.

    It may use the OpenSSL that Python's TLS uses, and leave an error in the thread's queue: TLS would take it
    for one of its own, and give a good connection up (SSL_get_error(3): the queue has to be empty).
    """
    with ThreadPoolExecutor(1, thread_name_prefix="token") as thread:
        return thread.submit(work).result()
