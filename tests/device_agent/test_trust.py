"""What a device trusts: a real repository, and everything that somebody else could say in its name."""

import dataclasses
import inspect
import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import MetaFile, TargetFile  # type: ignore[attr-defined]  # the same
from tuf.ngclient.updater import Updater

from cloud.keyring import Keyring
from cloud.online_key import OnlineKey
from cloud.trust import MetadataRepository
from device_agent.trust import DeviceTrust, Distrust, TrustError
from protocol.chunks import describe
from protocol.down import Bundle
from protocol.errors import IdentityError
from protocol.identity import MAX_INTEGER
from protocol.manifest import CUSTOM_FIELD, Blob, to_custom
from protocol.phases import Reason
from protocol.signing import NOTICE_TYPE, Signature, pae
from tests.support.brokers import missing_service
from tests.support.repository import NOW_S, Repository, at, digest_of, manifest_of, sign, signature

PATH = "thermostat/app/1.0.0"
DAY_S = 86_400.0
NEVER_ASKED: list[str] = []


@pytest.fixture
def repository() -> Repository:
    made = Repository("thermostat", "pump")
    made.add_firmware(b"the image", seq=3)
    made.raise_floor("thermostat", {"app": 2})
    made.publish()
    return made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "metadata"


class Device:
    """A device's trust; its clock is `now_s`, and `restart` is what an agent's restart is to it."""

    def __init__(self, directory: Path, repository: Repository, product: str = "thermostat") -> None:
        self.directory = directory
        self.repository = repository
        self.product = product
        self.now_s = NOW_S
        self.ask: Callable[[str], bytes | None] = repository.ask
        self.restart()

    def restart(self) -> None:
        self.trust = DeviceTrust(
            self.directory,
            self.repository.bootstrap,
            self.product,
            ask=self._ask,
            now=lambda: self.now_s,
        )

    def _ask(self, name: str) -> bytes | None:
        return self.ask(name)

    def update(self) -> None:
        assert self.trust.offer_bundle(self.repository.bundle(self.product))
        self.trust.refresh()

    def refuses(self, code: Distrust, call: Callable[[], object] | None = None) -> TrustError:
        with pytest.raises(TrustError) as caught:
            (call or self.trust.refresh)()
        assert caught.value.code is code, caught.value
        return caught.value


@pytest.fixture
def device(directory: Path, repository: Repository) -> Device:
    return Device(directory, repository)


def nobody(name: str) -> bytes | None:
    raise TimeoutError(f"nobody answered for {name}")


def altered(bundle: Bundle, **files: bytes) -> Bundle:
    """A bundle with other files; `timestamp`, `snapshot`, `targets` and `thermostat` name them."""
    kept = {
        name: files[role].decode() if (role := name.removesuffix(".json").rpartition(".")[2]) in files else text
        for name, text in bundle.files.items()
    }
    return dataclasses.replace(bundle, files=kept)


def test_a_bundle_is_all_it_takes(device: Device) -> None:
    device.ask = nobody
    device.update()
    signed = device.trust.signed_firmware(PATH)
    assert (signed.length, signed.sha256) == (9, digest_of(b"the image"))
    assert (signed.manifest.seq, signed.manifest.version) == (3, "1.0.0")
    assert device.trust.floors() == {"app": 2}
    assert device.trust.root_version == 1
    device.repository.publish()
    device.update()


def test_without_a_bundle_everything_is_asked_for(device: Device) -> None:
    assert device.trust.signed_firmware(PATH).length == 9
    names = ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "2.thermostat.json"]
    assert device.repository.asked == names


def test_what_a_bundle_had_no_room_for_is_asked_for(device: Device) -> None:
    bundle = device.repository.bundle()
    small = {name: text for name, text in bundle.files.items() if "thermostat" not in name}
    assert device.trust.offer_bundle(dataclasses.replace(bundle, files=small))
    device.trust.refresh()
    assert device.repository.asked == ["2.thermostat.json"]


def test_a_product_without_firmware(directory: Path, repository: Repository) -> None:
    device = Device(directory, repository, "pump")
    device.update()
    assert device.trust.floors() == {}
    device.refuses(Distrust.UNTRUSTED, lambda: device.trust.signed_firmware("pump/app/1.0.0"))


def test_a_product_that_is_not_delegated_to_yet(directory: Path, repository: Repository) -> None:
    device = Device(directory, repository, "fridge")
    device.trust.refresh()
    device.refuses(Distrust.UNTRUSTED, lambda: device.trust.signed_firmware("fridge/app/1.0.0"))


def test_an_old_bundle_is_ignored(device: Device) -> None:
    old = device.repository.bundle()
    device.repository.publish()
    device.update()
    assert device.trust.offer_bundle(old) is False
    device.restart()
    assert device.trust.offer_bundle(old) is False
    device.ask = nobody
    device.refuses(Distrust.UNREACHABLE)


@pytest.mark.parametrize("change", [{"product": "pump"}, {"files": {}}, {"files": {"timestamp.json": "[1]"}}])
def test_a_bundle_that_is_none_of_ours_is_ignored(device: Device, change: dict[str, Any]) -> None:
    assert device.trust.offer_bundle(dataclasses.replace(device.repository.bundle(), **change)) is False


def test_old_metadata_in_answer_to_a_question_is_refused(device: Device) -> None:
    old = dict(device.repository.files)
    device.repository.publish()
    device.update()
    device.restart()
    device.ask = old.get
    assert device.refuses(Distrust.ROLLBACK).reason is Reason.UNTRUSTED
    device.ask = device.repository.ask
    device.trust.refresh()


def test_a_forged_bundle_costs_questions_and_nothing_else(device: Device) -> None:
    mallory = Repository("thermostat")
    mallory.root.version = 1
    mallory.add_firmware(b"malware", version="9.0.0")
    mallory.timestamp.version = 100
    mallory.publish()
    assert device.trust.offer_bundle(mallory.bundle())
    device.trust.refresh()
    assert "timestamp.json" in device.repository.asked
    assert device.trust.signed_firmware(PATH).length == 9
    device.refuses(Distrust.UNTRUSTED, lambda: device.trust.signed_firmware("thermostat/app/9.0.0"))
    assert device.trust.offer_bundle(device.repository.bundle())


def test_a_forged_bundle_and_nobody_to_ask(device: Device) -> None:
    device.update()
    mallory = Repository("thermostat")
    mallory.timestamp.version = 100
    mallory.publish()
    device.trust.offer_bundle(mallory.bundle())
    device.ask = nobody
    device.refuses(Distrust.BAD_SIGNATURE)
    assert device.trust.signed_firmware(PATH).length == 9


def test_a_stolen_online_key_cannot_sign_firmware(device: Device) -> None:
    device.update()
    device.repository.role_signers["thermostat"] = device.repository.online_signer
    device.repository.add_firmware(b"malware", version="9.0.0")
    device.repository.publish()
    device.trust.offer_bundle(device.repository.bundle())
    device.refuses(Distrust.BAD_SIGNATURE)


def test_another_products_key_cannot_sign_this_products_firmware(device: Device) -> None:
    foreign = device.repository.add_firmware(b"malware", product="thermostat", version="9.0.0")
    target = device.repository.roles["thermostat"].targets.pop(foreign.target_path)
    device.repository.roles["pump"].targets[foreign.target_path] = target
    device.repository.publish()
    device.update()
    device.refuses(Distrust.UNTRUSTED, lambda: device.trust.signed_firmware(foreign.target_path))


def test_firmware_of_another_product_is_not_looked_for(device: Device) -> None:
    device.repository.add_firmware(b"a pump's", product="pump")
    device.repository.publish()
    device.update()
    for path in ("pump/app/1.0.0", "", "thermostat", "/thermostat/app/1.0.0", "../thermostat/app/1.0.0"):
        device.refuses(Distrust.UNTRUSTED, lambda path=path: device.trust.signed_firmware(path))  # type: ignore[misc]


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "thermostat", "root"])
def test_what_expired_is_refused(device: Device, role: str) -> None:
    past = at(NOW_S) - timedelta(seconds=1)
    made = device.repository
    payload = getattr(made, role, None) or made.roles[role]
    if role == "root":
        made.root.expires = past
        made.publish_root()
    elif role == "timestamp":
        made.timestamp.version += 1
        made.timestamp.expires = past
        made.files["timestamp.json"] = sign(made.timestamp, made.online_signer)
    elif role == "snapshot":
        made.snapshot.version += 1
        made.snapshot.expires = past
        data = made.files[f"{made.snapshot.version}.snapshot.json"] = sign(made.snapshot, made.online_signer)
        made.timestamp.snapshot_meta = MetaFile.from_data(made.snapshot.version, data, ["sha256"])
        made.publish_timestamp()
    else:
        payload.expires = past
        made.publish()
    assert device.trust.offer_bundle(made.bundle())
    assert "clock" in str(device.refuses(Distrust.EXPIRED))


def test_the_clock_is_the_one_that_is_given(device: Device) -> None:
    device.update()
    for days in (2, 3650, 10**9):
        device.now_s = NOW_S + days * DAY_S
        device.restart()
        device.refuses(Distrust.EXPIRED)


def test_a_clock_that_fell_behind_does_not_bring_back_what_expired(device: Device, directory: Path) -> None:
    old = device.repository.bundle()
    device.repository.now_s = device.now_s = NOW_S + 3 * DAY_S
    device.repository.publish()
    device.update()
    shutil.rmtree(directory / "root_history")
    (directory / "timestamp.json").unlink()
    (directory / "snapshot.json").unlink()
    device.now_s = 0.0
    device.ask = nobody
    device.restart()
    device.trust.offer_bundle(old)
    device.refuses(Distrust.EXPIRED)


def test_a_clock_without_a_battery_still_takes_what_is_new(device: Device) -> None:
    device.now_s = 0.0
    device.update()
    assert device.trust.signed_firmware(PATH).length == 9


def test_mixed_metadata_is_refused(device: Device) -> None:
    made, before = device.repository, dict(device.repository.files)
    made.add_firmware(b"newer", version="1.1.0", seq=4)
    made.publish()
    device.ask = nobody
    for role, old in (("snapshot", "2.snapshot.json"), ("thermostat", "2.thermostat.json")):
        assert device.trust.offer_bundle(altered(made.bundle(), **{role: before[old]}))
        device.refuses(Distrust.UNTRUSTED)
    device.update()


def test_a_snapshot_that_goes_back_is_refused(device: Device) -> None:
    device.repository.publish()
    device.update()
    role = device.repository.roles["thermostat"]
    role.version -= 1
    device.repository.publish_snapshot()
    device.trust.offer_bundle(device.repository.bundle())
    device.refuses(Distrust.ROLLBACK)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "thermostat"])
def test_unsigned_metadata_is_refused(device: Device, role: str) -> None:
    bundle = device.repository.bundle()
    text = next(text for name, text in bundle.files.items() if role in name)
    stripped = {**json.loads(text), "signatures": []}
    device.ask = nobody
    assert device.trust.offer_bundle(altered(bundle, **{role: json.dumps(stripped).encode()}))
    # What the metadata above it names by its hash is not even looked into.
    device.refuses(Distrust.BAD_SIGNATURE if role == "timestamp" else Distrust.UNTRUSTED)


def test_a_root_needs_its_threshold(device: Device) -> None:
    first, device.repository.root_signers = device.repository.root_signers, device.repository.root_signers[:1]
    device.repository.publish_root()
    device.repository.publish()
    device.refuses(Distrust.BAD_SIGNATURE)
    assert device.trust.root_version == 1
    device.repository.root_signers = first
    device.repository.root.version = 1
    device.repository.publish_root()
    device.trust.refresh()
    assert device.trust.root_version == 2


def test_a_device_that_slept_through_several_roots_follows_them(device: Device) -> None:
    device.update()
    for _ in range(3):
        device.repository.rotate_root()
    device.repository.rotate_online_key()
    assert device.trust.is_behind is False
    assert device.trust.offer_bundle(device.repository.bundle())
    assert device.trust.is_behind is True
    device.trust.refresh()
    assert device.trust.is_behind is False
    assert device.trust.root_version == 5
    assert device.repository.asked == [f"{version}.root.json" for version in (2, 3, 4, 5)]
    device.restart()
    assert device.trust.root_version == 5


def test_a_root_that_skips_one_is_not_followed(device: Device) -> None:
    device.repository.rotate_root()
    device.repository.rotate_root()
    del device.repository.files["2.root.json"]
    device.trust.refresh()
    assert device.trust.root_version == 1


def test_versions_begin_anew_after_a_stolen_online_key_was_replaced(device: Device) -> None:
    honest = device.repository.timestamp.version
    device.repository.timestamp.version = 2**31
    device.repository.publish_timestamp()
    device.update()
    device.repository.timestamp.version = honest
    device.repository.rotate_online_key()
    device.update()
    device.repository.publish()
    device.update()
    assert device.trust.root_version == 2


def test_a_cloud_that_does_not_answer(device: Device) -> None:
    device.ask = nobody
    assert device.refuses(Distrust.UNREACHABLE).reason is Reason.DOWNLOAD_FAILED
    device.ask = lambda _name: None
    device.refuses(Distrust.UNREACHABLE)


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.thermostat.json", "2.root.json"])
def test_a_file_without_end_is_refused(device: Device, name: str) -> None:
    device.repository.publish_root()
    device.repository.files[name] += b" " * 6_000_000  # its signature stays good
    device.refuses(Distrust.UNTRUSTED)


def test_a_disk_that_does_not_store(device: Device, directory: Path) -> None:
    (directory / "timestamp.json").mkdir(parents=True)
    assert device.refuses(Distrust.STORAGE_FAILED).reason is Reason.STORAGE_FAILED
    assert not list(directory.glob("tmp*"))
    (directory / "timestamp.json").rmdir()
    device.update()


GARBAGE = [b"", b"null", b"{}", b"[]", b"\xff\xfe", b'{"signed": {}}', b"[" * 100_000, b"1" * 5000, bytes(2000)]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_damaged_files_cost_a_refresh_and_no_more(device: Device, directory: Path, garbage: bytes) -> None:
    device.repository.rotate_root()
    device.repository.publish()
    device.trust.refresh()
    for path in [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]:
        path.write_bytes(garbage)
    device.restart()
    device.trust.refresh()
    assert device.trust.root_version == 2
    assert device.trust.signed_firmware(PATH).length == 9


def test_lost_files_lose_the_memory_of_versions_which_is_why_floors_are_kept_elsewhere(
    device: Device, directory: Path
) -> None:
    old = dict(device.repository.files)
    device.repository.raise_floor("thermostat", {"app": 9})
    device.repository.publish()
    device.update()
    kept_in_the_journal = dict(device.trust.floors())
    shutil.rmtree(directory)
    device.ask = old.get
    device.restart()
    device.trust.refresh()
    assert device.trust.floors() == {"app": 2}
    assert device.trust.signed_firmware(PATH).manifest.seq < kept_in_the_journal["app"]


garbage_files = st.dictionaries(
    st.sampled_from(["timestamp.json", "2.snapshot.json", "2.targets.json", "2.thermostat.json", "1.root.json"]),
    st.one_of(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=9).map(json.dumps)),
)


@given(files=garbage_files, claimed=st.integers(1, MAX_INTEGER), root_version=st.integers(1, MAX_INTEGER))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_in_a_bundle_stops_nothing(
    device: Device, files: dict[str, str], claimed: int, root_version: int
) -> None:
    files = {"timestamp.json": json.dumps({"signed": {"version": claimed}}), **files}
    device.trust.offer_bundle(Bundle(product="thermostat", root_version=root_version, files=files))
    device.trust.refresh()
    assert device.trust.signed_firmware(PATH).length == 9


def test_a_lone_surrogate_in_a_bundle(device: Device) -> None:
    bundle = device.repository.bundle()
    device.trust.offer_bundle(dataclasses.replace(bundle, files={**bundle.files, "9.x.json": "\ud800"}))
    device.trust.refresh()


def broken_target(repository: Repository, **change: Any) -> TargetFile:
    image = describe([b"the image"])[0]
    custom = to_custom(manifest_of(image, version="2.0.0", seq=5))
    fields: dict[str, Any] = {"length": 9, "hashes": {"sha256": image.digest}, "custom": custom, **change}
    more = {} if fields["custom"] is None else {"custom": fields["custom"]}
    target = TargetFile(9, {"sha256": "0" * 64}, "thermostat/app/2.0.0", more)
    target.length, target.hashes = fields["length"], fields["hashes"]
    repository.roles["thermostat"].targets[target.path] = target
    return target


OTHER = describe([b"another image"])[0]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"custom": None}, id="nothing custom"),
        pytest.param({"custom": {}}, id="no manifest"),
        pytest.param({"custom": {CUSTOM_FIELD: {"version": "2.0.0"}}}, id="half a manifest"),
        pytest.param({"custom": to_custom(manifest_of(OTHER, version="1.0.0"))}, id="another version's manifest"),
        pytest.param({"custom": to_custom(manifest_of(OTHER, version="2.0.0"))}, id="another image's manifest"),
        pytest.param(
            {"custom": to_custom(manifest_of(OTHER, version="2.0.0", product="pump"))}, id="another product's"
        ),
        pytest.param({"hashes": {"sha512": "0" * 128}}, id="no SHA-256"),
        pytest.param({"hashes": {"sha256": "ABC"}}, id="a digest that is none"),
        pytest.param({"length": 10}, id="another length"),
        pytest.param({"length": 0}, id="no length"),
    ],
)
def test_a_signed_target_that_is_no_firmware_is_refused(device: Device, change: dict[str, Any]) -> None:
    broken_target(device.repository, **change)
    device.repository.publish()
    device.trust.offer_bundle(device.repository.bundle())
    device.refuses(Distrust.UNTRUSTED, lambda: device.trust.signed_firmware("thermostat/app/2.0.0"))


def test_a_manifest_may_offer_more_than_the_image_itself(device: Device) -> None:
    image = describe([b"the image"])[0]
    patch = Blob(encoding="patch", ref=OTHER, source_digest="0" * 64)
    blobs = (patch, Blob(encoding="identity", ref=image))
    device.repository.add_firmware(image, version="2.0.0", seq=5, blobs=blobs)
    device.repository.publish()
    device.update()
    assert device.trust.signed_firmware("thermostat/app/2.0.0").manifest.blobs == blobs


@pytest.mark.parametrize("floors", [{"app": "2"}, {"app": -1}, {"app": 2**53}, {"app": True}, {"app": None}])
def test_a_floor_that_cannot_be_read_stops_everything(device: Device, floors: dict[str, Any]) -> None:
    device.repository.raise_floor("thermostat", floors)
    device.repository.publish()
    device.trust.offer_bundle(device.repository.bundle())
    device.refuses(Distrust.UNTRUSTED)


def test_messages_are_signed_by_the_trusted_roots_online_key(device: Device) -> None:
    message = pae(NOTICE_TYPE, b"{}")
    good = device.repository.sign_message(message)
    device.trust.verify(message, good)
    unknown = signature(CryptoSigner.generate_ed25519(), message)
    device.trust.verify(message, (unknown, *good))
    refused: dict[str, tuple[bytes, tuple[Signature, ...]]] = {
        "nothing": (message, ()),
        "unknown key": (message, (unknown,)),
        "another message": (pae(NOTICE_TYPE, b"[]"), good),
        "another type": (pae("text/plain", b"{}"), good),
        "another key's name": (message, (Signature(keyid=good[0].keyid, sig=unknown.sig),)),
        "a key of another role": (message, (signature(device.repository.targets_signer, message),)),
        "a root key": (message, (signature(device.repository.root_signers[0], message),)),
        "no signature": (message, (Signature(keyid=good[0].keyid, sig="00"),)),
    }
    for data, signatures in refused.values():
        device.refuses(Distrust.BAD_SIGNATURE, lambda d=data, s=signatures: device.trust.verify(d, s))  # type: ignore[misc]


def test_a_threshold_counts_keys_not_signatures(directory: Path, repository: Repository) -> None:
    second = CryptoSigner.generate_ed25519()
    repository.root.add_key(second.public_key, "timestamp")
    repository.root.roles["timestamp"].threshold = 2
    repository.root.version = 0
    repository.publish_root()
    repository.bootstrap = repository.files["1.root.json"]
    device = Device(directory, repository)
    message = pae(NOTICE_TYPE, b"{}")
    one, other = repository.sign_message(message)[0], signature(second, message)
    device.refuses(Distrust.BAD_SIGNATURE, lambda: device.trust.verify(message, (one, one)))
    device.trust.verify(message, (one, other))


def test_after_the_online_key_was_replaced_the_old_one_is_worth_nothing(device: Device) -> None:
    message = pae(NOTICE_TYPE, b"{}")
    old = device.repository.sign_message(message)
    device.repository.rotate_online_key()
    new = device.repository.sign_message(message)
    device.trust.offer_bundle(device.repository.bundle())
    assert device.trust.is_behind
    device.refuses(Distrust.BAD_SIGNATURE, lambda: device.trust.verify(message, new))
    device.trust.refresh()
    device.trust.verify(message, new)
    device.refuses(Distrust.BAD_SIGNATURE, lambda: device.trust.verify(message, old))
    device.restart()
    device.trust.verify(message, new)


@pytest.mark.parametrize("bootstrap", [b"", b"{}", b"nonsense"])
def test_a_device_without_a_root_does_not_start(directory: Path, bootstrap: bytes) -> None:
    with pytest.raises(TrustError, match="root metadata that this device was given"):
        DeviceTrust(directory, bootstrap, "thermostat", ask=nobody, now=lambda: NOW_S)


def test_a_stored_root_is_believed_only_if_the_one_before_signed_it(device: Device, directory: Path) -> None:
    device.update()
    mallory = Repository("thermostat")
    mallory.publish_root()
    (directory / "root_history" / "2.root.json").write_bytes(mallory.files["2.root.json"])
    device.restart()
    assert device.trust.root_version == 1
    device.update()
    assert device.trust.root_version == 1


def test_a_root_is_not_any_metadata(directory: Path, repository: Repository) -> None:
    for name in ("timestamp.json", "2.targets.json"):
        with pytest.raises(TrustError):
            DeviceTrust(directory, repository.files[name], "thermostat", ask=nobody, now=lambda: NOW_S)
    with pytest.raises(IdentityError):
        DeviceTrust(directory, repository.bootstrap, "../x", ask=nobody, now=lambda: NOW_S)


def test_a_root_that_did_not_sign_itself_is_none(directory: Path, repository: Repository) -> None:
    fields = json.loads(repository.bootstrap)
    fields["signatures"] = fields["signatures"][:1]
    with pytest.raises(TrustError) as caught:
        DeviceTrust(directory, json.dumps(fields).encode(), "thermostat", ask=nobody, now=lambda: NOW_S)
    assert caught.value.code is Distrust.BAD_SIGNATURE


def test_files_are_private(repository: Repository, directory: Path) -> None:
    (directory / "root_history").mkdir(parents=True, mode=0o755)
    device = Device(directory, repository)
    device.repository.rotate_root()
    device.repository.publish()
    device.update()
    paths = [path for path in directory.rglob("*") if not path.is_symlink()]
    assert {path.name for path in paths} >= {"timestamp.json", "thermostat.json", "2.root.json", "clock.json"}
    for path in (directory, *paths):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert not list(directory.rglob("tmp*"))


def test_the_private_parts_of_python_tuf_that_are_overridden_are_there() -> None:
    assert list(inspect.signature(Updater._persist_file).parameters) == ["self", "filename", "data"]
    assert list(inspect.signature(Updater._update_root_symlink).parameters) == ["self"]
    source = inspect.getsource(Updater)
    # Every way to the disk goes through the two, and nothing else of python-tuf writes metadata.
    assert source.count("self._persist_file(") == 2
    assert source.count("self._update_root_symlink(") == 2
    assert source.count("os.replace(") == source.count("os.symlink(") == 1


def run_offline(
    directory: Path, repository: Repository, *prefix: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Refresh from a bundle in a process of its own, and say what is signed."""
    inputs = directory.parent / "inputs"
    inputs.mkdir(parents=True)
    (inputs / "root.json").write_bytes(repository.bootstrap)
    for name, text in repository.bundle().files.items():
        (inputs / name).write_text(text)
    message = pae(NOTICE_TYPE, b"{}")
    signed = repository.sign_message(message)[0]
    program = f"""
import pathlib, sys
{before}
from device_agent.trust import DeviceTrust, TrustError
from protocol.down import Bundle
from protocol.signing import Signature, pae
inputs = pathlib.Path({str(inputs)!r})
def ask(name):
    raise TimeoutError(name)
trust = DeviceTrust(
    pathlib.Path({str(directory)!r}), (inputs / "root.json").read_bytes(), "thermostat", ask=ask, now=lambda: {NOW_S!r}
)
files = {{path.name: path.read_text() for path in inputs.iterdir() if path.name != "root.json"}}
assert trust.offer_bundle(Bundle(product="thermostat", root_version=1, files=files))
trust.refresh()
print(trust.signed_firmware({PATH!r}).sha256)
message = pae({NOTICE_TYPE!r}, b"{{}}")
trust.verify(message, [Signature(keyid={signed.keyid!r}, sig={signed.sig!r})])
try:
    trust.verify(message + b" ", [Signature(keyid={signed.keyid!r}, sig={signed.sig!r})])
except TrustError as error:
    print(error.code)
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("cryptography", "nacl")))
"""
    command = [*prefix, sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])


def test_it_works_without_compiled_cryptography(directory: Path, repository: Repository) -> None:
    blocked = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("cryptography", "nacl"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""
    said = run_offline(directory, repository, before=blocked).stdout.split("\n")
    assert said[:3] == [digest_of(b"the image"), "bad_signature", "[]"]


def test_a_power_cut_leaves_whole_files(directory: Path, repository: Repository) -> None:
    strace = shutil.which("strace")
    if strace is None:
        missing_service("strace is not installed")
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,symlink,symlinkat,mkdir,mkdirat"
    run = run_offline(directory, repository, strace, "-f", "-y", "-e", calls, "-e", "signal=none")
    trace = [line for line in run.stderr.splitlines() if str(directory.parent) in line and line.endswith("= 0")]
    renamed = made_directories = 0
    for number, line in enumerate(trace):
        if (made := re.search(r'mkdir\w*\([^"]*"([^"]+)"', line)) and made[1].startswith(str(directory)):
            made_directories += 1
            assert any("fsync(" in later and f"<{Path(made[1]).parent}>" in later for later in trace[number:]), line
        if (made := re.search(r'rename\w*\([^"]*"([^"]+)",[^"]*"([^"]+)"', line)) is None:
            continue
        source, target = made.groups()
        renamed += 1
        if not target.endswith("/root.json"):  # the link has no contents of its own
            assert any("fsync(" in earlier and f"<{source}>" in earlier for earlier in trace[:number]), line
        assert any("fsync(" in later and f"<{Path(target).parent}>" in later for later in trace[number + 1 :]), line
    assert renamed == 7  # root and its link, timestamp, snapshot, targets, the product's role, the clock
    assert made_directories == 2


def test_a_second_refresh_writes_nothing_that_is_there(directory: Path, device: Device) -> None:
    device.update()
    before = {path: path.lstat().st_mtime_ns for path in directory.rglob("*") if not path.is_dir()}
    device.update()
    assert {path: path.lstat().st_mtime_ns for path in directory.rglob("*") if not path.is_dir()} == before


def test_the_clouds_own_repository_is_trusted(tmp_path: Path) -> None:
    online = OnlineKey.load_or_create(tmp_path / "online.pem")
    keyring = Keyring.create(tmp_path / "operator", online.public)
    cloud = MetadataRepository.create(tmp_path / "cloud", online, roots=keyring.roots(), targets=keyring.targets())
    delegation = keyring.delegate("thermostat")
    cloud.accept_targets(delegation.targets, {"thermostat": delegation.role})
    image = describe([b"the image"])[0]
    role = keyring.sign_firmware(delegation.role, manifest_of(image), image.size_bytes, image.digest)
    cloud.accept_product_role("thermostat", role)
    clock = cloud.expiries()[0].expires_at.timestamp() - 60
    trust = DeviceTrust(tmp_path / "device", keyring.roots()[0], "thermostat", ask=cloud.metadata, now=lambda: clock)
    assert trust.offer_bundle(cloud.bundle("thermostat"))
    trust.refresh()
    assert trust.signed_firmware(PATH).sha256 == image.digest
    message = pae(NOTICE_TYPE, b"{}")
    trust.verify(message, cloud.sign(message))
    cloud.accept_product_role("thermostat", keyring.raise_floor("thermostat", role, "app", 1))
    cloud.accept_root(keyring.renew_root())
    assert trust.offer_bundle(cloud.bundle("thermostat"))
    trust.refresh()
    assert trust.root_version == 2
    assert trust.floors() == {"app": 1}
