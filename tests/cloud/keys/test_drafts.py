"""Changes of keys and thresholds: signed by several people apart, published at once, followed by devices."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

from cloud.keys.changes import ONLINE
from cloud.keys.describing import describe
from cloud.keys.drafts import Draft
from cloud.keys.known_metadata import KeyringError
from cloud.keys.public_keys import labelled
from cloud.metadata_files import MetadataFiles
from cloud.roles import ConflictingRoleError, TrustError, signers_of
from tests.cloud.keys.holders import Holder, joined, keyid, operator_of, publish
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


def test_three_people_on_three_machines_rotate_a_root_key(house: House, judge: Judge) -> None:
    """Nobody has two of the keys; each signs on his own, and copies signed apart are laid together."""
    ann, bob, cem = (joined(house, name, f"root-{number}") for number, name in enumerate(("ann", "bob", "cem"), 1))
    key = ann.keyring.keys.create("root-2026", "Ann")
    assert key.key is not None
    changes = ann.changes()
    changes.replace_key("root", keyid(ann, "root-1"), key.key)
    draft = changes.draft()
    assert [line.split()[0] for line in describe(draft, ann.keyring.known)] == ["root:", "+", "-"]
    by_ann = ann.sign(draft)
    assert not ann.is_complete(by_ann), "two of the old and two of the new are needed, and she is one of each"
    with pytest.raises(TrustError, match="signed by 1/2 keys"):
        publish(house, by_ann)
    by_bob, by_cem = bob.sign(draft), cem.sign(draft)
    complete = by_ann.merged(by_bob)
    assert bob.is_complete(complete)
    assert publish(house, complete.merged(by_cem)) == ("root",)
    assert judge.firmware("thermostat/app/1.0.0") is not None
    bob.follow()
    with pytest.raises(KeyringError, match="key fetch"):
        bob.sign(draft)
    again = bob.changes()
    again.set_threshold("root", 3)
    with pytest.raises(KeyringError, match="different drafts"):
        bob.sign(again.draft()).merged(complete)


def test_a_revoked_root_key_signs_no_next_root(house: House, operator: Holder, judge: Judge) -> None:
    old = keyid(operator, "root-1")
    new = operator.keyring.keys.create("root-4").key
    assert new is not None
    changes = operator.changes()
    changes.replace_key("root", old, new)
    publish(house, operator.sign(changes.draft()))
    operator.follow()
    for name in ("root-2", "root-3", "root-4"):
        operator.keyring.keys.path(name).rename(operator.directory / f"{name}.away")
    signed = operator.sign(_renewal(operator, "root"))
    assert signed.pieces["root"].signatures == {}
    assert judge.firmware("thermostat/app/1.0.0") is not None


def _renewal(holder: Holder, *roles: str) -> Draft:
    changes = holder.changes()
    for role in roles:
        changes.renew(role)
    return changes.draft()


def test_a_device_five_root_versions_behind_follows(house: House, operator: Holder, judge: Judge) -> None:
    for number in range(5):
        new = operator.keyring.keys.create(f"root-new-{number}").key
        assert new is not None
        changes = operator.changes()
        oldest = next(iter(changes.holders("root")))
        changes.replace_key("root", oldest, new)
        publish(house, operator.sign(changes.draft()))
        operator.follow()
    assert house.repository.root_version == 6
    house.publish("1.1.0", 2)
    assert judge.firmware("thermostat/app/1.1.0", house.repository.bundle("thermostat")) is not None
    assert judge.asked == [f"{version}.root.json" for version in range(2, 8)]


def test_a_release_manager_is_added_publishes_alone_and_is_revoked(
    house: House, operator: Holder, judge: Judge
) -> None:
    alice = joined(house, "alice")
    key = alice.keyring.keys.create("alice", "Alice").key
    assert key is not None
    changes = operator.changes()
    changes.add_key("thermostat", key)
    assert publish(house, operator.sign(changes.draft())) == ("targets",)
    alice.follow()
    house.keyring = alice.keyring
    house.publish("1.1.0", 2)
    assert judge.firmware("thermostat/app/1.1.0") is not None
    operator.follow()
    assert house.repository.signers("thermostat") == (key.keyid,)

    revoking = operator.changes()
    revoking.revoke_key("thermostat", revoking.find("thermostat", "Alice"))
    draft = revoking.draft()
    assert list(draft.pieces) == ["targets", "thermostat"], "what she alone has signed is signed anew"
    assert publish(house, operator.sign(draft)) == ("targets", "thermostat")
    assert house.repository.signers("thermostat") == (keyid(operator, "product-thermostat"),)
    assert judge.firmware("thermostat/app/1.1.0") is not None
    alice.follow()
    with pytest.raises(Exception, match="is not here"):
        house.sign("6.6.6", 3)


def _copy(data: bytes) -> Metadata:  # type: ignore[type-arg]
    return Metadata.from_bytes(data)


def test_a_manager_whose_signature_is_not_needed_leaves_the_role_as_it_is(house: House, operator: Holder) -> None:
    key = operator.keyring.keys.create("bob").key
    assert key is not None
    changes = operator.changes()
    changes.add_key("thermostat", key)
    publish(house, operator.sign(changes.draft()))
    operator.follow()
    revoking = operator.changes()
    revoking.revoke_key("thermostat", key.keyid)
    assert list(revoking.draft().pieces) == ["targets"]


def test_a_product_may_need_two_managers(house: House, operator: Holder, judge: Judge) -> None:
    alice = joined(house, "alice")
    key = alice.keyring.keys.create("alice", "Alice").key
    assert key is not None
    changes = operator.changes()
    changes.add_key("thermostat", key)
    changes.set_threshold("thermostat", 2)
    draft = changes.draft()
    assert list(draft.pieces) == ["targets", "thermostat"]
    by_operator = operator.sign(draft)
    assert not operator.is_complete(by_operator)
    publish(house, alice.sign(by_operator))
    operator.follow()
    alice.follow()
    with pytest.raises(KeyringError, match="needs the signatures of 2 keys, and 1 of them are here"):
        house.sign("1.1.0", 2)


@pytest.mark.parametrize("role", ["targets", "thermostat"])
def test_an_offline_key_is_replaced_in_one_step(house: House, operator: Holder, judge: Judge, role: str) -> None:
    name = "targets" if role == "targets" else "product-thermostat"
    new = operator.keyring.keys.create("fresh").key
    assert new is not None
    changes = operator.changes()
    changes.replace_key(role, keyid(operator, name), new)
    draft = operator.sign(changes.draft())
    assert operator.is_complete(draft)
    publish(house, draft)
    assert judge.firmware("thermostat/app/1.0.0") is not None
    operator.follow()
    operator.keyring.keys.path(name).unlink()
    house.publish("1.1.0", 2)
    assert judge.firmware("thermostat/app/1.1.0") is not None


@pytest.mark.parametrize("written", range(6))
def test_a_crash_within_a_change_of_root_and_targets_leaves_one_of_both_whole(
    house: House, operator: Holder, judge: Judge, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets, root, snapshot, timestamp: the power goes before each of the writes, and after the last."""
    new = operator.keyring.keys.create("fresh").key
    assert new is not None
    changes = operator.changes()
    changes.replace_key("targets", keyid(operator, "targets"), new)
    draft = operator.sign(changes.draft())
    put, done = MetadataFiles.put, list[str]()

    def cut(files: MetadataFiles, role: str, file: object) -> None:
        if len(done) == written:
            raise KeyboardInterrupt
        done.append(role)
        put(files, role, file)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(MetadataFiles, "put", cut)
        if written < 5:
            with pytest.raises(KeyboardInterrupt):
                publish(house, draft)
        else:
            publish(house, draft)
            assert done == ["targets", "root", "targets", "snapshot", "timestamp"]
    judge.repository = house.reopen()
    assert house.repository.root_version == (1 if written < 2 else 2)
    assert judge.firmware("thermostat/app/1.0.0") is not None
    publish(house, draft)
    assert house.repository.root_version == 2
    house.publish("1.1.0", 2)
    assert judge.firmware("thermostat/app/1.1.0") is not None


Bad = Callable[[Holder], object]
REFUSED: list[tuple[str, Bad]] = [
    ("needs 1 of its 1 keys, so none can go", lambda h: h.changes().revoke_key("targets", keyid(h, "targets"))),
    ("does not sign for", lambda h: h.changes().revoke_key("root", keyid(h, "targets"))),
    ("signs for root already", lambda h: h.changes().add_key("root", h.keyring.keys.signer("root-1").public_key)),
    ("has 3 keys, so 4", lambda h: h.changes().set_threshold("root", 4)),
    ("needs 2 already", lambda h: h.changes().set_threshold("root", 2)),
    ("one key at a time", lambda h: h.changes().set_threshold(ONLINE, 2)),
    ("neither root, targets, online nor a product", lambda h: h.changes().set_threshold("kettle", 2)),
    ("no key of root can be meant", lambda h: h.changes().find("root", "nobody")),
    ("3 keys of root can be meant", lambda h: h.changes().find("root", "")),
    ("nothing is to be changed", lambda h: h.changes().draft()),
]


@pytest.mark.parametrize(("reason", "bad"), REFUSED)
def test_a_change_that_cannot_be_is_refused(operator: Holder, reason: str, bad: Bad) -> None:
    with pytest.raises(KeyringError, match=reason):
        bad(operator)


def test_the_servers_key_never_signs_firmware_or_root(house: House, operator: Holder) -> None:
    """Not even where the operator himself slips: neither his keyring nor the server takes such a change."""
    for role in ("root", "targets", "thermostat"):
        changes = operator.changes()
        changes.add_key(role, house.key.public)
        draft = changes.draft()
        with pytest.raises(TrustError, match="the server could sign"):
            operator.sign(draft)
        signed = draft.signed(operator.keyring.known, operator.keyring.signers)[0]
        with pytest.raises(TrustError, match="the server could sign"):
            publish(house, signed)


def test_one_key_under_two_ids_does_not_count_twice(house: House, operator: Holder) -> None:
    key = operator.keyring.keys.signer("root-1").public_key
    twin = labelled(key, "twin")
    twin.keyid = "ab" * 32
    changes = operator.changes()
    changes.add_key("root", twin)
    with pytest.raises(TrustError, match="one key under two ids"):
        operator.sign(changes.draft())


def test_a_draft_is_checked_against_what_the_signer_knows(house: House, operator: Holder) -> None:
    """Somebody who makes drafts may try to have a firmware forgotten, a product dropped, an old version signed."""
    changes = operator.changes()
    changes.renew("thermostat")
    draft = changes.draft()
    draft.roles["thermostat"].signed.targets.clear()
    with pytest.raises(ConflictingRoleError, match="is missing"):
        operator.sign(draft)
    targets = operator.changes()
    targets.renew("targets")
    dropped = targets.draft()
    assert dropped.targets is not None
    assert dropped.targets.signed.delegations is not None
    dropped.targets.signed.delegations.roles = {}
    with pytest.raises(TrustError, match="no longer delegates to thermostat"):
        operator.sign(dropped)
    old = Draft(roles={"thermostat": _copy(house.role())})
    with pytest.raises(KeyringError, match="came too late"):
        operator.sign(old)


GARBAGE = [b"", b"{", b"[]", b"{}", b'{"fleetlift-draft": 2}', b'{"fleetlift-draft": 1, "roles": []}', b"[" * 99_999]
GARBAGE += [b'{"fleetlift-draft": 1, "roles": {}, "more": "\\ud800"}']


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_a_file_that_is_no_draft_is_refused(garbage: bytes) -> None:
    with pytest.raises((KeyringError, TrustError), match=r"nothing was signed|not TUF"):
        Draft.from_bytes(garbage, "it")


def test_signatures_travel_in_the_file_and_a_change_voids_them(house: House, operator: Holder) -> None:
    signed = operator.sign(_renewal(operator, "root", "targets"))
    assert len(json.loads(signed.to_bytes())["root"]["signatures"]) == 3
    further = operator.changes(Draft.from_bytes(signed.to_bytes(), "it"))
    further.set_threshold("root", 3)
    again = further.draft()
    assert again.root is not None
    assert (again.root.signed.version, again.root.signatures) == (2, {})
    publish(house, operator.sign(again))
    root = operator.keyring.known.read_root()
    operator.follow()
    assert len(signers_of(root, "root", operator.keyring.known.read_root())) == 3


def test_a_forged_root_of_a_stranger_leads_nobody_astray(house: House, operator: Holder, tmp_path: Path) -> None:
    stranger = House(tmp_path / "stranger")
    second = stranger.keyring.renew_root()
    with pytest.raises(TrustError, match="root version 2 is not signed"):
        operator.keyring.known.follow_roots(lambda name: second if name == "2.root.json" else None)
    with pytest.raises((TrustError, UnsignedMetadataError)):
        house.repository.accept_root(second)
