"""The sender is verified on every attempt: only an approved release manager's firmware is installed (S2)."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # the same

from cloud.config import Home
from cloud.key_files import load_key
from tests.attacks.attacker import TOPICS, FalseCloud, Intruder, metadata
from tests.attacks.evidence import ATTEMPT, new_entries
from tests.attacks.forging import ONLINE, evil_target, with_target
from tests.attacks.scene import Scene
from tests.support.fleet import Fleet
from tests.support.images import Image

pytestmark = pytest.mark.broker


@pytest.fixture
def intruder(fleet: Fleet) -> Iterator[Intruder]:
    """Somebody who has the broker."""
    with Intruder(fleet.broker.cloud_port, fleet.cloud_tls()) as somebody:
        yield somebody


class Manager:
    """A release manager on her own machine: a home with a keyring, and one key in it."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet, self.name, self.home = fleet, name, fleet.directory / name
        home = Home(fleet.office.home)
        root = hashlib.sha256((home.keys / "1.root.json").read_bytes()).hexdigest()
        self.do("key", "join", "--server", fleet.url, "--ca", home.operator_ca, "--token-file", home.token_file,
                "--root-sha256", root)  # fmt: skip
        self.do("key", "create", name, "--label", name.title(), "--no-passphrase")
        self.do("key", "public", name, "--to", self.public_key)

    @property
    def public_key(self) -> Path:
        """What she hands to the operator."""
        return self.home / f"{self.name}.pub.json"

    @property
    def key(self) -> CryptoSigner:
        """What she never hands to anybody."""
        return load_key(Home(self.home).keys / f"{self.name}.pem")

    def do(self, *words: object, expect: int = 0) -> str:
        """Run a command of hers; return what it said."""
        answer = self.fleet.call(*words, "--home", self.home, expect=expect)
        return answer.out + answer.err

    def push(self, image: Image, scene: Scene, *, expect: int = 0) -> str:
        """Release an image to the group of a scene."""
        words = ("release", "push", image.path, "--product", scene.product, "--group", scene.group, "--immediate")
        return self.do(*words, "--yes", expect=expect)


def signers(role: bytes) -> set[str]:
    return {signature["keyid"] for signature in json.loads(role)["signatures"]}


def trusted_role(scene: Scene) -> bytes:
    """What the device trusts to say which firmware its product has."""
    return (scene.device.state_dir / "metadata" / f"{scene.product}.json").read_bytes()


def published_role(scene: Scene) -> Metadata[Targets]:
    name = scene.files().name_of(scene.product)
    return Metadata.from_bytes(scene.files().files[name])


def test_only_an_approved_release_managers_firmware_is_installed_and_each_attempt_is_verified_anew(
    fleet: Fleet, intruder: Intruder
) -> None:
    product = fleet.product("approved")
    scene = Scene.begin(fleet, intruder, "asks-who-1", product=product)
    alice, first, second = Manager(fleet, "alice"), scene.next_image(), scene.next_image()

    alice.push(first, scene, expect=1)
    refused_by_the_server(scene, alice, first)
    fleet.call("key", "add", product, alice.public_key, "--yes")
    alice.push(first, scene)
    scene.device.expect(first)
    fleet.expect_outcome(scene.device, first)
    assert signers(trusted_role(scene)) == {alice.key.public_key.keyid}, "it was not her word that it was installed by"
    scene.takes_the_next_good_release()

    fleet.call("key", "revoke", product, "Alice", "--yes")
    alice.push(second, scene, expect=1)
    refused_by_the_server(scene, alice, second)
    scene.takes_the_next_good_release()
    server = fleet.office.server
    assert server is not None
    false_cloud = FalseCloud(intruder, server.pid)
    for image in (second, first):  # the one that she made since, and the one that was good enough before
        refused_by_the_device(scene, false_cloud, alice, image)


def refused_by_the_server(scene: Scene, manager: Manager, image: Image) -> None:
    """Send the server what she signed, past the command that would not."""
    before = published_role(scene).to_bytes()
    role = with_target(published_role(scene).signed, evil_target(image, product=scene.product))
    signed = metadata(role, manager.key).decode()
    answer: dict[str, Any] = scene.fleet.api("PUT", "/metadata", {"roles": {scene.product: signed}}, expect=422)
    assert "sign" in answer["message"]
    assert published_role(scene).to_bytes() == before


def refused_by_the_device(scene: Scene, false_cloud: FalseCloud, manager: Manager, image: Image) -> None:
    """Offer the device what she signed, with the cloud, its online key and the broker stolen."""
    files, online, before = scene.files(), scene.key("online"), scene.at_rest()
    role = with_target(files.signed(scene.product), evil_target(image, product=scene.product))
    files.put(scene.product, role.version, metadata(role, manager.key))
    files.vouch(online)
    with scene.refusing("bad_signature", besides=ATTEMPT | {"seen", *ONLINE}):
        with false_cloud.reigning():
            false_cloud.files = {**files.files, **files.more}
            scene.intruder.say(TOPICS.bundle(scene.product), files.bundle)
            with scene.wanting(scene.reference(image), code="bad_signature"):
                pass
            after = scene.at_rest()
        scene.overtake()
        told = [entry["attempt"] for entry in new_entries(before, after)]
        assert [item["version"] for item in told] == [image.version] * len(told)
        assert told[-1]["outcome"] == "cancelled"
        assert not scene.device.runs(image)
