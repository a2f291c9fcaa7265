"""What a device is, and what of a firmware does not fit it: for selection, and again before it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.identity import Installed, VersionRange, version_key
from protocol.values import ComponentState, FirmwareRef


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What selection needs to know of a device.

    `failed` maps a digest to the `order` at which it failed here; `declined` are ids of releases.
    """

    device_id: str
    hardware_model: str
    agent_version: str
    components: Mapping[str, ComponentState] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    floors: Mapping[str, int] = field(default_factory=dict)
    declined: frozenset[str] = frozenset()

    @property
    def installed(self) -> dict[str, Installed]:
        """The components' versions and builds."""
        return {name: state.installed for name, state in self.components.items()}

    def runs(self, firmware: FirmwareRef) -> bool:
        """Tell whether the device runs this very image."""
        state = self.components.get(firmware.component)
        return state is not None and state.digest == firmware.digest

    def how_it_runs(self, firmware: FirmwareRef) -> str:
        """Return how the device, which runs this very image, calls it: two versions may have the same image."""
        version = self.components[firmware.component].version
        return f"runs {version}" if version == firmware.version else f"runs the same image as {version}"


def unmet_requirement(facts: DeviceFacts, firmware: FirmwareRef) -> str | None:
    """Return what the device lacks of the firmware's requirements, as a sentence's end, or None."""
    requires = firmware.requires
    if requires.agent is not None and version_key(facts.agent_version) < version_key(requires.agent):
        return f"needs agent {requires.agent}, has {facts.agent_version}"
    for name, text in requires.components.items():
        if not VersionRange.parse(text).matches(name, facts.installed):
            state = facts.components.get(name)
            return f"needs {name} {text}, has {state.version if state else 'none'}"
    return None


def broken_requirement(facts: DeviceFacts, firmware: FirmwareRef) -> str | None:
    """Return which other installed component would not work with the firmware, as a sentence's end, or None."""
    then = facts.installed | {firmware.component: Installed(version=firmware.version, build=firmware.build)}
    for name, state in sorted(facts.components.items()):
        text = state.requires.get(firmware.component)
        if name != firmware.component and text and not VersionRange.parse(text).matches(firmware.component, then):
            return f"{name} {state.version}, which is installed, needs {firmware.component} {text}"
    return None


def unreadable_data(facts: DeviceFacts, firmware: FirmwareRef) -> str | None:
    """Return which data there is that the firmware cannot read, as a sentence's end, or None."""
    state = facts.components.get(firmware.component)
    if state is None or firmware.reads(state.data_schema):
        return None
    return f"cannot read data of schema {state.data_schema}, which {state.version} keeps"
