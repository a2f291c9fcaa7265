"""A store on a real database, and devices that speak to it: what the store's tests stand on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from cloud.fleet import HelloAnswer
from cloud.store.store import Store
from cloud.values import ChannelKey, FirmwareView, ReleaseDraft, ReleaseView
from protocol.chunks import describe
from protocol.manifest import Blob, Manifest, Requirements
from protocol.phases import Outcome, Phase, Reason
from protocol.up import (
    AttemptEntry,
    DeviceState,
    Entry,
    Hello,
    JournalPosition,
    Presence,
    Report,
)
from protocol.values import ComponentState, Via

PRODUCT = "thermostat"
MODEL = "pi4"
ANN = "ann"
"""The operator who decides everything here."""
START_S = 1_700_000_000.0
ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""For a test that looks into the file, or that is too long to be run on both."""
ON_POSTGRESQL = pytest.mark.parametrize(
    "url", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now_s: float = START_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


def image_of(component: str, version: str) -> bytes:
    return f"the image of {component} {version}".encode()


def digest_of(version: str, component: str = "app") -> str:
    return hashlib.sha256(image_of(component, version)).hexdigest()


def manifest(
    version: str, seq: int, *, component: str = "app", hardware: Sequence[str] = (MODEL,), needs: str | None = None
) -> Manifest:
    ref, _ = describe([image_of(component, version)])
    return Manifest(
        product=PRODUCT,
        component=component,
        version=version,
        build=seq,
        seq=seq,
        hardware_models=tuple(hardware),
        blobs=(Blob(encoding="identity", ref=ref),),
        requires=Requirements(components={"os": needs} if needs else {}),
        notes=f"what is new in {version}",
    )


def publish(store: Store, *versions: str, component: str = "app") -> list[FirmwareView]:
    """Publish versions of a component; their `seq` follow those that are there."""
    there = len(store.catalog.firmwares(PRODUCT, component))
    return [
        store.catalog.add_firmware(
            manifest(version, there + number, component=component),
            digest=digest_of(version, component),
            size_bytes=len(image_of(component, version)),
            signer_keyids=("k" * 8,),
            published=True,
            by=ANN,
        )
        for number, version in enumerate(versions, start=1)
    ]


def channel(group: str = "everyone", component: str = "app") -> ChannelKey:
    return ChannelKey(PRODUCT, group, component)


def release(store: Store, version: str, group: str = "everyone", **changes: object) -> ReleaseView:
    draft = ReleaseDraft(channel=channel(group), version=version)
    return store.releases.create(replace(draft, **changes), by=ANN)  # type: ignore[arg-type]


@dataclass
class Device:
    """A device as the cloud hears it: it numbers its journal, its sessions and its states."""

    store: Store
    device_id: str
    running: dict[str, str] = field(default_factory=lambda: {"app": "1.0.0"})
    journal_id: str = "j1"
    session: int = 1
    seq: int = 0
    next_seq: int = 1
    attempts: int = 0
    product: str = PRODUCT
    model: str = MODEL
    attributes: dict[str, str] = field(default_factory=lambda: {"site": "hall"})

    def state(self, **changes: object) -> DeviceState:
        self.seq += 1
        components = tuple(
            ComponentState(component=name, version=version, build=1, digest=digest_of(version, name))
            for name, version in self.running.items()
        )
        made = DeviceState(session=self.session, seq=self.seq, phase=Phase.IDLE, components=components)
        return replace(made, **changes)  # type: ignore[arg-type]

    def hello(self, **changes: object) -> HelloAnswer:
        return self.store.journal.receive_hello(self.device_id, self.greeting(**changes))

    def greeting(self, **changes: object) -> Hello:
        return Hello(
            product=self.product,
            hardware_model=self.model,
            agent_version="0.1.0",
            journal=JournalPosition(journal_id=self.journal_id, next_seq=self.next_seq),
            state=self.state(**changes),
            attributes=self.attributes,
        )

    def tell(self, **changes: object) -> bool:
        return self.store.journal.receive_state(self.device_id, self.state(**changes))

    def presence(self, online: bool, session: int | None = None) -> bool:
        return self.store.journal.receive_presence(
            self.device_id, Presence(online=online, session=self.session if session is None else session)
        )

    def entry(self, said: AttemptEntry) -> Entry:
        self.next_seq += 1
        return Entry(seq=self.next_seq - 1, at_ms=1_000 * self.next_seq, attempt=said)

    def report(self, *entries: Entry) -> int | None:
        return self.store.journal.receive_report(
            self.device_id, Report(journal_id=self.journal_id, entries=tuple(entries))
        )

    def steps(
        self,
        version: str,
        source_id: str,
        *phases: Phase,
        outcome: Outcome | None = None,
        reason: Reason | None = None,
        booted: str | None = None,
        via: Via = Via.RELEASE,
    ) -> list[Entry]:
        """The entries of a new attempt at `version`: one per phase, and the last one with the outcome."""
        self.attempts += 1
        said = AttemptEntry(
            attempt_id=f"a-{self.attempts}",
            source_id=source_id,
            via=via,
            component="app",
            version=version,
            digest=digest_of(version),
            phase=Phase.IDLE,
            from_version=self.running.get("app"),
            from_digest=digest_of(self.running["app"]) if "app" in self.running else None,
        )
        entries = [self.entry(replace(said, phase=phase)) for phase in phases]
        if outcome is not None:
            booted = digest_of(version) if outcome is Outcome.SUCCEEDED and booted is None else booted
            ended = replace(said, phase=phases[-1], outcome=outcome, reason=reason, booted_digest=booted)
            entries.append(self.entry(replace(ended, fetched_bytes=1000)))
        return entries

    def take(self, version: str, source_id: str, *, via: Via = Via.RELEASE) -> None:
        """Take a version, prove it and tell so."""
        entries = self.steps(version, source_id, *HAPPY, outcome=Outcome.SUCCEEDED, via=via)
        self.running = {**self.running, "app": version}
        self.report(*entries)
        self.tell()

    def fail(
        self, version: str, source_id: str, reason: Reason = Reason.HEALTH_FAILED, *, via: Via = Via.RELEASE
    ) -> None:
        """Try a version, fall back and tell so."""
        self.report(*self.steps(version, source_id, *HAPPY, outcome=Outcome.ROLLED_BACK, reason=reason, via=via))
        self.tell(failed=(digest_of(version),))


HAPPY = (Phase.DOWNLOADING, Phase.INSTALLING, Phase.PROVING)


def join(store: Store, *device_ids: str, running: str = "1.0.0") -> list[Device]:
    """Devices that say hello."""
    devices = [Device(store, device_id, {"app": running}) for device_id in device_ids]
    for device in devices:
        device.hello()
    return devices
