"""What a device trusts, from a real repository: bundles, questions, roots, clocks and messages."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from cloud.keyring import Keyring
from cloud.online_key import OnlineKey
from cloud.trust import MetadataRepository
from device_agent.trust import DeviceTrust, Distrust, TrustError
from protocol.chunks import describe
from protocol.errors import IdentityError
from protocol.manifest import Blob
from protocol.phases import Reason
from protocol.signing import NOTICE_TYPE, Signature, pae
from tests.device_agent.trust.device import DAY_S, PATH, Device, nobody
from tests.support.repository import NOW_S, Repository, digest_of, manifest_of, signature

OTHER = describe([b"another image"])[0]


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


@pytest.mark.parametrize("change", [{"product": "pump"}, {"files": {}}, {"files": {"timestamp.json": "[1]"}}])
def test_a_bundle_that_is_none_of_ours_is_ignored(device: Device, change: dict[str, Any]) -> None:
    assert device.trust.offer_bundle(dataclasses.replace(device.repository.bundle(), **change)) is False


def test_the_clock_is_the_one_that_is_given(device: Device) -> None:
    device.update()
    for days in (2, 3650, 10**9):
        device.now_s = NOW_S + days * DAY_S
        device.restart()
        device.refuses(Distrust.EXPIRED)


def test_a_clock_without_a_battery_still_takes_what_is_new(device: Device) -> None:
    device.now_s = 0.0
    device.update()
    assert device.trust.signed_firmware(PATH).length == 9


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


def test_a_manifest_may_offer_more_than_the_image_itself(device: Device) -> None:
    image = describe([b"the image"])[0]
    patch = Blob(encoding="patch", ref=OTHER, source_digest="0" * 64)
    blobs = (patch, Blob(encoding="identity", ref=image))
    device.repository.add_firmware(image, version="2.0.0", seq=5, blobs=blobs)
    device.repository.publish()
    device.update()
    assert device.trust.signed_firmware("thermostat/app/2.0.0").manifest.blobs == blobs


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
