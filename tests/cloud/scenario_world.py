"""A story's world: a real store on SQLite, its guard and its outbox, and devices that live in virtual time.

What is told to devices goes through the outbox and the notices; what devices say through hellos, states and reports.
The clock jumps from what is due to what is due next; the loop looks every five minutes, and whenever a device spoke.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloud.changes import Changes
from cloud.fleet import FleetView
from cloud.rollouts_loop import RolloutsLoop
from cloud.store.errors import StoreError
from cloud.store.store import Store
from cloud.tally import Tally
from cloud.values import ChannelKey, OutboxItem, OutboxKind, ReleaseView
from device_agent.admission import Trigger
from protocol.chunks import describe
from protocol.down import NoticeRelease
from protocol.errors import FleetliftError
from protocol.identity import EVERYONE
from protocol.manifest import Blob, Manifest, Requirements
from protocol.up import Presence, Report
from protocol.values import ComponentState, FirmwareRef
from tests.cloud.scenario_devices import PRODUCT, START_S, Actor
from tests.cloud.store.fleets import digest_of, image_of

MODELS: Final = ("pi3", "pi4", "pi5")
ANN: Final = "ann"
CALM_LOOK_S: Final = 3600.0


@dataclass
class World:
    """All that there is in a story, and what time it is in it."""

    url: str
    now_s: float = 0.0
    actors: dict[str, Actor] = field(default_factory=dict)
    notices: dict[tuple[str, str], tuple[NoticeRelease, ...]] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)
    stood: dict[str, str] = field(default_factory=dict)
    happened: list[str] = field(default_factory=list)
    open: tuple[str, ...] = ()
    completed: tuple[str, ...] = ()
    looked_s: float = 0.0
    stirred_s: float = 0.0
    look_s: float = 300.0
    _fresh: bool = False

    def __post_init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self.store, self.changes, self.tally = Store.open(self.url, self.clock), Changes(), Tally()
        self.loop = RolloutsLoop(self.store, self.changes, self.tally, is_connected=lambda: True, clock=self.clock)
        self.loop.reconnected()

    def clock(self) -> float:
        return START_S + self.now_s

    # What there is

    def firmware(
        self,
        version: str,
        component: str = "app",
        *,
        hardware: tuple[str, ...] = MODELS,
        requires: dict[str, str] | None = None,
        schema: int = 0,
        reads: tuple[int, ...] = (),
    ) -> FirmwareRef:
        """Return a firmware, published now if there is none of this version."""
        there = {it.version: it for it in self.store.catalog.firmwares(PRODUCT, component)}
        if version in there:
            return there[version].ref
        seq = len(there) + 1
        ref, _ = describe([image_of(component, version)])
        manifest = Manifest(
            product=PRODUCT,
            component=component,
            version=version,
            build=seq,
            seq=seq,
            hardware_models=hardware,
            blobs=(Blob(encoding="identity", ref=ref),),
            requires=Requirements(components=requires or {}),
            data_schema=schema,
            reads_schemas=reads,
        )
        return self.store.catalog.add_firmware(
            manifest,
            digest=digest_of(version, component),
            size_bytes=len(image_of(component, version)),
            signer_keyids=("k" * 8,),
            published=True,
            by=ANN,
        ).ref

    def join(self, device_id: str, model: str, running: dict[str, str], groups: tuple[str, ...], timezone: str) -> None:
        components = {name: installed(self.firmware(version, name)) for name, version in running.items()}
        self.actors[device_id] = actor = Actor(device_id, model, components, timezone=timezone)
        self.greet(actor)
        for group in groups:
            self.group(group)
            self.store.catalog.add_to_group(PRODUCT, group, [device_id], by=ANN)
        self.deliver()

    def group(self, name: str) -> None:
        if name not in {it.group for it in self.store.catalog.groups(PRODUCT)}:
            self.store.catalog.create_group(PRODUCT, name, by=ANN)

    def release_of(self, label: str) -> ReleaseView:
        return self.store.releases.release(self.releases[label])

    # What devices and cloud tell each other

    def greet(self, actor: Actor) -> None:
        """Have a device open a session: what it is told then, and what it has yet to say."""
        answer = self.store.journal.receive_hello(actor.device_id, actor.hello())
        assert answer.ack is not None, answer.refusal
        actor.online, actor.desired, actor.trigger = True, answer.desired, Trigger.SESSION_START
        actor.acknowledged(answer.ack.through)
        self._inform(actor)
        self.say(actor)

    def say(self, actor: Actor) -> None:
        """Have a device say what it has to say, if it is connected."""
        if not actor.online:
            return
        self._stir()
        if actor.unsent:
            said = Report(journal_id=actor.journal_id, entries=tuple(actor.unsent))
            through = self.store.journal.receive_report(actor.device_id, said)
            actor.sent = list(actor.unsent)
            actor.acknowledged(through or 0)
        self.store.journal.receive_state(actor.device_id, actor.state())
        if actor.dead:
            self.part(actor)

    def _stir(self) -> None:
        self.changes.bump()
        self.stirred_s = self.now_s

    def part(self, actor: Actor) -> None:
        """Have the broker tell that a device's connection is lost."""
        actor.online = False
        self._stir()
        said = Presence(online=False, session=actor.session)
        self.store.journal.receive_presence(actor.device_id, said)

    def deliver(self) -> None:
        """Empty the outbox, as the publisher does: notices are kept by the broker, desired states are not."""
        while items := self.store.outbox.take():
            for item in items:
                self._publish(item)
                self.store.outbox.settle(item)

    def _publish(self, item: OutboxItem) -> None:
        if item.kind is OutboxKind.NOTICE:
            channel = ChannelKey.parse(item.key)
            notice = self.store.releases.channel_notice(channel)
            self.notices[channel.group, channel.component] = notice.releases
            for actor in self.actors.values():
                if actor.online and actor.desired is not None and channel.group in actor.desired.groups:
                    self._inform(actor)
        elif item.kind is OutboxKind.DESIRED:
            actor = self.actors[item.key]
            if actor.online:
                actor.desired = self.store.devices.desired_for(item.key)
                self._inform(actor)

    def _inform(self, actor: Actor) -> None:
        groups = actor.desired.groups if actor.desired else (EVERYONE,)
        actor.channels = {key: releases for key, releases in self.notices.items() if key[0] in groups}
        actor.wakes_s = 0.0

    # Time

    def advance(self, to_s: float) -> None:
        """Let time pass, and everything happen that is due."""
        self.settle()
        while (due_s := self._next()) <= to_s:
            self.now_s = max(self.now_s, due_s)
            self.settle()
        self.now_s = to_s
        self.settle()

    def _next(self) -> float:
        wakes = [it.wakes_s for it in self.actors.values() if not it.dead and it.wakes_s > self.now_s]
        looks = [self.looked_s + self._look_every_s] if self.open or self.completed else []
        return min([*wakes, *looks], default=float("inf"))

    @property
    def _look_every_s(self) -> float:
        """Return how often is looked; what is completed is let be for longer when nothing stirs."""
        stirs = self.open or self.now_s < self.stirred_s + 2 * self.look_s
        return self.look_s if stirs else max(self.look_s, CALM_LOOK_S)

    def settle(self) -> None:
        """Let devices and the guard do what is due now, until nothing is."""
        for _ in range(20):
            self.deliver()
            spoke = [actor for actor in self.actors.values() if actor.wakes_s <= self.now_s and actor.live(self.now_s)]
            for actor in spoke:
                self.say(actor)
            if not spoke and self.now_s < self.looked_s + self._look_every_s and not self._fresh:
                return
            self._fresh = self._look()
        raise AssertionError(f"the world does not come to rest at {self.now_s} s")

    def _look(self) -> bool:
        """Have the loop look at what is due, and tell whether it did anything."""
        self.looked_s = self.now_s
        seen = self.changes.revision
        self.loop.look()
        assert not self.tally.counts()["refused"], self.tally.counts()
        return self.changes.revision != seen and self.watch()

    def watch(self) -> bool:
        """Note how the releases with a plan stand, where that changed; tell whether it did."""
        news, self.open = False, self.store.rollouts.open()
        self.completed = self.store.rollouts.completed()
        for label, release_id in self.releases.items():
            stands = self._stands(release_id)
            if self.stood.get(label, "") != stands:
                self.stood[label], news = stands, True
                self.happened.append(f"{clock_of(self.now_s)} {label} {stands}")
        return news

    def _stands(self, release_id: str) -> str:
        if not self.store.rollouts.has_plan(release_id):
            return ""
        page = self.store.rollouts.page(release_id)
        standing, release = page.standing, page.release
        ramp = release.terms.ramp
        at = f"{release.percentage} %" if ramp is None else f"{ramp.from_percentage} to {release.percentage} %"
        to = ", ".join([*(f"group {it}" for it in release.terms.canaries), *([at] if release.percentage else [])])
        return (
            f"{standing.status.value.replace('_', ' ')}{'' if release.enabled else ', disabled'}, phase "
            f"{standing.phase + 1} of {len(page.policy.phases)} ({to}): {standing.why}"
        )

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Note what is refused instead of failing: a story may be about it."""
        try:
            yield
        except (StoreError, FleetliftError) as error:
            self.happened.append(f"{clock_of(self.now_s)} refused: {error}")

    # What people are told

    @property
    def view(self) -> FleetView:
        return self.store.devices.fleet(PRODUCT)

    def restart(self) -> None:
        """Have the cloud end, and begin anew with what is on the disk."""
        self.store.close()
        self._open()

    def close(self) -> None:
        self.store.close()


def make_template(path: Path) -> Path:
    """Make a database with the product of all stories, to be copied: migrating one takes longer than most stories."""
    with Store.open(f"sqlite:///{path}", lambda: START_S) as store:
        store.catalog.create_product(PRODUCT, hardware_models=MODELS, by=ANN)
    return path


def open_world(template: Path, directory: Path) -> World:
    """Return a world of its own in a directory."""
    path = directory / "story.db"
    shutil.copy(template, path)
    return World(f"sqlite:///{path}")


def installed(firmware: FirmwareRef) -> ComponentState:
    return ComponentState(
        component=firmware.component,
        version=firmware.version,
        build=firmware.build,
        digest=firmware.digest,
        requires=dict(firmware.requires.components),
        data_schema=firmware.data_schema,
    )


def clock_of(seconds: float) -> str:
    """Return a time of the story, as 1h30m."""
    left = round(seconds)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0m"
