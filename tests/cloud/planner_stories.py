"""Reads a planner's story: what there is, line by line, and what was asked; writes it back with the answers.

    # a comment
    firmware 2.0.0 hardware=pi4,pi5 requires=os:>=2.0.0 agent=0.2.0     build and seq count the firmware of a component
    firmware 2.0.1 same=2.0.0                                           the same image as another version's
    floor app 2
    device pi-1 app=1.0.0 os=1.0.0 groups=pilot model=pi5 offline phase=proving disabled until=500 hold=ann/demo
                failed=2.0.0 pin=1.0.0 ota=1.1.0@15 pending=next_start
    release everyone v1 1.1.0 50% range=1.x immediate forced            the n-th decision has the order 10 n
    ota-off
    notice everyone                 which labels the notice carries
    plan 1000                       what happens at 1000 ms
    forecast everyone v2 1.2.0 ...  who would take it

The answers stand below each question, indented; a story is right when writing it back changes nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from cloud.fleet import DeviceSituation, FleetView
from cloud.planner import Hold, Move, forecast, plan
from cloud.shadowing import notice_releases
from protocol.down import NoticeRelease, Ota
from protocol.facts import DeviceFacts
from protocol.manifest import Requirements
from protocol.phases import Phase, Wait
from protocol.selection import Assignment
from protocol.up import Availability, HoldInfo, Pending
from protocol.values import ComponentState, FirmwareRef, Scope, Urgency


class Story:
    """What a story has told so far."""

    def __init__(self) -> None:
        self.firmware: dict[tuple[str, str], FirmwareRef] = {}
        self.floors: dict[str, int] = {}
        self.devices: list[DeviceSituation] = []
        self.channels: dict[tuple[str, str], list[NoticeRelease]] = {}
        self.ota_enabled = True
        self.decisions = 0

    def line(self, text: str) -> list[str]:
        """Take one line and return the answers, if it asked something."""
        word, *rest = text.split()
        told = getattr(self, "_" + word.replace("-", "_"))(*rest)
        return told or []

    @property
    def view(self) -> FleetView:
        devices = tuple(
            replace(
                device,
                facts=replace(device.facts, floors=self.floors),
                assignment=replace(device.assignment, ota_enabled=self.ota_enabled),
            )
            for device in self.devices
        )
        return FleetView(product="thermostat", channels=self.channels, devices=devices)

    def _firmware(self, version: str, *options: str) -> None:
        given = _options(options)
        component = given.get("component", "app")
        number = sum(name == component for name, _ in self.firmware) + 1
        needs = (part.split(":", 1) for part in given.get("requires", "").split(",") if part)
        self.firmware[component, version] = FirmwareRef(
            component=component,
            version=version,
            build=number,
            seq=number,
            digest=hashlib.sha256(f"{component} {given.get('same', version)}".encode()).hexdigest(),
            size_bytes=1000,
            hardware_models=tuple(given.get("hardware", "*").split(",")),
            requires=Requirements(agent=given.get("agent"), components=dict(needs)),
        )

    def _floor(self, component: str, minimum_seq: str) -> None:
        self.floors[component] = int(minimum_seq)

    def _ota_off(self) -> None:
        self.ota_enabled = False

    def _device(self, device_id: str, *options: str) -> None:
        given = _options(options)
        components = {name: self._state(name, version) for name, version in given.items() if name in ("app", "os")}
        facts = DeviceFacts(
            device_id=device_id,
            hardware_model=given.get("model", "pi4"),
            agent_version="0.1.0",
            components=components,
            failed={self._app(given["failed"]).digest: 3} if "failed" in given else {},
        )
        self.devices.append(
            DeviceSituation(
                facts=facts,
                assignment=self._assignment(given),
                online="offline" not in given,
                phase=Phase(given.get("phase", "idle")),
                availability=_availability(given),
                pending=self._pending(given),
            )
        )

    def _release(self, group: str, label: str, version: str, *options: str) -> None:
        self.decisions += 1
        made = self._noticed(group, label, version, options)
        self.channels.setdefault((group, made.firmware.component), []).insert(0, made)

    def _notice(self, group: str) -> list[str]:
        return [f"v{release.label} {release.firmware.version}" for release in notice_releases(self._in(group))]

    def _plan(self, now_ms: str) -> list[str]:
        made = plan(self.view, int(now_ms))
        lines = {(move.device_id, move.component): _moved(move) for move in made.actions}
        lines |= {(hold.device_id, hold.component): _held(hold) for hold in made.holds}
        assert len(lines) == len(made.actions) + len(made.holds)
        return [lines[key] for key in sorted(lines)]

    def _forecast(self, group: str, label: str, version: str, *options: str) -> list[str]:
        candidate = replace(self._noticed(group, label, version, options), order=10 * self.decisions + 10)
        told = forecast(self.view, candidate, group)
        assert len(told.takes) + len(told.holds) == len(self.devices)
        lines = [f"{device_id} takes it" for device_id in told.takes] + [_held(hold) for hold in told.holds]
        return [*sorted(lines), told.sentence]

    def _noticed(self, group: str, label: str, version: str, options: tuple[str, ...]) -> NoticeRelease:
        given = _options(options)
        percentage = next((int(option[:-1]) for option in options if option.endswith("%")), 100)
        return NoticeRelease(
            release_id=f"rel-{group}-{label}",
            label=int(label[1:]),
            order=10 * self.decisions,
            firmware=self.firmware[given.get("component", "app"), version],
            percentage=percentage,
            forced="forced" in given,
            urgency=Urgency.IMMEDIATE if "immediate" in given else Urgency.GRADUAL,
            target_range=given.get("range", "*").replace("_", " "),
        )

    def _in(self, group: str) -> list[NoticeRelease]:
        return [release for (name, _), releases in self.channels.items() if name == group for release in releases]

    def _app(self, version: str) -> FirmwareRef:
        return self.firmware["app", version]

    def _state(self, component: str, version: str) -> ComponentState:
        known = self.firmware[component, version]
        return ComponentState(component=component, version=version, build=known.build, digest=known.digest)

    def _assignment(self, given: dict[str, str]) -> Assignment:
        groups = tuple(name for name in given.get("groups", "").split(",") if name)
        otas = []
        if "ota" in given:
            version, order = given["ota"].split("@")
            otas.append(Ota(ota_id="ota-1", order=int(order), firmware=self._app(version)))
        pins = (self._app(given["pin"]),) if "pin" in given else ()
        return Assignment(groups=(*groups, "everyone"), pins=pins, otas=tuple(otas))

    def _pending(self, given: dict[str, str]) -> tuple[Pending, ...]:
        if "pending" not in given:
            return ()
        version, why = given["pending"].split("@")
        wanted = self._app(version)
        return (Pending(component="app", version=version, digest=wanted.digest, source_id="rel-1", why=Wait(why)),)


def write_back(text: str) -> str:
    """Return the story with its answers made anew."""
    story, lines = Story(), []
    for line in text.splitlines():
        if line.startswith("    "):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [f"    {answer}" for answer in story.line(line)]
    return "\n".join(lines) + "\n"


def _options(options: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, _, value in (option.partition("=") for option in options)}


def _availability(given: dict[str, str]) -> Availability:
    owner, _, why = given.get("hold", "").partition("/")
    until_ms = int(given["until"]) if "until" in given else None
    holds = (HoldInfo(owner=owner, why=why, scopes=(Scope.INSTALL,), expires_at_ms=until_ms),) if owner else ()
    return Availability(enabled="disabled" not in given, disabled_until_ms=until_ms, holds=holds)


def _moved(move: Move) -> str:
    return f"{move.device_id} {move.component} takes {move.firmware.version} by {move.source_id}"


def _held(hold: Hold) -> str:
    return f"{hold.device_id} {hold.component} {hold.reason}: {hold.detail}"
