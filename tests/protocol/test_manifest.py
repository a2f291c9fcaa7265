"""What release managers sign comes back from a target's custom field, or is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.errors import ManifestError
from protocol.manifest import CUSTOM_FIELD, Manifest, from_custom, target_path, to_custom
from tests.protocol.samples import MESSAGES

MANIFEST = next(message for message in MESSAGES if isinstance(message, Manifest))
PATH = target_path("thermostat", "app", "1.1.0")


def test_a_manifest_comes_back_from_its_target() -> None:
    assert from_custom(to_custom(MANIFEST), PATH) == MANIFEST
    assert MANIFEST.target_path == PATH == "thermostat/app/1.1.0"


@pytest.mark.parametrize(
    "custom", [None, {}, [], [1], "text", 4096, {CUSTOM_FIELD: None}, {CUSTOM_FIELD: []}, {CUSTOM_FIELD: {}}]
)
def test_a_target_without_a_manifest_is_refused(custom: object) -> None:
    with pytest.raises(ManifestError):
        from_custom(custom, PATH)


def test_the_manifest_of_another_path_is_refused() -> None:
    with pytest.raises(ManifestError, match="holds the manifest of"):
        from_custom(to_custom(MANIFEST), target_path("thermostat", "app", "9.9.9"))


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 0},
        {"build": -1},
        {"hardware_models": []},
        {"hardware_models": ["Pi 4"]},
        {"blobs": []},
        {"blobs": to_custom(MANIFEST)[CUSTOM_FIELD]["blobs"] * 65},
        {"data_schema": -1},
        {"data_schema": 2**64},
        {"version": "1"},
        {"component": "../app"},
        {"notes": "x" * 2001},
        {"notes": "\ud800"},
        {"blobs": [{**to_custom(MANIFEST)[CUSTOM_FIELD]["blobs"][0], "encoding": "\udfff"}]},
        {"requires": {"components": {"os": ">>1"}}},
        {"requires": {"agent": "new"}},
    ],
)
def test_a_manifest_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        from_custom({CUSTOM_FIELD: to_custom(MANIFEST)[CUSTOM_FIELD] | change}, PATH)


def test_hardware_models_admit() -> None:
    assert MANIFEST.admits_hardware("anything")
