"""What a device refuses: everything that somebody else could say in a repository's name."""

import dataclasses
import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import MetaFile, TargetFile  # type: ignore[attr-defined]  # the same

from device_agent.trust import Distrust
from protocol.chunks import describe
from protocol.down import Bundle
from protocol.identity import MAX_INTEGER
from protocol.manifest import CUSTOM_FIELD, to_custom
from protocol.phases import Reason
from tests.device_agent.trust.device import DAY_S, PATH, Device, altered, nobody
from tests.support.repository import NOW_S, Repository, at, manifest_of, sign


def test_an_old_bundle_is_ignored(device: Device) -> None:
    old = device.repository.bundle()
    device.repository.publish()
    device.update()
    assert device.trust.offer_bundle(old) is False
    device.restart()
    assert device.trust.offer_bundle(old) is False
    device.ask = nobody
    device.refuses(Distrust.UNREACHABLE)


def test_old_metadata_in_answer_to_a_question_is_refused(device: Device) -> None:
    old = dict(device.repository.files)
    device.repository.publish()
    device.update()
    device.restart()
    device.ask = old.get
    assert device.refuses(Distrust.ROLLBACK).reason is Reason.UNTRUSTED
    device.ask = device.repository.ask
    device.trust.refresh()


def test_a_forged_bundle_costs_questions_and_nothing_else(device: Device) -> None:
    mallory = Repository("thermostat")
    mallory.root.version = 1
    mallory.add_firmware(b"malware", version="9.0.0")
    mallory.timestamp.version = 100
    mallory.publish()
    assert device.trust.offer_bundle(mallory.bundle())
    device.trust.refresh()
    assert "timestamp.json" in device.repository.asked
    assert device.trust.signed_firmware(PATH).length == 9
    device.refuses(Distrust.UNTRUSTED, lambda: device.trust.signed_firmware("thermostat/app/9.0.0"))
    assert device.trust.offer_bundle(device.repository.bundle())


def test_a_forged_bundle_and_nobody_to_ask(device: Device) -> None:
    device.update()
    mallory = Repository("thermostat")
    mallory.timestamp.version = 100
    mallory.publish()
    device.trust.offer_bundle(mallory.bundle())
    device.ask = nobody
    device.refuses(Distrust.BAD_SIGNATURE)
    assert device.trust.signed_firmware(PATH).length == 9


def test_a_stolen_online_key_cannot_sign_firmware(device: Device) -> None:
    device.update()
    device.repository.role_signers["thermostat"] = device.repository.online_signer
    device.repository.add_firmware(b"malware", version="9.0.0")
    device.repository.publish()
    device.trust.offer_bundle(device.repository.bundle())
    device.refuses(Distrust.BAD_SIGNATURE)


def test_another_products_key_cannot_sign_this_products_firmware(device: Device) -> None:
    foreign = device.repository.add_firmware(b"malware", product="thermostat", version="9.0.0")
    target = device.repository.roles["thermostat"].targets.pop(foreign.target_path)
    device.repository.roles["pump"].targets[foreign.target_path] = target
    device.repository.publish()
    device.update()
    device.refuses(Distrust.UNTRUSTED, lambda: device.trust.signed_firmware(foreign.target_path))


def test_firmware_of_another_product_is_not_looked_for(device: Device) -> None:
    device.repository.add_firmware(b"a pump's", product="pump")
    device.repository.publish()
    device.update()
    for path in ("pump/app/1.0.0", "", "thermostat", "/thermostat/app/1.0.0", "../thermostat/app/1.0.0"):
        device.refuses(Distrust.UNTRUSTED, lambda path=path: device.trust.signed_firmware(path))  # type: ignore[misc]


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "thermostat", "root"])
def test_what_expired_is_refused(device: Device, role: str) -> None:
    past = at(NOW_S) - timedelta(seconds=1)
    made = device.repository
    payload = getattr(made, role, None) or made.roles[role]
    if role == "root":
        made.root.expires = past
        made.publish_root()
    elif role == "timestamp":
        made.timestamp.version += 1
        made.timestamp.expires = past
        made.files["timestamp.json"] = sign(made.timestamp, made.online_signer)
    elif role == "snapshot":
        made.snapshot.version += 1
        made.snapshot.expires = past
        data = made.files[f"{made.snapshot.version}.snapshot.json"] = sign(made.snapshot, made.online_signer)
        made.timestamp.snapshot_meta = MetaFile.from_data(made.snapshot.version, data, ["sha256"])
        made.publish_timestamp()
    else:
        payload.expires = past
        made.publish()
    assert device.trust.offer_bundle(made.bundle())
    assert "clock" in str(device.refuses(Distrust.EXPIRED))


def test_a_clock_that_fell_behind_does_not_bring_back_what_expired(device: Device, directory: Path) -> None:
    old = device.repository.bundle()
    device.repository.now_s = device.now_s = NOW_S + 3 * DAY_S
    device.repository.publish()
    device.update()
    shutil.rmtree(directory / "root_history")
    (directory / "timestamp.json").unlink()
    (directory / "snapshot.json").unlink()
    device.now_s = 0.0
    device.ask = nobody
    device.restart()
    device.trust.offer_bundle(old)
    device.refuses(Distrust.EXPIRED)


def test_mixed_metadata_is_refused(device: Device) -> None:
    made, before = device.repository, dict(device.repository.files)
    made.add_firmware(b"newer", version="1.1.0", seq=4)
    made.publish()
    device.ask = nobody
    for role, old in (("snapshot", "2.snapshot.json"), ("thermostat", "2.thermostat.json")):
        assert device.trust.offer_bundle(altered(made.bundle(), **{role: before[old]}))
        device.refuses(Distrust.UNTRUSTED)
    device.update()


def test_a_snapshot_that_goes_back_is_refused(device: Device) -> None:
    device.repository.publish()
    device.update()
    role = device.repository.roles["thermostat"]
    role.version -= 1
    device.repository.publish_snapshot()
    device.trust.offer_bundle(device.repository.bundle())
    device.refuses(Distrust.ROLLBACK)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "thermostat"])
def test_unsigned_metadata_is_refused(device: Device, role: str) -> None:
    bundle = device.repository.bundle()
    text = next(text for name, text in bundle.files.items() if role in name)
    stripped = {**json.loads(text), "signatures": []}
    device.ask = nobody
    assert device.trust.offer_bundle(altered(bundle, **{role: json.dumps(stripped).encode()}))
    # What the metadata above it names by its hash is not even looked into.
    device.refuses(Distrust.BAD_SIGNATURE if role == "timestamp" else Distrust.UNTRUSTED)


def test_a_root_needs_its_threshold(device: Device) -> None:
    first, device.repository.root_signers = device.repository.root_signers, device.repository.root_signers[:1]
    device.repository.publish_root()
    device.repository.publish()
    device.refuses(Distrust.BAD_SIGNATURE)
    assert device.trust.root_version == 1
    device.repository.root_signers = first
    device.repository.root.version = 1
    device.repository.publish_root()
    device.trust.refresh()
    assert device.trust.root_version == 2


def test_a_root_that_skips_one_is_not_followed(device: Device) -> None:
    device.repository.rotate_root()
    device.repository.rotate_root()
    del device.repository.files["2.root.json"]
    device.trust.refresh()
    assert device.trust.root_version == 1


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.thermostat.json", "2.root.json"])
def test_a_file_without_end_is_refused(device: Device, name: str) -> None:
    device.repository.publish_root()
    device.repository.files[name] += b" " * 6_000_000  # its signature stays good
    device.refuses(Distrust.UNTRUSTED)


garbage_files = st.dictionaries(
    st.sampled_from(["timestamp.json", "2.snapshot.json", "2.targets.json", "2.thermostat.json", "1.root.json"]),
    st.one_of(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=9).map(json.dumps)),
)


@given(files=garbage_files, claimed=st.integers(1, MAX_INTEGER), root_version=st.integers(1, MAX_INTEGER))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_in_a_bundle_stops_nothing(
    device: Device, files: dict[str, str], claimed: int, root_version: int
) -> None:
    files = {"timestamp.json": json.dumps({"signed": {"version": claimed}}), **files}
    device.trust.offer_bundle(Bundle(product="thermostat", root_version=root_version, files=files))
    device.trust.refresh()
    assert device.trust.signed_firmware(PATH).length == 9


def test_a_lone_surrogate_in_a_bundle(device: Device) -> None:
    bundle = device.repository.bundle()
    device.trust.offer_bundle(dataclasses.replace(bundle, files={**bundle.files, "9.x.json": "\ud800"}))
    device.trust.refresh()


def broken_target(repository: Repository, **change: Any) -> TargetFile:
    image = describe([b"the image"])[0]
    custom = to_custom(manifest_of(image, version="2.0.0", seq=5))
    fields: dict[str, Any] = {"length": 9, "hashes": {"sha256": image.digest}, "custom": custom, **change}
    more = {} if fields["custom"] is None else {"custom": fields["custom"]}
    target = TargetFile(9, {"sha256": "0" * 64}, "thermostat/app/2.0.0", more)
    target.length, target.hashes = fields["length"], fields["hashes"]
    repository.roles["thermostat"].targets[target.path] = target
    return target


OTHER = describe([b"another image"])[0]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"custom": None}, id="nothing custom"),
        pytest.param({"custom": {}}, id="no manifest"),
        pytest.param({"custom": {CUSTOM_FIELD: {"version": "2.0.0"}}}, id="half a manifest"),
        pytest.param({"custom": to_custom(manifest_of(OTHER, version="1.0.0"))}, id="another version's manifest"),
        pytest.param({"custom": to_custom(manifest_of(OTHER, version="2.0.0"))}, id="another image's manifest"),
        pytest.param(
            {"custom": to_custom(manifest_of(OTHER, version="2.0.0", product="pump"))}, id="another product's"
        ),
        pytest.param({"hashes": {"sha512": "0" * 128}}, id="no SHA-256"),
        pytest.param({"hashes": {"sha256": "ABC"}}, id="a digest that is none"),
        pytest.param({"length": 10}, id="another length"),
        pytest.param({"length": 0}, id="no length"),
    ],
)
def test_a_signed_target_that_is_no_firmware_is_refused(device: Device, change: dict[str, Any]) -> None:
    broken_target(device.repository, **change)
    device.repository.publish()
    device.trust.offer_bundle(device.repository.bundle())
    device.refuses(Distrust.UNTRUSTED, lambda: device.trust.signed_firmware("thermostat/app/2.0.0"))


@pytest.mark.parametrize("floors", [{"app": "2"}, {"app": -1}, {"app": 2**53}, {"app": True}, {"app": None}])
def test_a_floor_that_cannot_be_read_stops_everything(device: Device, floors: dict[str, Any]) -> None:
    device.repository.raise_floor("thermostat", floors)
    device.repository.publish()
    device.trust.offer_bundle(device.repository.bundle())
    device.refuses(Distrust.UNTRUSTED)
