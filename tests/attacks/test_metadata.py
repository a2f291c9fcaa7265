"""Metadata: each role replayed, forged, expired, of too few or the wrong keys, of another product, and mixed up.

The intruder has the broker, stands in for the cloud, which is silent meanwhile, and has stolen its online key: it signs
notices, snapshots and timestamps as it likes. Where one more key is stolen, the test says so. What it never has is two
root keys, the targets key and the product's key at once.
"""

import json
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # the same

from protocol.values import FirmwareRef
from tests.attacks.attacker import TOPICS, FalseCloud, Files, metadata, now
from tests.attacks.evidence import ATTEMPT
from tests.attacks.forging import ONLINE, evil_target, with_target
from tests.attacks.scene import Scene


class Campaign:
    """One attempt to have evil firmware believed."""

    def __init__(self, scene: Scene, false_cloud: FalseCloud) -> None:
        self.scene, self.false_cloud = scene, false_cloud
        self.image = scene.next_image()
        self.files = scene.files()
        self.online = scene.key("online")

    @property
    def wanted(self) -> FirmwareRef:
        return self.scene.reference(self.image)

    def expect(self, code: str, *, trust: Collection[str] = (), asked: Mapping[str, bytes] | None = None) -> None:
        """Offer the bundle and the firmware; fails unless the device refuses the metadata by this code.

        `asked` is what the false cloud answers besides, by file name; `trust` what may be on the disk afterwards.
        """
        scene, before = self.scene, self.scene.at_rest()
        with scene.refusing(code, besides=ATTEMPT | {"seen", *trust}):
            with self.false_cloud.reigning():
                self.false_cloud.files = {**self.files.files, **self.files.more, **(asked or {})}
                scene.intruder.say(TOPICS.bundle(scene.product), self.files.bundle)
                with scene.wanting(self.wanted, code=code):
                    pass
                scene.at_rest()
            if trust:
                scene.overtake()
            told = scene.told_since(before)
            version = self.image.version
            assert told == [(version, None, None), (version, "cancelled", "withdrawn")]


@pytest.fixture
def campaign(scene: Scene, false_cloud: FalseCloud) -> Campaign:
    return Campaign(scene, false_cloud)


def doubted(files: Files) -> Files:
    """Files whose timestamp claims to be newer, so that they are looked into, and is not signed."""
    timestamp = files.signed("timestamp")
    timestamp.version += 1
    files.put("timestamp", timestamp.version, metadata(timestamp, CryptoSigner.generate_ed25519()))
    return files


# Replays.


def test_a_replayed_timestamp_is_refused(campaign: Campaign) -> None:
    campaign.files = doubted(campaign.files)
    campaign.expect("rollback", asked={"timestamp.json": campaign.scene.old_files().files["timestamp.json"]})


def test_a_replayed_snapshot_is_refused(campaign: Campaign) -> None:
    """The stolen online key signs a new timestamp over the old snapshot, which was good once."""
    old = campaign.scene.old_files()
    campaign.files.put("snapshot", old.version("snapshot"), old.files[old.name_of("snapshot")])
    campaign.files.date(campaign.online)
    campaign.expect("rollback")


def test_a_replayed_product_role_is_refused(campaign: Campaign) -> None:
    """The same, one floor up: a new snapshot over the old role, in which newer firmware and floors are missing."""
    old, product = campaign.scene.old_files(), campaign.scene.product
    campaign.files.put(product, old.version(product), old.files[old.name_of(product)])
    campaign.files.vouch(campaign.online)
    campaign.expect("rollback", trust=ONLINE)


def test_a_replayed_targets_role_is_refused(campaign: Campaign) -> None:
    """In the old one a product that came later, or its new key, is missing."""
    scene, old = campaign.scene, campaign.scene.files()
    scene.fleet.product(f"later-{scene.device.device_id}")
    scene.takes_the_next_good_release()
    campaign.files = scene.files()
    campaign.files.put("targets", old.version("targets"), old.files[old.name_of("targets")])
    campaign.files.vouch(campaign.online)
    campaign.expect("rollback", trust=ONLINE)


def test_a_replayed_root_is_refused(campaign: Campaign) -> None:
    """The first root, said to be the second."""
    home = campaign.scene.fleet.office.home
    campaign.files.root_version += 1
    campaign.files = doubted(campaign.files)
    campaign.expect("rollback", asked={"2.root.json": (home / "cloud" / "metadata" / "1.root.json").read_bytes()})


def test_mixed_metadata_is_refused(campaign: Campaign) -> None:
    """Parts that were each good once, and never together: a new snapshot with an old role under the new one's name."""
    scene = campaign.scene
    old, image, group = scene.files(), scene.next_image(), scene.fleet.group("mixed")
    scene.device.stop()
    count = len(scene.intruder.heard(TOPICS.bundle(scene.product)))
    scene.fleet.push(image, "--group", group)
    scene.intruder.hear(TOPICS.bundle(scene.product), count + 1)
    campaign.files = scene.files()
    role = campaign.files.name_of(scene.product)
    campaign.files.files[role] = old.files[old.name_of(scene.product)]
    scene.intruder.say(TOPICS.bundle(scene.product), campaign.files.bundle, retain=True)
    scene.device.start()
    scene.fleet.expect_online(scene.device)
    campaign.expect("untrusted", trust=ONLINE)


# Forgeries.


def test_a_stolen_online_key_signs_no_firmware(campaign: Campaign) -> None:
    product = campaign.scene.product
    role = with_target(campaign.files.signed(product), evil_target(campaign.image))
    campaign.files.put(product, role.version, metadata(role, campaign.online))
    campaign.files.vouch(campaign.online)
    campaign.expect("bad_signature", trust=ONLINE)


@pytest.mark.parametrize(
    "signers", [("own",), ("root-1", "root-2", "root-3"), ("targets",), ()], ids=["own", "root", "targets", "nobody"]
)
def test_a_product_role_of_any_other_key_is_refused(campaign: Campaign, signers: tuple[str, ...]) -> None:
    scene = campaign.scene
    keys = [CryptoSigner.generate_ed25519() if name == "own" else scene.key(name) for name in signers]
    role = with_target(campaign.files.signed(scene.product), evil_target(campaign.image))
    campaign.files.put(scene.product, role.version, metadata(role, *keys))
    campaign.files.vouch(campaign.online)
    campaign.expect("bad_signature", trust=ONLINE)


def test_a_targets_role_that_delegates_to_the_intruder_is_refused(campaign: Campaign) -> None:
    """With its own key for the product, and everything below signed by that."""
    scene, own = campaign.scene, CryptoSigner.generate_ed25519()
    targets: Targets = campaign.files.signed("targets")
    targets.add_key(own.public_key, scene.product)  # under the same number: a higher one would only be in the way
    campaign.files.put("targets", targets.version, metadata(targets, campaign.online, own, scene.key("root-1")))
    role = with_target(campaign.files.signed(scene.product), evil_target(campaign.image))
    campaign.files.put(scene.product, role.version, metadata(role, own))
    campaign.files.vouch(campaign.online)
    campaign.expect("bad_signature", trust=ONLINE)


def next_root(scene: Scene, key: Any) -> Root:
    """A root that has the intruder's key for everything."""
    data = (scene.fleet.office.home / "cloud" / "metadata" / "1.root.json").read_bytes()
    root = Metadata[Root].from_bytes(data).signed
    root.version += 1
    for role in ("root", "targets", "snapshot", "timestamp"):
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        root.add_key(key.public_key, role)
        root.roles[role].threshold = 1
    return root


def test_a_root_of_too_few_signatures_is_refused(campaign: Campaign) -> None:
    """One root key of the two that are needed: alone, or with a garbled signature, an empty one, the online key's."""
    scene, own = campaign.scene, CryptoSigner.generate_ed25519()
    one = scene.key("root-1")
    good = Metadata[Root].from_bytes(metadata(next_root(scene, own), own, one))
    twice = good.to_dict()
    twice["signatures"].append(dict(twice["signatures"][1]))
    garbled = good.to_dict()
    other = scene.key("root-2").public_key.keyid
    garbled["signatures"].append({"keyid": other, "sig": twice["signatures"][1]["sig"]})
    empty = good.to_dict()
    empty["signatures"].append({"keyid": other, "sig": ""})
    campaign.files.root_version += 1
    campaign.files = doubted(campaign.files)
    forgeries = {
        "alone": good.to_bytes(),
        "garbled": Metadata[Root].from_dict(garbled).to_bytes(),
        "empty": Metadata[Root].from_dict(empty).to_bytes(),
        "with the online key": metadata(next_root(scene, own), own, one, campaign.online),
        "by nobody": metadata(next_root(scene, own)),
    }
    for forgery in forgeries.values():
        campaign.image = scene.next_image()
        campaign.files = doubted(scene.files())
        campaign.files.root_version += 1
        campaign.expect("bad_signature", asked={"2.root.json": forgery})


def test_the_same_signature_twice_is_refused(campaign: Campaign) -> None:
    """Who counts signatures, and not keys, would find the threshold reached."""
    scene, own = campaign.scene, CryptoSigner.generate_ed25519()
    root = Metadata[Root].from_bytes(metadata(next_root(scene, own), own, scene.key("root-1"))).to_dict()
    root["signatures"].append(root["signatures"][1])
    campaign.files = doubted(campaign.files)
    campaign.files.root_version += 1
    campaign.expect("untrusted", asked={"2.root.json": json.dumps(root).encode()})


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_what_has_expired_is_refused(campaign: Campaign, role: str) -> None:
    """Replayed to a device, or signed so: who withholds news can do that for as long as the last ones live."""
    if role == "timestamp":
        campaign.files.date(campaign.online, expires=timedelta(seconds=-1))
    else:
        snapshot = campaign.files.signed("snapshot")
        snapshot.version += 1
        snapshot.expires = now() - timedelta(seconds=1)
        campaign.files.put("snapshot", snapshot.version, metadata(snapshot, campaign.online))
        campaign.files.date(campaign.online)
    campaign.expect("expired", trust=ONLINE)
