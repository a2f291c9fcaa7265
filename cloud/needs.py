"""What needs what: the matrix of a product's firmware, and the devices that need something else before a release.

Pure: frozen values in, frozen values out, and the same selection as the devices' own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cloud.fleet import DeviceSituation, FleetView
from cloud.planner import HoldReason, forecast
from cloud.values import FirmwareView
from protocol.down import NoticeRelease
from protocol.facts import DeviceFacts
from protocol.identity import Installed, VersionRange, version_key
from protocol.schedule import Terms
from protocol.selection import Channels, Verdict, select
from protocol.values import FirmwareRef

AGENT = "agent"
"""Stands for the agent among the things that are needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """Something that a firmware needs, the range of it, and the versions here that would do."""

    what: str
    needs: str
    fulfilled_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """A firmware, what it needs, and which firmware of other components (`app 1.0.0`) does not work with it."""

    product: str
    component: str
    version: str
    build: int
    hardware_models: tuple[str, ...]
    published: bool
    requires: tuple[Requirement, ...]
    breaks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What some devices need before they can take a release, and what they have of it.

    `on_its_way` are those of them that a release of something that would do reaches already.
    """

    what: str
    needs: str
    has: str
    devices: tuple[str, ...]
    on_its_way: tuple[str, ...]
    fulfilled_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakage:
    """Devices that do not take a release because something that is installed would not work with it."""

    what: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Which devices of a release's group need something first, or would break; all the others fit."""

    devices: int
    needs: tuple[Need, ...]
    breaks: tuple[Breakage, ...]


def matrix(firmwares: Sequence[FirmwareView], component: str | None = None) -> tuple[MatrixRow, ...]:
    """Return what a product's firmware needs of each other, in the order given; of one component, or of all."""
    return tuple(
        MatrixRow(
            product=it.product,
            component=it.component,
            version=it.version,
            build=it.build,
            hardware_models=it.hardware_models,
            published=it.published,
            requires=_requirements(it.ref, firmwares),
            breaks=tuple(sorted(f"{other.component} {other.version}" for other in firmwares if _breaks(it, other))),
        )
        for it in firmwares
        if component in (None, it.component)
    )


def needs(view: FleetView, release: NoticeRelease, group: str, firmwares: Sequence[FirmwareView]) -> Needs:
    """Return what the devices of a group need before they can take a release, were it for all of them now."""
    channels = {
        key: [it for it in found if it.release_id != release.release_id] for key, found in view.channels.items()
    }
    whole = replace(release, percentage=100, terms=Terms())
    holds = forecast(replace(view, channels=channels), whole, group).holds
    situations = {device.device_id: device for device in view.devices}
    lacking: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    broken: dict[str, list[str]] = defaultdict(list)
    for hold in holds:
        if hold.reason is HoldReason.REQUIREMENT:
            for lack in _unmet(situations[hold.device_id].facts, release.firmware):
                lacking[lack].append(hold.device_id)
        elif hold.reason is HoldReason.BREAKS:
            broken[hold.detail].append(hold.device_id)
    found = []
    for (what, text, has), device_ids in sorted(lacking.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        coming = [it for it in device_ids if _is_coming(situations[it], view.channels, what, text, view.now_ms)]
        fulfilled_by = _fulfilling(what, text, firmwares)
        found.append(
            Need(
                what=what,
                needs=text,
                has=has,
                devices=tuple(device_ids),
                on_its_way=tuple(coming),
                fulfilled_by=fulfilled_by,
            )
        )
    breaks = tuple(Breakage(what=what, devices=tuple(ids)) for what, ids in sorted(broken.items()))
    return Needs(devices=len(view.devices), needs=tuple(found), breaks=breaks)


def _requirements(firmware: FirmwareRef, firmwares: Sequence[FirmwareView]) -> tuple[Requirement, ...]:
    agent = firmware.requires.agent
    stated = [Requirement(what=AGENT, needs=f">={agent}", fulfilled_by=())] if agent is not None else []
    for name, text in sorted(firmware.requires.components.items()):
        stated.append(Requirement(what=name, needs=text, fulfilled_by=_fulfilling(name, text, firmwares)))
    return tuple(stated)


def _fulfilling(component: str, text: str, firmwares: Sequence[FirmwareView]) -> tuple[str, ...]:
    """Return the published versions of a component that are in a range; of the agent none is known here."""
    if component == AGENT:
        return ()
    wanted = VersionRange.parse(text)
    versions = {
        it.version
        for it in firmwares
        if it.component == component and it.published and wanted.matches(component, _alone(it))
    }
    return tuple(sorted(versions, key=version_key))


def _alone(firmware: FirmwareView | FirmwareRef) -> dict[str, Installed]:
    return {firmware.component: Installed(version=firmware.version, build=firmware.build)}


def _breaks(firmware: FirmwareView, other: FirmwareView) -> bool:
    """Tell whether `other` states a range of this component that `firmware` is outside of."""
    text = other.requires.components.get(firmware.component) if other.component != firmware.component else None
    return text is not None and not VersionRange.parse(text).matches(firmware.component, _alone(firmware))


def _unmet(facts: DeviceFacts, firmware: FirmwareRef) -> Iterator[tuple[str, str, str]]:
    """Yield everything that a device lacks: what, which range of it, and what it has."""
    agent = firmware.requires.agent
    if agent is not None and version_key(facts.agent_version) < version_key(agent):
        yield AGENT, f">={agent}", facts.agent_version
    for name, text in firmware.requires.components.items():
        if not VersionRange.parse(text).matches(name, facts.installed):
            state = facts.components.get(name)
            yield name, text, state.version if state else "none"


def _is_coming(device: DeviceSituation, channels: Channels, what: str, text: str, now_ms: int) -> bool:
    if what == AGENT:
        return False
    decision = select(device.facts, device.assignment, channels, what, now_ms=now_ms)
    wanted = decision.wanted
    return (
        wanted is not None
        and decision.verdict is Verdict.TAKE
        and VersionRange.parse(text).matches(what, _alone(wanted.firmware))
    )
