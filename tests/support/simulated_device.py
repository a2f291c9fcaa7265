"""A device and its cloud in one thread, on a clock of their own, that can lose power at any moment.

Real: the runner and all that it is made of, the journal, the slots on disk. Simulated, by implementing the ports: the
link and the cloud behind it, the application, the fetching of chunks, threads and time. What happens and outlasts a
power cut passes `World.tick`, before and after: a test says at which tick the power goes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from device_agent.asks import MetadataFiles
from device_agent.availability import Gatekeeper
from device_agent.components import Component
from device_agent.config import AgentSettings, BrokerSettings, ComponentSettings, HealthSettings, UpdateSettings
from device_agent.consent import Consents
from device_agent.data.keeper import DataKeeper
from device_agent.desk import Desk
from device_agent.events import Snapshot
from device_agent.health import AliveCheck
from device_agent.journal import Journal
from device_agent.loop import Loop
from device_agent.runner import Runner
from protocol.phases import Phase
from tests.support.simulated_cloud import DEVICE, MODEL, PRODUCT, TOPICS, Cloud, SimulatedLink, SimulatedTrust
from tests.support.simulated_world import (
    AtOnce,
    PowerCutError,
    SilentControl,
    SimulatedApplication,
    SimulatedFetching,
    SimulatedSlots,
    World,
)


class Device:
    """One life of the agent: from its start to a power cut, or to `stop`."""

    def __init__(
        self,
        world: World,
        cloud: Cloud,
        *,
        online: bool = True,
        component: ComponentSettings | None = None,
        updates: UpdateSettings | None = None,
        timezone: str = "",
    ) -> None:
        self.world = world
        self.cloud = cloud
        self.now = lambda: self.world.time
        self.wall = lambda: self.world.time + self.world.clock_ahead_s
        self.settings = AgentSettings(
            device_id=DEVICE,
            product=PRODUCT,
            hardware_model=MODEL,
            state_dir=world.directory,
            root=world.directory / "root.json",
            attributes={},
            identity=None,
            broker=BrokerSettings(url="mqtt://127.0.0.1"),
            updates=updates or UpdateSettings(),
            components={
                "app": component
                or ComponentSettings(
                    name="app",
                    command=("app",),
                    health=HealthSettings(check=AliveCheck(), interval_s=1.0, timeout_s=1.0),
                    soak_s=5.0,
                    prove_timeout_s=20.0,
                )
            },
            control_socket=world.directory / "control.sock",
            timezone=timezone,
        )
        self.journal = Journal(world.directory / "journal.db", self.now)
        self._watch_journal()
        self.loop = Loop(self.now)
        self.link = SimulatedLink(cloud)
        self.control = SilentControl()
        self.application = SimulatedApplication(world)
        self.fetching = SimulatedFetching(world, self.journal, self.loop, self.link)
        self.gatekeeper = Gatekeeper(
            self.journal,
            world.directory / "hold.lock",
            enabled_at_start=self.settings.updates.enabled_at_start,
            grace_s=self.settings.updates.hold_grace_s,
            now=self.now,
            monotonic=self.now,
        )
        self.consents = Consents(self.journal, longest_s=self.settings.updates.longest_deferral_s, now=self.wall)
        self.desk = Desk(self.loop, self.gatekeeper, self.consents)
        self.slots = SimulatedSlots(world)
        self.runner = Runner(
            self.settings,
            journal=self.journal,
            link=self.link,
            gatekeeper=self.gatekeeper,
            desk=self.desk,
            consents=self.consents,
            control=self.control,
            trust=SimulatedTrust(),
            files=MetadataFiles(self.link, TOPICS, DEVICE),
            fetching=self.fetching,
            components={
                "app": Component(
                    name="app",
                    slots=self.slots,
                    application=self.application,
                    environment={"FLEETLIFT_COMPONENT": "app"},
                    stop_timeout_s=1.0,
                    data=self._data(),
                    drain_command=self.settings.components["app"].drain_command,
                )
            },
            loop=self.loop,
            worker=AtOnce(),
            prober=AtOnce(),
            now=self.wall,
        )
        if online:
            self.link.contact = self.runner.contact
        else:
            self.link.start = lambda: None  # type: ignore[method-assign]
        self.online = online

    def _data(self) -> DataKeeper | None:
        directory = self.settings.components["app"].data_dir
        record = self.world.directory / "components/app/data.json"
        return None if directory is None else DataKeeper(directory, record)

    @property
    def snapshot(self) -> Snapshot:
        return self.runner._driver.snapshot

    @property
    def status(self) -> dict[str, Any]:
        return self.desk.status()

    def go_online(self) -> None:
        self.link.contact = self.runner.contact
        self.link.connect()

    def run(self, for_s: float = 120.0, until: Callable[[], bool] | None = None) -> None:
        """Let things happen, in their own time, until nothing more is due within `for_s` (or `until` is true)."""
        end = self.world.time + for_s
        while not (until and until()):
            if self.loop.turn(wait=False):
                self.world.time += 0.001
                continue
            due = self.loop.next_due()
            if due is None or due > end:
                return
            self.world.time = max(self.world.time, due)

    def start(self) -> Device:
        self.runner.begin()
        return self

    def power_off(self) -> None:
        """End this life without a word."""
        database = self.journal._database
        if database._connection.in_transaction:
            database._connection.execute("ROLLBACK")
        database.close()
        self.journal._lock.release()

    def idle(self) -> bool:
        return self.snapshot.phase is Phase.IDLE

    def _watch_journal(self) -> None:
        """Have every commit tick, before and after; and leave the waiting for real disks to tests of those."""
        database, world = self.journal._database, self.world
        database._connection.execute("PRAGMA synchronous=OFF")
        execute = database._execute

        def watched(statement: str, *values: Any) -> Any:
            if statement != "COMMIT":
                return execute(statement, *values)
            with world.happening("commit"):
                return execute(statement, *values)

        database._execute = watched  # type: ignore[method-assign]


def no_fsync(_descriptor: int) -> None:
    """Stands in for os.fsync where the power is cut between system calls, not behind them."""


def live(
    world: World, cloud: Cloud, *, lives: int = 12, begin: Callable[[Device], None] | None = None, **settings: Any
) -> Device:
    """Run a device until it rests, starting it again after each power cut; fails if it never rests."""
    for _ in range(lives):
        device = None
        try:
            device = Device(world, cloud, **settings)
            device.start()
            if begin is not None:
                begin(device)
            device.run(300.0)
        except PowerCutError:
            if device is not None:
                device.power_off()
            os.sched_yield()
            continue
        return device
    raise AssertionError(f"after {lives} lives it still does not rest; the last ticks were {world.ticked[-12:]}")
