"""What this device trusts: The Update Framework's metadata, refreshed over the link and kept through power cuts.

1. What may run is a target of the product's own role, under the offline keys that the first root leads to.
2. The cloud's bundle is tried first. When it is not good the cloud itself is asked, before its word is doubted:
   anybody on the broker may have replaced the bundle.
3. Files that are damaged or gone cost a refresh from the bootstrap root, and with them the memory of the versions that
   were seen. The floors close that hole: `keep_floors` keeps the highest ever told, durably and elsewhere, before what
   states them is taken for anything.
4. The clock of a device without a battery may be far behind. It is never taken to be before the time of the last
   refresh that succeeded, which is kept here; metadata that expired before that stays expired.
5. Verifying costs a small device a second (pure Python). So a newer bundle is looked into when it comes, before it is
   waited for, and not again while nothing of it expires. Bundles that are no good cannot keep a device busy: after one
   of them, for LOOK_AGAIN_S, what comes is looked into only when it is needed.

`refresh` and `signed_firmware` wait for `ask` and belong in a thread where that is no harm. The rest returns at once,
and may be called from any thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import Signature as TufSignature  # type: ignore[attr-defined]  # no explicit export
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import TargetFile, Targets, Timestamp  # type: ignore[attr-defined]  # the same

from device_agent.metadata import Ask, BundleFetcher, DurableUpdater, newest_root, write_durably
from protocol.down import Bundle
from protocol.errors import FleetliftError, IdentityError, ManifestError
from protocol.identity import MAX_INTEGER, check_digest, check_id
from protocol.manifest import MINIMUM_SEQ_FIELD, Manifest, from_custom, target_path
from protocol.phases import Reason
from protocol.signing import Signature

IDENTITY: Final = "identity"
LOOK_AGAIN_S: Final = 60.0
_CLOCK_FILE: Final = "clock.json"
_CLOCK_STEP_S: Final = 3600.0
_MAX_TIME_S: Final = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_LOG = logging.getLogger(__name__)


class Distrust(StrEnum):
    """Why something is not trusted."""

    UNTRUSTED = "untrusted"
    """It is not there, not whole, or not what it should be."""
    EXPIRED = "expired"
    """It was good once; or the clock of this device is wrong."""
    ROLLBACK = "rollback"
    """It is older than what was seen."""
    BAD_SIGNATURE = "bad_signature"
    """Too few of the right keys signed it."""
    UNREACHABLE = "unreachable"
    """The cloud did not answer, or does not have what it should."""
    STORAGE_FAILED = "storage_failed"
    """It could not be stored."""


class TrustError(FleetliftError):
    """Something is not trusted; what was trusted before still is. `reason` is what an attempt fails of."""

    def __init__(self, code: Distrust, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = {
            Distrust.UNREACHABLE: Reason.DOWNLOAD_FAILED,
            Distrust.STORAGE_FAILED: Reason.STORAGE_FAILED,
        }.get(code, Reason.UNTRUSTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedFirmware:
    """A firmware as its release manager signed it: the image is `length` bytes with the SHA-256 `sha256`."""

    manifest: Manifest
    length: int
    sha256: str


class DeviceTrust:
    """One product's trusted metadata in a private directory; one process at a time.

    `now` is the time of day in seconds since 1970. `keep_floors` stores the floors of a verified role, from whichever
    thread verified it; where it raises a FleetliftError the role is not taken. `aside` has a call made in another
    thread, soon: bundles are looked into there (without it, only when they are needed). Raises TrustError for a
    `bootstrap_root` that is none.
    """

    def __init__(
        self,
        directory: Path,
        bootstrap_root: bytes,
        product: str,
        *,
        ask: Ask,
        now: Callable[[], float],
        keep_floors: Callable[[Mapping[str, int]], None] = lambda _floors: None,
        aside: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._directory = directory
        self._bootstrap = bootstrap_root
        self._product = check_id(product, "product")
        self._ask = ask
        self._now = now
        self._keep_floors = keep_floors
        self._aside = aside
        self._working = threading.Lock()  # one refresh or look-up at a time; what follows is replaced, never changed
        self._bundle: Bundle | None = None
        self._updater: DurableUpdater | None = None
        self._verified: tuple[Bundle, float] | None = None  # the bundle that was verified last, and when it expires
        self._looking = False
        self._looked_in_vain_at_s = 0.0
        self._floors: Mapping[str, int] = {}
        with _told("the root metadata that this device was given"):
            self._root = newest_root(directory, bootstrap_root)
        self._clock_floor_s = refreshed_at_s(directory)
        self._timestamp_version = self._read_timestamp_version()

    @property
    def root_version(self) -> int:
        """The version of the trusted root."""
        return self._root.version

    @property
    def is_behind(self) -> bool:
        """Whether the last bundle stands on a newer root: then a signature may be good that `verify` refuses."""
        bundle = self._bundle
        return bundle is not None and bundle.root_version > self._root.version

    def floors(self) -> Mapping[str, int]:
        """Return component to the lowest `seq` that may be installed, as signed; empty before the first refresh."""
        return self._floors

    def offer_bundle(self, bundle: Bundle) -> bool:
        """Take a bundle for the next refresh; False if it is ignored: another product's, older, or no bundle at all."""
        # Under a newer root the versions may begin anew (TUF 5.3.11): it was made because a key had been stolen.
        oldest = 1 if bundle.root_version > self._root.version else max(1, self._timestamp_version)
        version = _version_in(bundle.files.get("timestamp.json", ""))
        if bundle.product != self._product or version < oldest:
            return False
        self._bundle = bundle
        if self._aside is not None and not self._looking and (self._verified is None or version > oldest):
            self._looking = True
            self._aside(self._look_ahead)
        return True

    def refresh(self) -> None:
        """Bring everything up to date; raises TrustError, and then what was trusted before still is."""
        with self._working:
            if self._is_current():
                self._keep_clock_floor(self._time_s())
            else:
                self._refresh()

    def signed_firmware(self, path: str) -> SignedFirmware:
        """Return what is signed for `<product>/<component>/<version>`, refreshing first if that never succeeded.

        Raises TrustError, also (`untrusted`) when nothing is signed for it.
        """
        with self._working:
            updater = self._updater or self._refresh()
            with _told(f"the metadata of {path}"):
                target = updater.get_targetinfo(path) if path.startswith(f"{self._product}/") else None
            if target is None:
                raise TrustError(Distrust.UNTRUSTED, f"no firmware {path} is signed for this product")
            return _firmware(path, target)

    def verify(self, pae: bytes, signatures: Iterable[Signature]) -> None:
        """Check the cloud's signatures over a notice or a desired state (`protocol.signing.pae`).

        Raises TrustError (`bad_signature`) unless as many of the trusted root's timestamp keys signed as it demands.
        """
        given = {item.keyid: TufSignature(item.keyid, item.sig) for item in signatures}
        with _told("the message"):
            self._root.verify_delegate(Timestamp.type, pae, given)

    def _look_ahead(self) -> None:
        """Verify the bundle as far as it goes by itself: nobody is asked, and nobody told if it is no good."""
        self._looking = False  # what comes from now on is looked into next
        with self._working:
            bundle = self._bundle
            # A newer root is a matter for who hears `is_behind`.
            if bundle is None or self.is_behind or self._is_current() or not self._may_look():
                return
            try:
                self._refresh_from(bundle, ask=_ask_nobody)
            except TrustError as error:
                self._looked_in_vain_at_s = self._now()
                _LOG.info("a bundle is no good by itself: %s", error)

    def _may_look(self) -> bool:
        return abs(self._now() - self._looked_in_vain_at_s) >= LOOK_AGAIN_S

    def _is_current(self) -> bool:
        """Tell whether to verify the bundle would be to verify the same bytes again, with the same result."""
        if self._verified is None or self._bundle != self._verified[0]:
            return False
        return self._time_s() < self._verified[1]

    def _time_s(self) -> float:
        return min(max(self._now(), self._clock_floor_s), _MAX_TIME_S)

    def _refresh(self) -> DurableUpdater:
        bundle = self._bundle
        if bundle is None:
            return self._refresh_from(None)
        try:
            return self._refresh_from(bundle)
        except TrustError as error:
            if error.code is Distrust.STORAGE_FAILED:
                raise
            try:
                updater = self._refresh_from(None)
            except TrustError as second:
                raise error if second.code is Distrust.UNREACHABLE else second from error
            if self._bundle is bundle:
                self._bundle = None
            return updater

    def _refresh_from(self, bundle: Bundle | None, ask: Ask | None = None) -> DurableUpdater:
        now_s = self._time_s()
        with _told("the metadata"):
            files = {} if bundle is None else {name: text.encode() for name, text in bundle.files.items()}
            root_version, patches = (None, {}) if bundle is None else (bundle.root_version, bundle.patches)
            fetcher = BundleFetcher(files, root_version, ask or self._ask, patches, self._directory)
            now = datetime.fromtimestamp(now_s, UTC)
            updater = DurableUpdater(self._directory, self._bootstrap, fetcher, now)
            try:
                updater.refresh()
                updater.get_targetinfo(target_path(self._product, "-", "-"))  # loads the product's role
                floors = _floors(updater.role(self._product))
                self._remember(floors)
            finally:
                self._root = max(self._root, updater.root, key=lambda root: root.version)
                self._timestamp_version = self._read_timestamp_version()
        self._updater, self._floors = updater, floors
        self._looked_in_vain_at_s = 0.0  # what comes next stands on this, and will be good if it is the cloud's
        self._verified = None if bundle is None else (bundle, updater.expires.timestamp())
        self._keep_clock_floor(now_s)
        return updater

    def _remember(self, floors: Mapping[str, int]) -> None:
        try:
            self._keep_floors(floors)
        except FleetliftError as error:
            raise TrustError(Distrust.STORAGE_FAILED, f"the floors could not be stored: {error}") from error

    def _read_timestamp_version(self) -> int:
        try:
            return _version_in((self._directory / "timestamp.json").read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return 0

    def _keep_clock_floor(self, now_s: float) -> None:
        if now_s >= self._clock_floor_s + _CLOCK_STEP_S:
            with _told("the time of the refresh"):
                record = {"refreshed_at_s": now_s, "check": _check(now_s)}
                write_durably(self._directory / _CLOCK_FILE, json.dumps(record).encode())
            self._clock_floor_s = now_s


def refreshed_at_s(directory: Path) -> float:
    """Return when the metadata in a DeviceTrust's directory was refreshed last, 0 if that is not known."""
    try:
        record = json.loads((directory / _CLOCK_FILE).read_bytes())
        floor_s = float(record["refreshed_at_s"])
        is_whole = record["check"] == _check(floor_s)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0.0
    return floor_s if is_whole and 0 <= floor_s <= _MAX_TIME_S else 0.0


def _check(time_s: float) -> int:
    # One bit that falls over in a file of digits may be a thousand years, in which everything has expired for good.
    return zlib.crc32(repr(float(time_s)).encode())


def _ask_nobody(_name: str) -> bytes | None:
    return None


def _version_in(timestamp: str) -> int:
    """Return the version that a timestamp claims to have: not verified, and good only for ignoring it."""
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        version: Any = json.loads(timestamp)["signed"]["version"]
        if type(version) is int:
            return version
    return 0


def _firmware(path: str, target: TargetFile) -> SignedFirmware:
    try:
        manifest = from_custom(target.custom, path)
        sha256 = check_digest(str(target.hashes.get("sha256")), f"the SHA-256 of {path}")
    except (ManifestError, IdentityError) as error:
        raise TrustError(Distrust.UNTRUSTED, str(error)) from None
    if type(target.length) is not int or target.length < 1:
        raise TrustError(Distrust.UNTRUSTED, f"{path} has the length {target.length!r:.40}")
    for blob in manifest.blobs:
        if blob.encoding == IDENTITY and (blob.ref.digest, blob.ref.size_bytes) != (sha256, target.length):
            raise TrustError(Distrust.UNTRUSTED, f"{path}: the identity blob is not the image")
    return SignedFirmware(manifest=manifest, length=target.length, sha256=sha256)


def _floors(role: Targets | None) -> dict[str, int]:
    """Return a verified role's floors. What is garbled there stops everything: it may be a floor that is not read."""
    stated: object = {} if role is None else role.unrecognized_fields.get(MINIMUM_SEQ_FIELD, {})
    if not isinstance(stated, dict):
        raise TrustError(Distrust.UNTRUSTED, f"{MINIMUM_SEQ_FIELD} is not an object")
    for component, seq in stated.items():
        if type(seq) is not int or not 0 <= seq <= MAX_INTEGER:
            raise TrustError(Distrust.UNTRUSTED, f"{MINIMUM_SEQ_FIELD}: {component!r:.80} has {seq!r:.40}")
    return dict(stated)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn whatever python-tuf, the disk or `ask` raise into a TrustError that says it for people."""
    try:
        yield
    except TrustError:
        raise
    except DownloadLengthMismatchError as error:
        raise TrustError(Distrust.UNTRUSTED, f"{what}: {error}") from error
    except DownloadError as error:
        raise TrustError(Distrust.UNREACHABLE, f"{what} could not be had: {error.__cause__ or error}") from error
    except ExpiredMetadataError as error:
        raise TrustError(Distrust.EXPIRED, f"{what}: {error}; or the clock of this device is wrong") from error
    except BadVersionNumberError as error:
        raise TrustError(Distrust.ROLLBACK, f"{what}: {error}") from error
    except UnsignedMetadataError as error:
        raise TrustError(Distrust.BAD_SIGNATURE, f"{what}: {error}") from error
    except RepositoryError as error:
        raise TrustError(Distrust.UNTRUSTED, f"{what}: {error.__cause__ or error}"[:500]) from error
    except OSError as error:
        raise TrustError(Distrust.STORAGE_FAILED, f"{what} could not be stored: {error}") from error
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise TrustError(Distrust.UNTRUSTED, f"{what}: {type(error).__name__}: {error}"[:500]) from error
