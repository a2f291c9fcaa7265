"""The server's key is replaced: without a gap in routine, at once when it was stolen; devices follow either way."""

from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.exceptions import BadVersionNumberError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Snapshot, Timestamp  # type: ignore[attr-defined]  # the same

from cloud.key_files import load_key
from cloud.keys.changes import ONLINE
from cloud.metadata_files import MetadataFiles
from cloud.online_key import OnlineKey
from cloud.roles import MAX_VERSION, TrustError
from device_agent.trust import DeviceTrust
from device_agent.trust import TrustError as DeviceTrustError
from protocol.down import Notice
from protocol.signing import NOTICE_TYPE, Signature, pae, seal, unseal
from tests.cloud.keys.holders import Holder, operator_of, publish
from tests.cloud.repositories import House, Judge


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
def judge(house: House, tmp_path: Path) -> Judge:
    judge = Judge(house.repository, house.keyring.roots()[0], tmp_path / "device")
    assert judge.firmware("thermostat/app/1.0.0") is not None
    return judge


@pytest.fixture
def device(house: House, tmp_path: Path) -> DeviceTrust:
    """A device's own trust, fed by what the repository has."""

    def ask(name: str) -> bytes | None:
        return house.repository.metadata(name)

    trust = DeviceTrust(
        tmp_path / "agent",
        house.keyring.roots()[0],
        "thermostat",
        ask=ask,
        now=lambda: house.clock().timestamp(),
    )
    trust.offer_bundle(house.repository.bundle("thermostat"))
    trust.refresh()
    return trust


def add_next(house: House, operator: Holder) -> None:
    changes = operator.changes()
    changes.add_key(ONLINE, house.repository.prepare_online_key())
    publish(house, operator.sign(changes.draft()))
    operator.follow()


def drop_old(house: House, operator: Holder) -> None:
    changes = operator.changes()
    following = house.repository.prepare_online_key().keyid
    for keyid in set(changes.holders(ONLINE)) - {following}:
        changes.revoke_key(ONLINE, keyid)
    publish(house, operator.sign(changes.draft()))
    operator.follow()


def replace_at_once(house: House, operator: Holder) -> None:
    following = house.repository.prepare_online_key()
    changes = operator.changes()
    old = list(changes.holders(ONLINE))
    changes.add_key(ONLINE, following)
    for keyid in old:
        changes.revoke_key(ONLINE, keyid)
    publish(house, operator.sign(changes.draft()))
    operator.follow()


def sealed(house: House) -> bytes:
    notice = Notice(product="thermostat", group="everyone", component="app", seq=1, issued_at_ms=0, releases=())
    return seal(notice, NOTICE_TYPE, house.repository.sign)


def key_names(house: House) -> list[str]:
    return sorted(path.name for path in (house.directory / "cloud").glob("*.pem"))


def test_a_routine_change_leaves_no_moment_in_which_anybody_is_refused(
    house: House, operator: Holder, judge: Judge, device: DeviceTrust
) -> None:
    old = house.key.public.keyid
    next_key = house.repository.prepare_online_key()
    assert house.repository.prepare_online_key() == next_key, "it is made once"
    unseal(sealed(house), NOTICE_TYPE, Notice, device.verify)

    add_next(house, operator)
    envelope = sealed(house)
    unseal(envelope, NOTICE_TYPE, Notice, device.verify)  # a device that has not heard of the new root
    assert judge.firmware("thermostat/app/1.0.0") is not None
    assert key_names(house) == ["online-next.pem", "online.pem"]
    house.reopen()

    drop_old(house, operator)
    assert key_names(house) == ["online.pem"]
    assert house.key.public.keyid == next_key.keyid
    late = sealed(house)
    with pytest.raises(DeviceTrustError, match=r"signed by 0/1"):
        unseal(late, NOTICE_TYPE, Notice, device.verify)
    device.offer_bundle(house.repository.bundle("thermostat"))
    assert device.is_behind
    device.refresh()
    unseal(late, NOTICE_TYPE, Notice, device.verify)
    assert judge.firmware("thermostat/app/1.0.0") is not None
    root = operator.keyring.known.read_root().signed
    assert root.roles["timestamp"].keyids == root.roles["snapshot"].keyids == [next_key.keyid] != [old]
    judge.repository = house.reopen()
    assert judge.firmware("thermostat/app/1.0.0") is not None


def test_a_stolen_key_is_refused_by_every_device_that_has_the_next_root(
    house: House, operator: Holder, device: DeviceTrust
) -> None:
    thief = load_key(house.directory / "cloud" / "online.pem")
    replace_at_once(house, operator)
    device.offer_bundle(house.repository.bundle("thermostat"))
    device.refresh()
    notice = Notice(product="thermostat", group="everyone", component="app", seq=9, issued_at_ms=0, releases=())

    def sign(data: bytes) -> tuple[Signature, ...]:
        made = thief.sign(data)
        return (Signature(keyid=made.keyid, sig=made.signature),)

    with pytest.raises(DeviceTrustError):
        unseal(seal(notice, NOTICE_TYPE, sign), NOTICE_TYPE, Notice, device.verify)
    device.verify(pae(NOTICE_TYPE, b"{}"), house.repository.sign(pae(NOTICE_TYPE, b"{}")))
    house.clock.advance(hours=13)
    house.repository.resign_if_due()
    forged: Metadata[Timestamp] = Metadata[Timestamp].from_bytes(house.repository.metadata("timestamp.json") or b"")
    forged.signed.version += 1
    forged.sign(thief)
    bundle = house.repository.bundle("thermostat")
    files = dict(bundle.files) | {"timestamp.json": forged.to_bytes().decode()}
    device.offer_bundle(type(bundle)(product="thermostat", root_version=bundle.root_version, files=files))
    device.refresh()  # the forged bundle is no good, so the cloud itself is asked
    assert house.repository.version == device._timestamp_version


def fast_forward(house: House, thief: CryptoSigner, version: int) -> None:
    """Put snapshot and timestamp of the highest versions in the repository, as a thief on the server can."""
    files = MetadataFiles(house.metadata)
    snapshot: Metadata[Snapshot] = Metadata[Snapshot].from_bytes(house.repository.metadata("snapshot.json") or b"")
    snapshot.signed.version = version
    snapshot.sign(thief)
    timestamp: Metadata[Timestamp] = Metadata[Timestamp].from_bytes(house.repository.metadata("timestamp.json") or b"")
    timestamp.signed.version = timestamp.signed.snapshot_meta.version = version
    timestamp.signed.snapshot_meta.hashes = None
    timestamp.signed.snapshot_meta.length = None
    timestamp.sign(thief)
    (files.directory / f"{version}.snapshot.json").write_bytes(snapshot.to_bytes())
    (files.directory / "timestamp.json").write_bytes(timestamp.to_bytes())


def test_versions_begin_anew_after_a_fast_forward_on_server_and_devices(
    house: House, operator: Holder, judge: Judge, device: DeviceTrust
) -> None:
    """TUF 5.3.11: the thief has signed the highest version there is, and devices have seen it."""
    fast_forward(house, load_key(house.directory / "cloud" / "online.pem"), MAX_VERSION)
    judge.repository = house.reopen()
    assert judge.firmware("thermostat/app/1.0.0") is not None
    device.offer_bundle(house.repository.bundle("thermostat"))
    device.refresh()
    assert house.repository.version == MAX_VERSION == device._timestamp_version

    replace_at_once(house, operator)
    assert house.repository.version < MAX_VERSION
    assert abs(house.repository.version - house.clock().timestamp()) < 60
    house.publish("1.1.0", 2)
    assert judge.firmware("thermostat/app/1.1.0") is not None
    assert device.offer_bundle(house.repository.bundle("thermostat"))
    device.refresh()
    assert device.signed_firmware("thermostat/app/1.1.0").length == 5
    judge.repository = house.reopen()
    assert judge.firmware("thermostat/app/1.1.0") is not None
    assert not list(house.metadata.glob(f"{MAX_VERSION}.snapshot.json"))
    for seq in range(3, 30):  # the old, high versions must not push the new ones out
        house.publish(f"1.{seq}.0", seq)
    judge.repository = house.reopen()
    assert judge.firmware("thermostat/app/1.29.0") is not None


def test_while_the_thiefs_key_is_still_named_his_versions_count(house: House, operator: Holder, judge: Judge) -> None:
    """Why a stolen key is replaced at once, and not beside the old one."""
    thief = load_key(house.directory / "cloud" / "online.pem")
    genuine = {name: (house.metadata / name).read_bytes() for name in ("timestamp.json",)}
    fast_forward(house, thief, MAX_VERSION - 5)
    judge.repository = house.reopen()
    judge.target("thermostat/app/1.0.0")
    for name, data in genuine.items():
        (house.metadata / name).write_bytes(data)
    (house.metadata / f"{MAX_VERSION - 5}.snapshot.json").unlink()
    judge.repository = house.reopen()
    add_next(house, operator)
    with pytest.raises(BadVersionNumberError):
        judge.target("thermostat/app/1.0.0")
    drop_old(house, operator)
    assert judge.firmware("thermostat/app/1.0.0") is not None


def test_a_root_that_names_no_key_of_this_server_is_refused(house: House, operator: Holder) -> None:
    stranger = CryptoSigner.generate_ed25519().public_key
    changes = operator.changes()
    changes.replace_key(ONLINE, house.key.public.keyid, stranger)
    with pytest.raises(TrustError, match="does not let this server's key sign"):
        publish(house, operator.sign(changes.draft()))
    assert house.repository.root_version == 1


@pytest.mark.parametrize("step", ["next made", "root names both", "root names the next alone"])
def test_a_server_that_restarts_between_the_steps_goes_on(
    house: House, operator: Holder, judge: Judge, tmp_path: Path, step: str
) -> None:
    """The files alone say which key signs: a fresh process knows no more than they do."""
    house.repository.prepare_online_key()
    if step == "root names both":
        add_next(house, operator)
    if step == "root names the next alone":  # ... and the power goes before the old key is replaced by it
        old, following = (tmp_path / "cloud" / name for name in ("online.pem", "online-next.pem"))
        before = {path: path.read_bytes() for path in (old, following)}
        replace_at_once(house, operator)
        for path, data in before.items():
            path.write_bytes(data)
            path.chmod(0o600)
    house.key = OnlineKey.load_or_create(tmp_path / "cloud" / "online.pem")
    judge.repository = house.reopen()
    assert judge.firmware("thermostat/app/1.0.0") is not None
    if step == "root names the next alone":
        assert key_names(house) == ["online.pem"]
    else:
        drop_old(house, operator) if step == "root names both" else replace_at_once(house, operator)
    judge.repository = house.reopen()
    assert judge.firmware("thermostat/app/1.0.0") is not None


def test_the_old_key_cannot_sign_for_a_device_that_begins_anew(house: House, operator: Holder, tmp_path: Path) -> None:
    thief = load_key(house.directory / "cloud" / "online.pem")
    replace_at_once(house, operator)
    timestamp: Metadata[Timestamp] = Metadata[Timestamp].from_bytes(house.repository.metadata("timestamp.json") or b"")
    timestamp.sign(thief)
    (house.metadata / "timestamp.json").write_bytes(timestamp.to_bytes())
    fresh = Judge(house.repository, house.keyring.roots()[0], tmp_path / "fresh")
    bundle = house.repository.bundle("thermostat")
    files = dict(bundle.files) | {"timestamp.json": timestamp.to_bytes().decode()}
    with pytest.raises(UnsignedMetadataError):
        fresh.target("thermostat/app/1.0.0", type(bundle)(product="thermostat", root_version=2, files=files))
