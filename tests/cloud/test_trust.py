"""The server's repository: python-tuf's client takes all that it serves; it takes nothing that a client would not."""

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # the same

from cloud.key_files import load_key
from cloud.roles import ConflictingRoleError, TrustError
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
    smuggled = altered(house, house.sign("1.0.0", 1), _smuggle)
    with pytest.raises(TrustError, match="is not firmware of 'thermostat'"):
        house.repository.accept_product_role("thermostat", smuggled)
    assert judge.firmware("doorbell/app/9.0.0") is None


def _rename(role: dict[str, Any], path: str) -> None:
    role["targets"][path] = role["targets"].pop("thermostat/app/1.0.0")


def _smuggle(role: dict[str, Any]) -> None:
    _rename(role, "doorbell/app/9.0.0")
    role["targets"]["doorbell/app/9.0.0"]["custom"]["fleetlift"].update(product="doorbell", version="9.0.0")


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


def test_a_role_that_no_client_would_read_is_refused_though_it_is_signed(house: House) -> None:
    padded = house.sign("1.0.0", 1) + b" " * 5_000_000
    with pytest.raises(TrustError, match="clients read at most 5000000"):
        house.repository.accept_product_role("thermostat", padded)


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


def test_messages_are_signed_by_the_key_that_the_timestamp_role_names(house: House) -> None:
    notice = Notice(product="thermostat", group="everyone", component="app", seq=1, issued_at_ms=0, releases=())
    envelope = json.loads(seal(notice, NOTICE_TYPE, house.repository.sign))
    root: Metadata[Root] = Metadata[Root].from_bytes(house.repository.root_bytes)
    (signature,) = envelope["signatures"]
    assert root.signed.roles["timestamp"].keyids == [signature["keyid"]]
    (made,) = house.repository.sign(pae(NOTICE_TYPE, envelope["payload"].encode()))
    assert made.sig == signature["sig"]


def test_threads_that_publish_and_read_together_see_whole_states_only(house: House, tmp_path: Path) -> None:
    """Bundles read while roles are accepted are each one state: a client takes every one of them."""
    bundles = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            bundles.append(house.repository.bundle("thermostat"))

    reader = threading.Thread(target=read)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        for seq in range(1, 11):
            house.publish(f"1.{seq}.0", seq)
    finally:
        done.set()
        reader.join()
        sys.setswitchinterval(interval)
    for number, bundle in enumerate({encode(bundle): bundle for bundle in bundles}.values()):
        judge = Judge(house.repository, house.keyring.roots()[0], tmp_path / str(number))
        judge.target("thermostat/app/1.1.0", bundle)
        assert judge.asked == ["2.root.json", *bundle.patches]
