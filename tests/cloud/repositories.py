"""What tests of trust stand on: a keyring, a repository, a clock that is data, and python-tuf's own client as judge."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # exported without saying so
from tuf.ngclient import FetcherInterface, Updater  # type: ignore[attr-defined]  # the same

from cloud.keyring import Keyring
from cloud.online_key import OnlineKey
from cloud.trust import MetadataRepository
from protocol.chunks import describe
from protocol.down import Bundle
from protocol.manifest import Blob, Manifest, from_custom


@dataclass
class Clock:
    """The time, moved by hand. It begins near the present: python-tuf's client reads the real one."""

    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **duration: float) -> None:
        self.time += timedelta(**duration)


@dataclass
class House:
    """An operator's keyring and a server's repository, in two directories."""

    directory: Path
    clock: Clock = field(default_factory=Clock)
    keyring: Keyring = field(init=False)
    repository: MetadataRepository = field(init=False)

    def __post_init__(self) -> None:
        self.key = OnlineKey.load_or_create(self.directory / "cloud" / "online.pem")
        self.keyring = Keyring.create(self.directory / "operator", self.key.public, now=self.clock)
        self.repository = MetadataRepository.create(
            self.metadata,
            self.key,
            roots=self.keyring.roots(),
            targets=self.keyring.targets(),
            now=self.clock,
        )

    @property
    def metadata(self) -> Path:
        return self.directory / "cloud" / "metadata"

    def reopen(self) -> MetadataRepository:
        self.repository = MetadataRepository(self.metadata, self.key, now=self.clock)
        return self.repository

    def add_product(self, product: str) -> None:
        delegation = self.keyring.delegate(product)
        self.repository.accept_targets(delegation.targets, {product: delegation.role})

    def role(self, product: str = "thermostat") -> bytes:
        data = self.repository.metadata(f"{product}.json")
        assert data is not None
        return data

    def sign(self, version: str, seq: int, *, content: bytes | None = None, product: str = "thermostat") -> bytes:
        """The product's current role with one more firmware, signed and not sent."""
        image = content or version.encode()
        return self.keyring.sign_firmware(
            self.role(product), manifest(version, seq, image, product), len(image), hashlib.sha256(image).hexdigest()
        )

    def publish(self, version: str, seq: int, *, product: str = "thermostat") -> None:
        self.repository.accept_product_role(product, self.sign(version, seq, product=product))


def manifest(version: str, seq: int, image: bytes, product: str = "thermostat") -> Manifest:
    return Manifest(
        product=product,
        component="app",
        version=version,
        build=seq,
        seq=seq,
        hardware_models=("pi-4",),
        blobs=(Blob(encoding="identity", ref=describe([image])[0]),),
    )


class RepositoryFetcher(FetcherInterface):
    """Serves python-tuf from a bundle and then from a repository; counts what had to be asked for."""

    def __init__(self, repository: MetadataRepository, bundle: Bundle | None = None) -> None:
        super().__init__()
        self._repository = repository
        self._bundle = bundle
        self.asked: list[str] = []

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = unquote(url.rpartition("/")[2])
        if self._bundle is not None and name in self._bundle.files:
            return iter([self._bundle.files[name].encode()])
        self.asked.append(name)
        data = self._repository.metadata(name)
        if data is None:
            raise DownloadHTTPError(f"{name}: not found", 404)
        return iter([data])


@dataclass
class Judge:
    """A device's trust, as python-tuf keeps it between refreshes: the independent judge of what the server serves."""

    repository: MetadataRepository
    first_root: bytes
    directory: Path
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory.mkdir()

    def target(self, path: str, bundle: Bundle | None = None) -> TargetFile | None:
        """Refresh, and return what the signed metadata says of a target; raises what python-tuf raises."""
        fetcher = RepositoryFetcher(self.repository, bundle)
        updater = Updater(str(self.directory), "memory://metadata", fetcher=fetcher, bootstrap=self.first_root)
        updater.refresh()
        found = updater.get_targetinfo(path)
        self.asked = fetcher.asked
        return found

    def firmware(self, path: str, bundle: Bundle | None = None) -> Manifest | None:
        found = self.target(path, bundle)
        return None if found is None else from_custom(found.custom, path)
