"""Firmware: immutable, signed, releasable once it can be served; and the one action that does it all (R1, R2)."""

import zipfile
from pathlib import Path

from tuf.api.metadata import Metadata

from tests.cloud.homes import MODEL
from tests.support.fleet import Fleet


def test_a_firmware_says_what_it_is_and_who_signed_it(fleet: Fleet) -> None:
    image = fleet.images.thermostat("10.0.0", number=77)
    device = fleet.join("facts-1", image=fleet.images.thermostat("1.0.0"))
    group = fleet.group("facts", device)
    fleet.push(
        *(image, "--group", group, "--immediate"),
        *("--requires", "app=>=1.0.0", "--agent", "0.1.0", "--notes", "quieter"),
    )
    shown = fleet.json("firmware", "show", "10.0.0")
    facts = (shown["product"], shown["component"], shown["version"], shown["build"], shown["notes"])
    assert facts == ("thermostat", "app", "10.0.0", 77, "quieter")
    assert shown["requires"] == {"agent": "0.1.0", "components": {"app": ">=1.0.0"}}
    assert (shown["hardware_models"], shown["digest"], shown["size_bytes"]) == ([MODEL], image.digest, image.size_bytes)
    targets, role = (
        Metadata.from_dict(fleet.api("GET", f"/metadata/{name}.json")) for name in ("targets", "thermostat")
    )
    targets.signed.verify_delegate("thermostat", role.signed_bytes, role.signatures)
    assert list(role.signatures) == shown["signer_keyids"]
    home = fleet.office.home
    signing = [path.read_bytes() for path in (home / "operator" / "keys").glob("product-*.pem")]
    served = b"".join(path.read_bytes() for path in (home / "cloud").rglob("*") if path.is_file())
    assert signing
    assert not any(key.splitlines()[1] in served for key in signing), "the server holds a key that signs firmware"
    device.expect(image)
    fleet.expect_outcome(device, image)
    (component,) = fleet.json("device", "show", "facts-1")["components"]
    assert (component["version"], component["build"], component["digest"]) == ("10.0.0", 77, image.digest)


def test_a_version_never_becomes_another_image(fleet: Fleet) -> None:
    image = fleet.images.thermostat("10.1.0")
    device = fleet.join("immutable-1")
    group = fleet.group("immutable", device)
    fleet.push(image, "--group", group, "--immediate")
    device.expect(image)
    other = fleet.office.application("print('other')", name="other")
    said = fleet.call(
        "release", "push", other, "--version", "10.1.0", "--group", group, "--immediate", "--yes", expect=5
    )
    assert "exists already, with another image" in said.err
    assert fleet.json("firmware", "show", "10.1.0")["digest"] == image.digest
    assert [page["release"]["label"] for page in fleet.json("release", "list", "--group", group)] == [1]
    fleet.settle(device)
    fleet.expect_moves(device, image)


def test_only_what_is_published_whole_can_be_released(fleet: Fleet) -> None:
    image = fleet.images.thermostat("10.2.0")
    device = fleet.join("published-1")
    group = fleet.group("published", device)
    fleet.call("firmware", "role", "--to", "role-10.2.0.json")
    fleet.call("firmware", "sign", image.path, "--role", "role-10.2.0.json", "--to", "signed-10.2.0.json")
    signed = (fleet.directory / "signed-10.2.0.json").read_bytes()
    fleet.api("POST", "/products/thermostat/role", content=signed, expect=201)
    said = fleet.call("release", "push", "10.2.0", "--group", group, "--yes", expect=5)
    assert "is not published: its image cannot be served yet" in said.err
    fleet.api("PUT", f"/blobs/{image.digest}", content=b"not this image", expect=422)
    fleet.call("release", "push", "10.2.0", "--group", group, "--yes", expect=5)
    assert fleet.json("release", "list", "--group", group) == []
    fleet.api("PUT", f"/blobs/{image.digest}", content=image.path.read_bytes())
    page = fleet.json("release", "push", "10.2.0", "--group", group, "--immediate", "--yes")
    assert page["release"]["label"] == 1
    device.expect(image)


def test_one_action_packages_signs_uploads_releases_and_waits(fleet: Fleet, tmp_path: Path) -> None:
    with zipfile.ZipFile(fleet.images.thermostat("10.3.0").path) as archive:
        archive.extractall(tmp_path / "sources")
    device = fleet.join("one-action-1")
    group = fleet.group("one-action", device)
    push = ("release", "push", tmp_path / "sources", "--version", "10.3.0", "--group", group)
    asked = fleet.office.run(*push)
    assert asked.code == 2
    assert "reaches 1 of 1 device" in asked.out
    assert "10.3.0" not in [item["version"] for item in fleet.json("firmware", "list")], "sent before anybody agreed"
    said = fleet.office.run(*push, "--immediate", "--yes", "--wait", "--timeout", 60)
    assert said.code == 0, said
    assert "1 device updated" in said.out
    digest = fleet.json("firmware", "show", "10.3.0")["digest"]
    assert device.seen.runs("10.3.0", digest), "it was done waiting before the device ran it"
    (attempt,) = fleet.attempts(device)
    assert (attempt["outcome"], attempt["booted_digest"]) == ("succeeded", digest)
    assert [page["release"]["label"] for page in fleet.json("release", "list", "--group", group)] == [1]
