"""The repository over the years: expiries, crashes, backups, new roots and keys; devices go on through all of it."""

import os
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.exceptions import BadVersionNumberError
from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # exported without saying so

from cloud import metadata_files
from cloud.durable import write_durably
from cloud.key_files import load_key
from cloud.metadata_files import MetadataFile, MetadataFiles
from cloud.online_key import OnlineKey
from cloud.roles import ConflictingRoleError, TrustError
from cloud.trust import MetadataRepository
from tests.cloud.repositories import House, Judge


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.add_product("thermostat")
    return house


@pytest.fixture
def judge(house: House, tmp_path: Path) -> Judge:
    return Judge(house.repository, house.keyring.roots()[0], tmp_path / "device")


def test_snapshot_and_timestamp_are_signed_anew_before_they_expire(house: House, judge: Judge) -> None:
    house.publish("1.0.0", 1)
    assert house.repository.resign_if_due() is False
    judge.target("thermostat/app/1.0.0")
    house.clock.advance(hours=13)
    version = house.repository.version
    assert house.repository.resign_if_due() is True
    assert house.repository.version > version
    assert _expires_in(house, "timestamp") == timedelta(days=1)
    assert _expires_in(house, "snapshot") == timedelta(days=6, hours=11)
    judge.target("thermostat/app/1.0.0")
    house.clock.advance(days=4)
    assert house.repository.resign_if_due(house.clock()) is True
    assert _expires_in(house, "snapshot") == timedelta(days=7)
    assert house.repository.resign_if_due() is False


def test_what_was_signed_under_a_clock_that_ran_ahead_is_signed_again(house: House, judge: Judge) -> None:
    house.clock.advance(days=3000)
    house.repository.resign_if_due()
    judge.target("thermostat/app/1.0.0")
    version = house.repository.version
    house.clock.advance(days=-3000)
    assert house.repository.resign_if_due() is True
    assert house.repository.version == version + 1
    assert _expires_in(house, "timestamp") == timedelta(days=1)
    judge.target("thermostat/app/1.0.0")


def _expires_in(house: House, name: str) -> timedelta:
    (expiry,) = (item for item in house.repository.expiries() if item.name == name)
    return expiry.expires_at - house.clock().replace(microsecond=0)


def test_expiries_warn_the_operator_two_months_ahead_and_of_a_server_that_cannot_sign(house: House) -> None:
    assert not any(item.due for item in house.repository.expiries())
    assert house.repository.expiries()[0].name == "timestamp"
    house.clock.advance(hours=19)
    assert [item.name for item in house.repository.expiries() if item.due] == ["timestamp"]
    house.clock.advance(days=310)
    house.repository.resign_if_due()
    due = [(item.name, item.renewed_by) for item in house.repository.expiries() if item.due]
    assert sorted(due) == [("root", "operator"), ("targets", "operator"), ("thermostat", "operator")]
    house.repository.accept_root(house.keyring.renew_root())
    house.repository.accept_targets(house.keyring.renew_targets(house.keyring.targets()))
    house.repository.accept_product_role("thermostat", house.keyring.renew_role("thermostat", house.role()))
    assert not any(item.due for item in house.repository.expiries())


def test_a_repository_whose_operator_forgot_it_still_opens_and_says_so(house: House) -> None:
    house.clock.advance(days=800)
    repository = house.reopen()
    assert {item.name for item in repository.expiries() if item.due} == {"root", "targets", "thermostat"}
    assert repository.bundle("thermostat").files


@pytest.mark.parametrize("survivors", range(4))
def test_a_crash_between_two_files_leaves_the_repository_as_it_was(
    house: House, judge: Judge, survivors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Role, snapshot and timestamp are three writes: each time one fewer of them happens before the power goes."""
    house.publish("1.0.0", 1)
    role = house.sign("1.1.0", 2)
    written: list[str] = []

    def write(path: Path, data: bytes) -> None:
        if len(written) == survivors:
            raise KeyboardInterrupt  # a power cut does not run error handlers that catch Exception
        written.append(path.name)
        write_durably(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(metadata_files, "write_durably", write)
        if survivors < 3:
            with pytest.raises(KeyboardInterrupt):
                house.repository.accept_product_role("thermostat", role)
        else:
            house.repository.accept_product_role("thermostat", role)
    judge.repository = house.reopen()
    assert (judge.firmware("thermostat/app/1.1.0") is not None) is (survivors == 3)
    assert house.repository.metadata("3.thermostat.json") == (role if survivors == 3 else None)
    added = house.repository.accept_product_role("thermostat", role)
    assert [item.manifest.version for item in added] == ["1.1.0"]
    assert judge.firmware("thermostat/app/1.1.0") is not None


def test_a_full_disk_changes_nothing_and_the_next_try_succeeds(
    house: House, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = house.sign("1.0.0", 1)
    names = {path.name for path in house.metadata.iterdir()}

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left"):
            house.repository.accept_product_role("thermostat", role)
    assert {path.name for path in house.metadata.iterdir()} == names
    assert judge.firmware("thermostat/app/1.0.0") is None
    house.repository.accept_product_role("thermostat", role)
    assert judge.firmware("thermostat/app/1.0.0") is not None


def test_a_repository_restored_from_a_backup_counts_upward_and_takes_the_operators_newest_role(
    house: House, judge: Judge, tmp_path: Path
) -> None:
    house.publish("1.0.0", 1)
    shutil.copytree(house.metadata, tmp_path / "backup")
    for seq in range(2, 5):
        house.clock.advance(seconds=10)
        house.publish(f"1.{seq}.0", seq)
    newest = house.role()
    assert judge.firmware("thermostat/app/1.4.0") is not None
    shutil.rmtree(house.metadata)
    shutil.copytree(tmp_path / "backup", house.metadata)
    house.clock.advance(hours=14)
    judge.repository = house.reopen()
    with pytest.raises(BadVersionNumberError):  # the device has seen a newer role: it waits for it
        judge.firmware("thermostat/app/1.0.0")
    added = house.repository.accept_product_role("thermostat", newest)
    assert len(added) == 3
    assert judge.firmware("thermostat/app/1.4.0") is not None


def test_a_lost_timestamp_is_signed_anew_and_devices_go_on(house: House, judge: Judge) -> None:
    house.publish("1.0.0", 1)
    judge.target("thermostat/app/1.0.0")
    for content in (None, b""):  # gone, or emptied as a power cut can leave a file that was not synced
        house.clock.advance(seconds=2)
        path = house.metadata / "timestamp.json"
        path.unlink() if content is None else path.write_bytes(content)
        judge.repository = house.reopen()
        assert judge.firmware("thermostat/app/1.0.0") is not None


@pytest.mark.parametrize("name", ["1.root.json", "2.thermostat.json", "2.targets.json"])
def test_a_missing_or_damaged_file_is_named(house: House, name: str) -> None:
    house.publish("1.0.0", 1)
    content = (house.metadata / name).read_bytes()
    role = name.split(".")[1]
    for damage in (content[:-9], content.replace(b'"sig":"', b'"sig":"0')):
        (house.metadata / name).write_bytes(damage)
        with pytest.raises(TrustError, match=role):
            house.reopen()
    (house.metadata / name).unlink()
    with pytest.raises(TrustError, match=r"is missing|has no root"):
        house.reopen()


def test_bytes_that_say_the_same_and_are_others_are_damage(house: House) -> None:
    """Devices check the digest of the file's bytes, which signatures do not cover."""
    path = house.metadata / "1.thermostat.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(TrustError, match=r"is damaged \(thermostat\)"):
        house.reopen()


@pytest.mark.parametrize("role", ["targets", "thermostat"])
def test_somebody_with_the_disk_and_the_online_key_cannot_put_an_offline_role_there(house: House, role: str) -> None:
    files = {
        name: MetadataFiles(house.metadata).read(f"{2 - (name != 'targets')}.{name}.json", Targets)
        for name in ("targets", "thermostat")
    }
    forged: Metadata[Targets] = files[role].metadata
    forged.signed.version += 1
    forged.sign(house.key.signer)
    files[role] = MetadataFile(forged.to_bytes(), forged)
    snapshot = house.key.snapshot(files, house.repository.version, house.clock())
    for name, file in ((role, files[role]), ("snapshot", snapshot)):
        MetadataFiles(house.metadata).put(name, file)
    MetadataFiles(house.metadata).put(
        "timestamp", house.key.timestamp(snapshot, house.repository.version, house.clock())
    )
    with pytest.raises(TrustError, match=f"{role} version {forged.signed.version} is not signed as it must be"):
        house.reopen()


def test_a_chain_of_roots_with_a_strangers_link_is_refused(house: House, tmp_path: Path) -> None:
    stranger = House(tmp_path / "stranger")
    second = stranger.keyring.renew_root()
    with pytest.raises(TrustError, match="root version 2 is not signed as it must be"):
        MetadataRepository.create(
            tmp_path / "new", house.key, roots=(house.keyring.root(), second), targets=house.keyring.targets()
        )
    with pytest.raises(TrustError, match="root version 2 is missing"):
        MetadataRepository.create(
            tmp_path / "new",
            house.key,
            roots=(house.keyring.root(), house.keyring.root()),
            targets=house.keyring.targets(),
        )
    assert not (tmp_path / "new").exists()


def test_old_versions_go_in_time_and_roots_stay(house: House) -> None:
    for seq in range(1, 26):
        house.publish(f"1.{seq}.0", seq)
    for _ in range(25):
        house.repository.accept_root(house.keyring.renew_root())
    counts = [len(list(house.metadata.glob(f"*.{role}.json"))) for role in ("thermostat", "snapshot", "root")]
    assert counts == [20, 20, 26]


def test_roots_follow_one_another_and_clients_follow_them(house: House, judge: Judge) -> None:
    house.publish("1.0.0", 1)
    roots = [house.keyring.renew_root(), house.keyring.renew_root()]
    with pytest.raises(ConflictingRoleError, match="version 3, 2 comes next"):
        house.repository.accept_root(roots[1])
    for root in roots:
        house.repository.accept_root(root)
        house.repository.accept_root(root)
    assert house.repository.root_version == house.repository.bundle("thermostat").root_version == 3
    assert judge.firmware("thermostat/app/1.0.0", house.repository.bundle("thermostat")) is not None
    assert judge.asked == ["2.root.json", "3.root.json", "4.root.json"]
    assert house.reopen().root_version == 3


def signed_root(house: House, change: Callable[[Root], None], signers: Iterable[CryptoSigner]) -> bytes:
    """The next root with a change, signed by whoever wants to."""
    root: Metadata[Root] = Metadata[Root].from_bytes(house.repository.root_bytes)
    root.signed.version += 1
    change(root.signed)
    root.signatures.clear()
    for signer in signers:
        root.sign(signer, append=True)
    return root.to_bytes()


def offline_keys(house: House) -> list[CryptoSigner]:
    return [load_key(house.directory / "operator" / f"root-{number}.pem") for number in (1, 2, 3)]


@pytest.mark.parametrize("who", ["the old keys alone", "the new keys alone", "both"])
def test_new_root_keys_need_the_signatures_of_the_old_and_of_the_new(house: House, judge: Judge, who: str) -> None:
    old, new = offline_keys(house), [CryptoSigner.generate_ed25519() for _ in range(3)]

    def replace(root: Root) -> None:
        for signer in old:
            root.revoke_key(signer.public_key.keyid, "root")
        for signer in new:
            root.add_key(signer.public_key, "root")

    signers = {"the old keys alone": old, "the new keys alone": new, "both": [*old, *new]}[who]
    data = signed_root(house, replace, signers)
    if who == "both":
        house.repository.accept_root(data)
        assert judge.target("thermostat/app/1.0.0", house.repository.bundle("thermostat")) is None
        assert judge.asked == ["2.root.json", "3.root.json"]
    else:
        with pytest.raises(TrustError, match="signed by 0/2 keys"):
            house.repository.accept_root(data)
        assert house.repository.root_version == 1


def _new_targets_key(root: Root) -> None:
    root.revoke_key(root.roles["targets"].keyids[0], "targets")
    root.add_key(CryptoSigner.generate_ed25519().public_key, "targets")


def _no_consistent_snapshots(root: Root) -> None:
    root.consistent_snapshot = False


def _expired(root: Root) -> None:
    root.expires = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_new_targets_key, "targets version 2 is not signed as it must be"),
        (_no_consistent_snapshots, "without consistent snapshots"),
        (_expired, "expired on 2020-01-01"),
    ],
)
def test_a_root_under_which_devices_could_not_go_on_is_refused(
    house: House, judge: Judge, change: Callable[[Root], None], reason: str
) -> None:
    with pytest.raises(TrustError, match=reason):
        house.repository.accept_root(signed_root(house, change, offline_keys(house)))
    assert house.reopen().root_version == 1
    judge.target("thermostat/app/1.0.0")


def test_a_root_that_too_few_signed_is_refused(house: House) -> None:
    root: Metadata[Root] = Metadata[Root].from_bytes(house.keyring.renew_root())
    root.signatures.pop(next(iter(root.signatures)))
    root.signatures.pop(next(iter(root.signatures)))
    with pytest.raises(TrustError, match="signed by 1/2 keys"):
        house.repository.accept_root(root.to_bytes())


def test_the_servers_key_is_replaced_in_two_roots(house: House, judge: Judge, tmp_path: Path) -> None:
    house.publish("1.0.0", 1)
    judge.target("thermostat/app/1.0.0")
    new, old = OnlineKey.load_or_create(tmp_path / "cloud" / "new.pem"), house.key
    with pytest.raises(TrustError, match="does not let this server's key sign snapshot"):
        MetadataRepository(house.metadata, new)
    house.repository.accept_root(house.keyring.add_online_key(new.public))
    house.key = new
    judge.repository = house.reopen()
    revoking = house.keyring.revoke_online_key(old.public.keyid)
    house.repository.accept_root(revoking)
    assert judge.firmware("thermostat/app/1.0.0") is not None
    house.key = old
    with pytest.raises(TrustError, match="does not let this server's key sign"):
        house.reopen()


def test_a_root_without_the_servers_key_is_refused(house: House, tmp_path: Path) -> None:
    stranger = OnlineKey.load_or_create(tmp_path / "stranger.pem")
    house.keyring.add_online_key(stranger.public)
    without_us = house.keyring.revoke_online_key(house.key.public.keyid)
    house.repository.accept_root(house.keyring.roots()[1])
    with pytest.raises(TrustError, match="does not let this server's key"):
        house.repository.accept_root(without_us)
    assert house.reopen().root_version == 2


def test_creating_again_completes_what_was_interrupted_and_never_replaces(house: House, tmp_path: Path) -> None:
    roots, targets = house.keyring.roots(), house.keyring.targets()
    (house.metadata / "timestamp.json").unlink()
    again = MetadataRepository.create(house.metadata, house.key, roots=roots, targets=targets, now=house.clock)
    assert again.root_version == 1
    other = House(tmp_path / "other")
    with pytest.raises(TrustError, match="another root already; nothing was changed"):
        MetadataRepository.create(
            house.metadata, other.key, roots=other.keyring.roots(), targets=other.keyring.targets()
        )
    with pytest.raises(TrustError, match="not a metadata repository"):
        MetadataRepository(tmp_path / "nowhere", house.key)
