"""The server's repository: python-tuf's client takes all that it serves; it takes nothing that a client would not."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.exceptions import BadVersionNumberError
from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # the same

from cloud import metadata_files
from cloud.durable import write_durably
from cloud.key_files import load_key
from cloud.online_key import OnlineKey
from cloud.roles import ConflictingRoleError, TrustError
from cloud.trust import MetadataRepository
from protocol.codec import MAX_MESSAGE_BYTES, encode
from protocol.down import Notice
from protocol.signing import NOTICE_TYPE, pae, seal
from tests.cloud.repositories import House, Judge, manifest

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.add_product("thermostat")
    return house


@pytest.fixture
def judge(house: House, tmp_path: Path) -> Judge:
    return Judge(house.repository, house.keyring.roots()[0], tmp_path / "device")


@pytest.fixture(autouse=True)
def _device_directory(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()


def altered(house: House, role: bytes, change: Change, key: str = "product-thermostat") -> bytes:
    """A role with a change, signed with a key of the keyring as if nothing checked before signing."""
    plain = json.loads(role)["signed"]
    change(plain)
    metadata: Metadata[Targets] = Metadata(Targets.from_dict(plain))
    metadata.sign(load_key(house.directory / "operator" / f"{key}.pem"))
    return metadata.to_bytes()


def test_a_client_finds_published_firmware_with_all_that_was_signed_of_it(house: House, judge: Judge) -> None:
    house.publish("1.0.0", 1)
    found = judge.firmware("thermostat/app/1.0.0")
    assert found == manifest("1.0.0", 1, b"1.0.0")
    house.publish("1.1.0", 2)
    assert judge.firmware("thermostat/app/1.1.0") == manifest("1.1.0", 2, b"1.1.0")
    assert judge.firmware("thermostat/app/1.0.0") == found


def test_a_bundle_spares_a_client_every_question_but_the_one_for_the_next_root(house: House, judge: Judge) -> None:
    house.publish("1.0.0", 1)
    bundle = house.repository.bundle("thermostat")
    assert judge.firmware("thermostat/app/1.0.0", bundle) is not None
    assert judge.asked == ["2.root.json"]
    assert bundle.root_version == 1
    assert len(encode(bundle)) < 10_000


def test_a_bundle_leaves_out_what_does_not_fit_into_a_message(house: House, judge: Judge) -> None:
    image = b"big"
    big = replace(manifest("1.0.0", 1, image), notes="\u00e4" * 2000)
    role = house.role()
    for seq in range(1, 41):
        item = replace(big, version=f"1.{seq}.0", seq=seq)
        role = house.keyring.sign_firmware(role, item, len(image), item.blobs[0].ref.digest)
    house.repository.accept_product_role("thermostat", role)
    bundle = house.repository.bundle("thermostat")
    assert len(role) > MAX_MESSAGE_BYTES
    assert sorted(name.split(".")[-2] for name in bundle.files) == ["snapshot", "targets", "timestamp"]
    assert judge.firmware("thermostat/app/1.40.0", bundle) is not None
    assert judge.asked == ["2.root.json", "41.thermostat.json"]


def test_a_product_key_signs_for_its_own_product_alone(house: House, judge: Judge) -> None:
    house.add_product("doorbell")
    house.publish("1.0.0", 1, product="doorbell")
    assert judge.firmware("doorbell/app/1.0.0") is not None
    with pytest.raises(TrustError, match="not signed as it must be"):
        house.repository.accept_product_role("doorbell", house.sign("1.0.0", 1))
    foreign = altered(house, house.sign("1.0.0", 1), lambda role: _rename(role, "doorbell/app/9.0.0"))
    with pytest.raises(TrustError, match="holds the manifest of"):
        house.repository.accept_product_role("thermostat", foreign)
    assert judge.firmware("doorbell/app/9.0.0") is None


def _rename(role: dict[str, Any], path: str) -> None:
    role["targets"][path] = role["targets"].pop("thermostat/app/1.0.0")


def test_what_a_role_adds_is_told_and_told_again_for_the_same_bytes(house: House) -> None:
    first, role = house.sign("1.0.0", 1), house.role()
    added = house.repository.accept_product_role("thermostat", first)
    assert [(item.manifest.version, item.length) for item in added] == [("1.0.0", 5)]
    version = house.repository.version
    assert house.repository.accept_product_role("thermostat", first) == added
    assert house.reopen().accept_product_role("thermostat", first) == added
    second = house.repository.accept_product_role("thermostat", house.sign("1.1.0", 2))
    assert [item.manifest.version for item in second] == ["1.1.0"]
    assert house.repository.version > version
    with pytest.raises(ConflictingRoleError, match="version 1, and version 3 is here already"):
        house.repository.accept_product_role("thermostat", role)
    assert [item.manifest.version for item in house.repository.firmware("thermostat")] == ["1.0.0", "1.1.0"]
    assert house.repository.signers("thermostat") == (
        load_key(house.directory / "operator" / "product-thermostat.pem").public_key.keyid,
    )


def test_of_two_release_managers_the_second_is_told_to_sign_again(house: House) -> None:
    mine, theirs = house.sign("1.0.0", 1), house.sign("2.0.0", 1)
    house.repository.accept_product_role("thermostat", theirs)
    with pytest.raises(ConflictingRoleError, match="sign on top of it"):
        house.repository.accept_product_role("thermostat", mine)
    skipping = altered(house, mine, lambda role: role.update(version=7))
    with pytest.raises(ConflictingRoleError, match=r"thermostat/app/2\.0\.0 is missing"):
        house.repository.accept_product_role("thermostat", skipping)


REFUSED: list[tuple[str, Change]] = [
    ("version 1, and version 3 is here", lambda role: role.update(version=1)),
    ("jumps from version 3 to 5000", lambda role: role.update(version=5000)),
    ("version beyond", lambda role: role.update(version=10**12)),
    ("expired on 2020-01-01", lambda role: role.update(expires="2020-01-01T00:00:00Z")),
    (
        "is altered",
        lambda role: role["targets"]["thermostat/app/1.0.0"]["custom"]["fleetlift"].update(notes="other"),
    ),
    ("is missing", lambda role: role["targets"].pop("thermostat/app/1.0.0")),
    ("identity blob is not the image", lambda role: role["targets"]["thermostat/app/1.1.0"].update(length=6)),
    (
        "not a SHA-256",
        lambda role: role["targets"]["thermostat/app/1.1.0"].update(hashes={"sha512": "ab"}),
    ),
    ("has no 'fleetlift' object", lambda role: role["targets"]["thermostat/app/1.1.0"].pop("custom")),
    (
        "have the seq 1",
        lambda role: role["targets"]["thermostat/app/1.1.0"]["custom"]["fleetlift"].update(seq=1),
    ),
    ("would sink from 1 to 0", lambda role: role.pop("x-fleetlift-minimum-seq")),
    ("not a seq", lambda role: role.update({"x-fleetlift-minimum-seq": {"app": True}})),
    ("not a seq", lambda role: role.update({"x-fleetlift-minimum-seq": {"app": -1}})),
    ("not an id", lambda role: role.update({"x-fleetlift-minimum-seq": {"../app": 2}})),
    ("not an object", lambda role: role.update({"x-fleetlift-minimum-seq": [1]})),
    ("delegates further", lambda role: role.update(delegations={"keys": {}, "roles": []})),
]


@pytest.mark.parametrize(("reason", "change"), REFUSED)
def test_a_role_that_breaks_a_rule_is_refused_and_changes_nothing(house: House, reason: str, change: Change) -> None:
    house.publish("1.0.0", 1)
    floored = altered(house, house.role(), lambda role: role.update({"x-fleetlift-minimum-seq": {"app": 1}}))
    house.repository.accept_product_role("thermostat", _next(house, floored, 3))
    before = {path.name: path.read_bytes() for path in house.metadata.iterdir()}
    bad = altered(house, house.sign("1.1.0", 2), change)
    with pytest.raises(TrustError, match=reason):
        house.repository.accept_product_role("thermostat", bad)
    assert {path.name: path.read_bytes() for path in house.metadata.iterdir()} == before


def _next(house: House, role: bytes, version: int) -> bytes:
    return altered(house, role, lambda plain: plain.update(version=version))


def test_the_server_alone_cannot_make_a_role(house: House) -> None:
    plain = json.loads(house.sign("1.0.0", 1))["signed"]
    forged: Metadata[Targets] = Metadata(Targets.from_dict(plain))
    forged.sign(house.key.signer)
    with pytest.raises(TrustError, match="signed by 0/1 keys"):
        house.repository.accept_product_role("thermostat", forged.to_bytes())


GARBAGE = [b"", b"{", b"[]", b"null", b'{"signed":{}}', b"\xff", b"[" * 100_000, b"x" * 5_000_001]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused_by_name(house: House, garbage: bytes) -> None:
    with pytest.raises(TrustError, match=r"thermostat (is not TUF metadata|has 5000001 bytes)"):
        house.repository.accept_product_role("thermostat", garbage)
    with pytest.raises(TrustError, match="targets"):
        house.repository.accept_targets(garbage)
    with pytest.raises(TrustError, match="root"):
        house.repository.accept_root(garbage)


def test_what_cannot_have_been_signed_is_refused(house: House) -> None:
    """A number with a fraction has no canonical form, so there is nothing that a signature could be over."""
    role = json.loads(house.sign("1.0.0", 1))
    role["signed"]["x-fleetlift-minimum-seq"] = {"app": 1.5}
    with pytest.raises(TrustError, match="not signed as it must be"):
        house.repository.accept_product_role("thermostat", json.dumps(role).encode())


def test_metadata_of_another_type_is_refused(house: House) -> None:
    with pytest.raises(TrustError, match="type 'root', not 'targets'"):
        house.repository.accept_product_role("thermostat", house.keyring.root())


TARGETS_REFUSED: list[tuple[str, Change]] = [
    ("no longer delegates to thermostat", lambda role: role["delegations"].update(roles=[])),
    ("end the search there", lambda role: role["delegations"]["roles"][0].update(terminating=False)),
    ("must delegate thermostat", lambda role: role["delegations"]["roles"][0].update(paths=["*/*/*"])),
    ("signs firmware itself", lambda role: role.update(targets={"x": {"length": 1, "hashes": {"sha256": "ab"}}})),
    ("does not delegate by role names", lambda role: role.pop("delegations")),
    ("version 1, and version 2 is here already", lambda role: role.update(version=1)),
    ("expired", lambda role: role.update(expires="2020-01-01T00:00:00Z")),
]


@pytest.mark.parametrize(("reason", "change"), TARGETS_REFUSED)
def test_targets_that_break_a_rule_are_refused(house: House, reason: str, change: Change) -> None:
    def renewed(plain: dict[str, Any]) -> None:
        plain.update(version=3)
        change(plain)

    before = house.repository.version
    with pytest.raises(TrustError, match=reason):
        house.repository.accept_targets(altered(house, house.keyring.targets(), renewed, "targets"))
    assert house.repository.version == before


def test_a_product_may_be_announced_before_its_role_comes(house: House, judge: Judge) -> None:
    delegation = house.keyring.delegate("doorbell")
    house.repository.accept_targets(delegation.targets)
    assert house.repository.products() == ("thermostat",)
    with pytest.raises(TrustError, match="'doorbell' has no role"):
        house.repository.bundle("doorbell")
    assert house.repository.accept_product_role("doorbell", delegation.role) == ()
    house.repository.accept_targets(delegation.targets, {"doorbell": delegation.role})
    assert judge.firmware("doorbell/app/1.0.0") is None
    with pytest.raises(TrustError, match="does not delegate to product 'kettle'"):
        house.repository.accept_product_role("kettle", delegation.role)


def test_a_product_with_a_new_key_needs_its_role_in_the_same_breath(house: House, judge: Judge) -> None:
    house.publish("1.0.0", 1)
    new = CryptoSigner.generate_ed25519()

    def rotate(plain: dict[str, Any]) -> None:
        plain["version"] += 1
        plain["delegations"]["keys"] = {new.public_key.keyid: new.public_key.to_dict()}
        plain["delegations"]["roles"][0]["keyids"] = [new.public_key.keyid]

    targets = altered(house, house.keyring.targets(), rotate, "targets")
    with pytest.raises(TrustError, match="thermostat version 2 is not signed as it must be"):
        house.repository.accept_targets(targets)
    role: Metadata[Targets] = Metadata[Targets].from_bytes(house.role())
    role.signed.version += 1
    role.sign(new)
    house.repository.accept_targets(targets, {"thermostat": role.to_bytes()})
    assert judge.firmware("thermostat/app/1.0.0") is not None


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


def test_names_from_the_network_are_never_paths(house: House, tmp_path: Path) -> None:
    (tmp_path / "cloud" / "secret.json").write_text("{}")
    names = [
        "../secret.json",
        "..%2fsecret.json",
        "/etc/passwd",
        "online.pem",
        "",
        ".json",
        "1..root.json",
        "01.root.json",
    ]
    assert [house.repository.metadata(name) for name in names] == [None] * len(names)
    assert (
        house.repository.metadata("1.root.json")
        == house.repository.root_bytes
        == house.repository.metadata("root.json")
    )
    assert house.repository.metadata("1.timestamp.json") is None
    assert house.repository.metadata("timestamp.json") is not None
    assert house.repository.metadata("1.targets.json") != house.repository.metadata("2.targets.json")


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


def test_messages_are_signed_by_the_key_that_the_timestamp_role_names(house: House) -> None:
    notice = Notice(product="thermostat", group="everyone", component="app", seq=1, issued_at_ms=0, releases=())
    envelope = json.loads(seal(notice, NOTICE_TYPE, house.repository.sign))
    root: Metadata[Root] = Metadata[Root].from_bytes(house.repository.root_bytes)
    (signature,) = envelope["signatures"]
    assert root.signed.roles["timestamp"].keyids == [signature["keyid"]]
    (made,) = house.repository.sign(pae(NOTICE_TYPE, envelope["payload"].encode()))
    assert made.sig == signature["sig"]


def test_threads_that_publish_and_read_together_see_whole_states_only(house: House) -> None:
    """Bundles read while roles are accepted are each one state: a client takes every one of them."""
    bundles = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            bundles.append(house.repository.bundle("thermostat"))

    reader = threading.Thread(target=read)
    reader.start()
    for seq in range(1, 11):
        house.publish(f"1.{seq}.0", seq)
    done.set()
    reader.join()
    for bundle in {bundle.files["timestamp.json"]: bundle for bundle in bundles}.values():
        judge = Judge(house.repository, house.keyring.roots()[0])
        judge.target("thermostat/app/1.1.0", bundle)
        assert judge.asked == ["2.root.json"]
        shutil.rmtree(judge.directory)
