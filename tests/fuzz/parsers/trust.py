"""Targets: TUF metadata, as a device and as the server take it.

Each comes in two ways. As it is: then it stops at the first signature. And signed anew, by the keys of whoever should
have signed it, so that what a thief of a key may say is tried as well.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from securesystemslib.formats import encode_canonical
from tuf.api.metadata import MetaFile  # type: ignore[attr-defined]  # exported without saying so

from cloud.key_files import load_key
from cloud.online_key import OnlineKey
from cloud.roles import ConflictingRoleError, TrustError
from cloud.trust import MetadataRepository
from device_agent.trust import DeviceTrust
from device_agent.trust import TrustError as DeviceTrustError
from protocol.codec import decode, encode
from protocol.down import Bundle
from protocol.errors import MessageError
from protocol.signing import Envelope, pae
from tests.cloud.repositories import House
from tests.fuzz.child import run_one_of
from tests.fuzz.targets import Parse, Target
from tests.protocol.samples import DIGEST_A
from tests.support.repository import NOW_S, Repository, signature

PRODUCT: Final = "thermostat"
PATH: Final = f"{PRODUCT}/app/1.0.0"
WORDS: Final = (
    b"thermostat", b"pump", b"targets", b"snapshot", b"timestamp", b"root", b"ed25519", b"ecdsa-sha2-nistp256", b"rsa",
    b"rsassa-pss-sha256", b"sha256", b"sha512", b"keyval", b"public", b"terminating", b"paths", b"path_hash_prefixes",
    b"succinct_roles", b"name_prefix", b"bit_length", b"x-fleetlift-minimum-seq", b"custom", b"1.0.31", b"2.0.0",
    b"-----BEGIN PUBLIC KEY-----\n", b"2100-01-01T00:00:00Z",
)  # fmt: skip


@functools.cache
def repository() -> Repository:
    """Return what a device is fed from, made once."""
    made = Repository(PRODUCT, "pump")
    made.add_firmware(b"the image", seq=3)
    made.raise_floor(PRODUCT, {"app": 2})
    made.publish()
    return made


def signed_anew(
    data: bytes, signers: list[Any], change: Callable[[dict[str, Any]], None] = lambda _signed: None
) -> bytes:
    """Return metadata with good signatures over whatever it says; as it was where it cannot be signed."""
    try:
        metadata = json.loads(data)
        signed = metadata["signed"]
        change(signed)
        canonical = (encode_canonical(signed) or "").encode()
        metadata["signatures"] = [
            {"keyid": signer.public_key.keyid, "sig": signer.sign(canonical).signature} for signer in signers
        ]
        return json.dumps(metadata).encode()
    except Exception:  # noqa: BLE001 - whatever it is, it is tried as it is
        return data


def _naming(name: str, data: bytes) -> Callable[[dict[str, Any]], None]:
    """Return a change that makes a snapshot, or timestamp, name these bytes."""

    def change(signed: dict[str, Any]) -> None:
        meta = signed["meta"]
        version = json.loads(data)["signed"]["version"]
        if name in meta and type(version) is int:
            meta[name] = MetaFile.from_data(version, data, ["sha256"]).to_dict()

    return change


def _good(signed: Repository, bundle: Bundle) -> Bundle:
    """Return a bundle with every file signed anew, and named as it now is by the file above it."""
    files = {name: text.encode() for name, text in bundle.files.items()}
    by_role = {name.removesuffix(".json").rpartition(".")[2]: name for name in files}

    def sign(role: str, signer: Any, change: Callable[[dict[str, Any]], None] = lambda _signed: None) -> bytes:
        name = by_role.get(role)
        if name is None:
            return b"{}"
        files[name] = signed_anew(files[name], [signer], change)
        return files[name]

    targets = sign("targets", signed.targets_signer)
    role = sign(PRODUCT, signed.role_signers[PRODUCT])

    def name_both(signed: dict[str, Any]) -> None:
        _naming("targets.json", targets)(signed)
        _naming(f"{PRODUCT}.json", role)(signed)

    snapshot = sign("snapshot", signed.online_signer, name_both)
    sign("timestamp", signed.online_signer, _naming("snapshot.json", snapshot))
    texts = {name: content.decode("utf-8", errors="replace") for name, content in files.items()}
    return Bundle(product=bundle.product, root_version=bundle.root_version, files=texts)


def _nobody(_name: str) -> bytes | None:
    raise TimeoutError("nobody answers")


def device(*, anew: bool) -> Callable[[Path], contextlib.AbstractContextManager[Parse]]:
    """A device that is offered a bundle, refreshes from it and looks its firmware up."""

    @contextlib.contextmanager
    def make(directory: Path) -> Iterator[Parse]:
        state = directory / "state"

        def parse(content: bytes) -> object:
            bundle = decode(content, Bundle)
            if anew:
                with contextlib.suppress(MessageError):
                    bundle = _good(repository(), bundle)
            shutil.rmtree(state, ignore_errors=True)
            trust = DeviceTrust(
                state,
                repository().bootstrap,
                PRODUCT,
                ask=repository().files.get if anew else _nobody,
                now=lambda: NOW_S,
            )
            if not trust.offer_bundle(bundle):
                return "ignored"
            trust.refresh()
            floors = trust.floors()
            firmware = trust.signed_firmware(PATH)
            assert firmware.manifest.product == PRODUCT
            return f"{len(floors)} {firmware.length}"

        yield parse

    return make


@contextlib.contextmanager
def device_root(directory: Path) -> Iterator[Parse]:
    """A root that the device was given, or kept; signed anew with the keys of the one before. Then a message by it."""
    state = directory / "state"
    history = state / "root_history"
    envelope = Envelope(type="t", payload="{}", signatures=(signature(repository().online_signer, pae("t", b"{}")),))

    def parse(content: bytes) -> object:
        shutil.rmtree(state, ignore_errors=True)
        history.mkdir(parents=True)
        anew = signed_anew(content[1:], repository().root_signers)
        first = content[:1] == b"1"
        (history / "2.root.json").write_bytes(anew)
        trust = DeviceTrust(state, anew if first else repository().bootstrap, PRODUCT, ask=_nobody, now=lambda: NOW_S)
        with contextlib.suppress(DeviceTrustError):
            trust.verify(pae(envelope.type, b"{}"), envelope.signatures)
        return trust.root_version

    yield parse


@contextlib.contextmanager
def device_signature(directory: Path) -> Iterator[Parse]:
    """Signatures of a notice: whatever they are, they are good or refused."""
    trust = DeviceTrust(directory / "state", repository().bootstrap, PRODUCT, ask=_nobody, now=lambda: NOW_S)

    def parse(content: bytes) -> object:
        envelope = decode(content, Envelope)
        trust.verify(pae(envelope.type, envelope.payload.encode()), envelope.signatures)
        assert (envelope.type, envelope.payload) == ("t", "{}")
        return True

    yield parse


@contextlib.contextmanager
def clock_file(directory: Path) -> Iterator[Parse]:
    """`clock.json` and `timestamp.json` as a damaged disk may hold them."""
    state = directory / "state"
    state.mkdir()
    bundle = repository().bundle(PRODUCT)

    def parse(content: bytes) -> object:
        (state / "clock.json").write_bytes(content)
        (state / "timestamp.json").write_bytes(content)
        trust = DeviceTrust(state, repository().bootstrap, PRODUCT, ask=_nobody, now=lambda: NOW_S)
        return trust.offer_bundle(bundle)

    yield parse


@functools.cache
def template() -> tempfile.TemporaryDirectory[str]:
    """Return a directory with a keyring and a repository, made once; it goes with this process."""
    directory = tempfile.TemporaryDirectory(prefix="fleetlift-fuzz-")
    house = House(Path(directory.name))
    house.add_product(PRODUCT)
    house.publish("1.0.0", 1)
    nexts = {"root": house.keyring.root(), "targets": house.keyring.targets(), PRODUCT: house.sign("1.1.0", 2)}
    for kind, data in nexts.items():
        metadata = json.loads(data)
        metadata["signed"]["version"] += kind != PRODUCT
        signed = signed_anew(json.dumps(metadata).encode(), _signers(house.directory, kind))
        (house.directory / f"next.{kind}.json").write_bytes(signed)
    return directory


def _signers(directory: Path, kind: str) -> list[Any]:
    return [load_key(path) for path in sorted((directory / "operator").glob(KEYS[kind]))]


def server(kind: str) -> Callable[[Path], contextlib.AbstractContextManager[Parse]]:
    """The server takes root, targets or a product's role, as it comes or signed by those who may."""

    @contextlib.contextmanager
    def make(directory: Path) -> Iterator[Parse]:
        pristine, cloud = Path(template().name) / "cloud", directory / "cloud"
        signers = _signers(pristine.parent, kind)
        opened: list[MetadataRepository] = []

        def restore() -> MetadataRepository:
            shutil.rmtree(cloud, ignore_errors=True)
            shutil.copytree(pristine, cloud)
            return MetadataRepository(cloud / "metadata", OnlineKey.load_or_create(cloud / "online.pem"))

        def take(repository: MetadataRepository, data: bytes) -> object:
            match kind:
                case "root":
                    repository.accept_root(data)
                    return None
                case "targets":
                    repository.accept_targets(data)
                    return None
            taken = len(repository.accept_product_role(PRODUCT, data))
            assert len(repository.firmware(PRODUCT)) >= 1
            assert repository.signers(PRODUCT)
            repository.floors(PRODUCT)
            encode(repository.bundle(PRODUCT))
            return taken

        def parse(content: bytes) -> object:
            if not opened:
                opened.append(restore())
            repository = opened[0]
            data = signed_anew(content[1:], signers) if content[:1] == b"s" else content[1:]
            before = repository.version, repository.root_version
            try:
                taken = take(repository, data)
            except TrustError:
                assert (repository.version, repository.root_version) == before
                raise
            if (repository.version, repository.root_version) != before:  # a restart understands what was taken
                opened.clear()
                MetadataRepository(cloud / "metadata", OnlineKey.load_or_create(cloud / "online.pem"))
            return taken

        yield parse

    return make


def server_seeds(kind: str) -> list[bytes]:
    """Return the next metadata of a role, both ways."""
    data = (Path(template().name) / f"next.{kind}.json").read_bytes()
    return [b"s" + data, b"-" + data]


KEYS: Final = {"root": "root-*.pem", "targets": "targets.pem", PRODUCT: f"product-{PRODUCT}.pem"}
_DEVICE: Final = ("device_agent.trust.DeviceTrust", "device_agent.metadata.BundleFetcher")

TARGETS: Final[tuple[Target, ...]] = (
    Target(
        name="trust.bundle",
        make=device(anew=False),
        seeds=lambda: [encode(repository().bundle(PRODUCT))],
        shape="json",
        expected=(MessageError, DeviceTrustError),
        covers=_DEVICE,
        words=WORDS,
        heavy=True,
    ),
    Target(
        name="trust.bundle_signed",
        make=device(anew=True),
        seeds=lambda: [encode(repository().bundle(PRODUCT))],
        shape="json",
        expected=(MessageError, DeviceTrustError),
        covers=_DEVICE,
        words=WORDS,
        heavy=True,
    ),
    Target(
        name="trust.root",
        make=device_root,
        seeds=lambda: [
            mark + repository().bootstrap.replace(b'"version":1}', version).replace(b'"version": 1\n', version)
            for mark in (b"1", b"2")
            for version in (b'"version":1}', b'"version":2}')
        ],
        shape="json",
        expected=(DeviceTrustError,),
        covers=("device_agent.trust.DeviceTrust", "device_agent.metadata.newest_root"),
        words=WORDS,
        heavy=True,
    ),
    Target(
        name="trust.signature",
        make=device_signature,
        seeds=lambda: [
            encode(
                Envelope(type="t", payload="{}", signatures=(signature(repository().online_signer, pae("t", b"{}")),))
            ),
            b'{"type":"t","payload":"{}","signatures":[{"keyid":"%s","sig":"0f"}]}' % DIGEST_A.encode(),
        ],
        shape="json",
        expected=(MessageError, DeviceTrustError),
        covers=("device_agent.trust.DeviceTrust.verify",),
    ),
    Target(
        name="trust.files",
        make=clock_file,
        seeds=lambda: [
            b'{"refreshed_at_s": 1800000000.5}',
            repository().bundle(PRODUCT).files["timestamp.json"].encode(),
        ],
        shape="json",
        covers=("device_agent.trust.DeviceTrust",),
    ),
    *(
        Target(
            name=f"server.{kind}",
            make=server(kind),
            seeds=lambda kind=kind: server_seeds(kind),  # type: ignore[misc]
            shape="json",
            expected=(TrustError, ConflictingRoleError),
            covers=("cloud.trust.MetadataRepository", "cloud.roles.parse"),
            words=WORDS,
            heavy=True,
        )
        for kind in ("root", "targets", PRODUCT)
    ),
)

if __name__ == "__main__":
    sys.exit(run_one_of(TARGETS))
