"""Firmware that is not for this device: another product's, another hardware's, retired, altered, or a bomb.

The intruder signs notices with the stolen online key. What is signed by the product's key is signed by the operator's
own keyring here, as a release manager does; the notice says something else of it, or the cloud offers what it must not.
"""

from typing import Any

import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets  # type: ignore[attr-defined]  # not exported explicitly

from cloud.keyring import next_seq
from protocol.chunks import BlobRef, describe
from protocol.manifest import Blob, Manifest, Requirements
from tests.attacks.attacker import TOPICS, FalseCloud, metadata, notice
from tests.attacks.evidence import ATTEMPT
from tests.attacks.forging import ONLINE, evil_target, with_target
from tests.attacks.scene import Scene
from tests.cloud.homes import PRODUCT
from tests.support.images import Image
from tests.support.processes import wait_until


def sign(scene: Scene, image: Image, **facts: Any) -> Manifest:
    """Have a release manager sign an image, and the cloud take the metadata; `facts` differ from what is usual."""
    ref = describe([image.path.read_bytes()])[0]
    fields: dict[str, Any] = {
        "product": PRODUCT,
        "component": "app",
        "version": image.version,
        "build": image.build,
        "seq": next_seq(scene.role(), PRODUCT, "app"),
        "hardware_models": ("raspberrypi4",),
        "blobs": (Blob(encoding="identity", ref=ref),),
    }
    manifest = Manifest(**fields | facts)
    scene.publish_role(lambda keyring, role: keyring.sign_firmware(role, manifest, image.size_bytes, image.digest))
    return manifest


def retire(scene: Scene, seq: int) -> None:
    """Have a release manager raise the floor, so that this firmware is below it."""
    scene.publish_role(lambda keyring, role: keyring.raise_floor(PRODUCT, role, "app", seq + 1))


def expect_failed(scene: Scene, wanted: Any, reason: str, *, besides: frozenset[str] = frozenset()) -> None:
    """Offer a firmware; fails unless the attempt fails for this reason, before a single chunk is asked for."""
    before, wants = scene.at_rest(), len(scene.intruder.heard(TOPICS.up(scene.group, "want")))
    with scene.refusing(besides=ATTEMPT | {"seen"} | besides):
        with scene.wanting(wanted):
            wait_until(lambda: scene.told_since(before)[-1:] == [(wanted.version, "failed", reason)], 15, reason)
        scene.at_rest()
        assert scene.told_since(before) == [(wanted.version, None, None), (wanted.version, "failed", reason)]
        assert len(scene.intruder.heard(TOPICS.up(scene.group, "want"))) == wants


@pytest.mark.parametrize(
    "said",
    [
        {"hardware_models": ("raspberrypi4",)},
        {"hardware_models": ("*",)},
    ],
    ids=["this-model", "any-model"],
)
def test_firmware_signed_for_other_hardware_is_refused_whatever_the_notice_says(
    scene: Scene, said: dict[str, Any]
) -> None:
    image = scene.next_image()
    manifest = sign(scene, image, hardware_models=("raspberrypi5",))
    expect_failed(scene, scene.reference(image, seq=manifest.seq, **said), "untrusted")


def test_firmware_for_other_hardware_is_not_even_attempted(scene: Scene) -> None:
    image = scene.next_image()
    manifest = sign(scene, image, hardware_models=("raspberrypi5",))
    wanted = scene.reference(image, seq=manifest.seq, hardware_models=("raspberrypi5",))
    evil = scene.offer(wanted)
    with scene.refusing(besides={"seen"}):
        scene.intruder.say(scene.channel_topic, notice(evil, scene.key("online")))
        wait_until(lambda: scene.device.heard(f"{scene.group}/app") == evil.seq, what="the notice was heard")


def test_firmware_that_needs_what_the_device_has_not_is_refused(scene: Scene) -> None:
    image = scene.next_image()
    manifest = sign(scene, image, requires=Requirements(agent="99.0.0"))
    expect_failed(scene, scene.reference(image, seq=manifest.seq), "untrusted")


@pytest.mark.parametrize("field", ["digest", "size_bytes", "build", "seq"])
def test_a_notice_that_says_something_else_of_a_signed_firmware_is_refused(scene: Scene, field: str) -> None:
    image, other = scene.next_image(), scene.next_image()
    manifest = sign(scene, image)
    lies: dict[str, Any] = {"digest": other.digest, "size_bytes": image.size_bytes + 1, "build": 7, "seq": 10**6}
    wanted = scene.reference(image, **{"seq": manifest.seq, field: lies[field]})
    expect_failed(scene, wanted, "untrusted")


def test_firmware_that_nobody_signed_is_refused(scene: Scene) -> None:
    """To the end: it is looked up again twice, with the bundle asked for, and then told as untrusted."""
    image, before = scene.next_image(), scene.at_rest()
    with scene.refusing("untrusted", besides=ATTEMPT | {"seen"}):
        with scene.wanting(scene.reference(image)):
            failed = (image.version, "failed", "untrusted")
            wait_until(lambda: failed in scene.told_since(before), 15, "the attempt's end")
        scene.fleet.expect_outcome(scene.device, image, "failed")


@pytest.mark.parametrize("named", [PRODUCT, None], ids=["ours", "its-own"])
def test_a_role_of_one_product_offers_nothing_of_another(
    scene: Scene, false_cloud: FalseCloud, named: str | None
) -> None:
    """Another product's key is stolen, too. Its role names our target, or its own; all above it agrees."""
    other = f"boiler-{scene.group}"
    if f"{other}.json" not in scene.files().signed("snapshot").meta:
        scene.fleet.product(other)
        scene.takes_the_next_good_release()
    image, files, before = scene.next_image(), scene.files(), scene.at_rest()
    directory = scene.fleet.office.home / "cloud" / "metadata"
    role: Targets = Metadata[Targets].from_bytes((directory / f"1.{other}.json").read_bytes()).signed
    role.version -= 1  # the same number in the end: a higher one would only be in the way of what is good
    evil = metadata(with_target(role, evil_target(image, product=named or other)), scene.key(f"product-{other}"))
    snapshot: Snapshot = files.signed("snapshot")
    snapshot.meta[f"{other}.json"] = MetaFile.from_data(role.version, evil, ["sha256"])
    snapshot.version += 1
    files.put("snapshot", snapshot.version, metadata(snapshot, scene.key("online")))
    files.date(scene.key("online"))
    files.files[f"{role.version}.{other}.json"] = evil
    with scene.refusing("untrusted", besides=ATTEMPT | ONLINE | {"seen"}):
        with false_cloud.reigning():
            false_cloud.files = files.files
            scene.intruder.say(TOPICS.bundle(PRODUCT), files.bundle)
            with scene.wanting(scene.reference(image), code="untrusted"):
                pass
            scene.at_rest()
        assert scene.told_since(before) == [(image.version, None, None), (image.version, "cancelled", "withdrawn")]
        scene.overtake()


BOMBS = {
    "unknown": ("zstd-of-tomorrow", {}),
    "xz": ("xz", {}),
    "patch": ("bsdiff", {"source_digest": "0" * 64}),
}


@pytest.mark.parametrize("encoding", BOMBS)
def test_an_encoding_that_the_device_cannot_bound_is_refused_before_anything_is_fetched(
    scene: Scene, encoding: str
) -> None:
    """A few bytes that would become 64 GiB: there is nothing on the device that would decode them."""
    name, more = BOMBS[encoding]
    image = scene.next_image()
    bomb = BlobRef(digest="e" * 64, size_bytes=1000, lists=("d" * 64,))
    manifest = sign(scene, image, blobs=(Blob(encoding=name, ref=bomb, **more),))
    expect_failed(scene, scene.reference(image, seq=manifest.seq), "incompatible", besides=frozenset({"failed"}))


def test_firmware_below_the_floor_is_refused(scene: Scene) -> None:
    """Signed well, once, and retired since: nobody's online key brings it back."""
    old = scene.next_image()
    manifest = sign(scene, old)
    scene.takes_the_next_good_release()
    retire(scene, manifest.seq)
    scene.takes_the_next_good_release()  # so the device has verified the new metadata, however busy it was
    wanted = scene.reference(old, seq=manifest.seq)
    floors = "SELECT seq FROM floors WHERE component = 'app'"
    wait_until(lambda: scene.device.journal(floors) == [{"seq": manifest.seq + 1}], what="the floor in the journal")
    evil = scene.offer(wanted)
    with scene.refusing(besides={"seen"}):  # it is not even attempted
        scene.intruder.say(scene.channel_topic, notice(evil, scene.key("online")))
        wait_until(lambda: scene.device.heard(f"{scene.group}/app") == evil.seq, what="the notice was heard")
