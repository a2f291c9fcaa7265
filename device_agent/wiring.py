"""Constructs an agent from its settings, on the real clock, disk, broker and processes; called by `cli` alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from device_agent.application import Application
from device_agent.asks import MetadataFiles
from device_agent.availability import Gatekeeper
from device_agent.clock import DeviceClock
from device_agent.components import Component
from device_agent.config import AgentSettings, ComponentSettings
from device_agent.consent import Consents
from device_agent.control import ControlServer
from device_agent.data.keeper import DataKeeper
from device_agent.desk import Desk
from device_agent.download_ports import DownloadSettings
from device_agent.fetching import Fetching
from device_agent.identity.access import IdentityAccess, device_clock
from device_agent.identity.asking import Asking
from device_agent.identity.keeper import IdentityKeeper
from device_agent.identity.keys import default_keys
from device_agent.identity.store import IdentityStore
from device_agent.journal import Journal
from device_agent.link import Link, LinkSettings
from device_agent.loop import Loop, WorkerThread
from device_agent.runner import Runner
from device_agent.slots.durable import make_directory
from device_agent.slots.files import FilesSlots
from device_agent.supervision import Supervisor
from device_agent.system_service import SystemService
from device_agent.tls import verifying_context
from device_agent.trust import DeviceTrust, refreshed_at_s
from protocol.errors import UserError
from protocol.phases import Phase
from protocol.topics import Topics
from protocol.up import Asked

MAX_ROOT_BYTES: Final = 512_000


def wire(settings: AgentSettings) -> Runner:
    """Return an agent, ready to run; raises UserError, and other FleetliftErrors for what it finds on the disk."""
    state_dir = settings.state_dir
    root = _prepare(settings)
    loop = Loop(time.monotonic)
    topics = Topics(settings.broker.topic_root)
    store = None if settings.identity is None else IdentityStore(settings.identity.directory)
    clock = device_clock(store, lambda: refreshed_at_s(state_dir / "metadata"))
    journal = Journal(state_dir / "journal.db", clock.now)
    access = None if store is None else IdentityAccess(store, clock)
    link = Link(
        LinkSettings(
            url=settings.broker.url,
            device_id=settings.device_id,
            username=settings.broker.username,
            password_file=settings.broker.password_file,
            tls=access.broker if access is not None else lambda: verifying_context(None, clock),
        ),
        topics,
        # The runner is made below; the link calls nobody before it is started.
        will=lambda: runner.contact.will(),  # noqa: PLW0108
        on_up=lambda session_present: runner.contact.link_up(session_present),  # noqa: PLW0108
        on_down=lambda why: runner.contact.link_down(why),  # noqa: PLW0108
        on_message=lambda topic, payload: runner.contact.message(topic, payload),  # noqa: PLW0108
        on_bulk=lambda topic, payload: runner.contact.bulk(topic, payload),  # noqa: PLW0108
        on_denied=lambda _what, _why: None if keeper is None else loop.post(keeper.denied),
    )
    gatekeeper = Gatekeeper(
        journal,
        state_dir / "hold.lock",
        enabled_at_start=settings.updates.enabled_at_start,
        grace_s=settings.updates.hold_grace_s,
        now=time.time,
        monotonic=loop.monotonic,
    )
    consents = Consents(journal, longest_s=settings.updates.longest_deferral_s, now=clock.now)
    desk = Desk(loop, gatekeeper, consents)
    files = MetadataFiles(link, topics, settings.device_id)
    worker, prober = WorkerThread("worker"), WorkerThread("prober")
    # Bundles are looked into beside the worker: a way back must not wait for signatures.
    trust = DeviceTrust(
        state_dir / "metadata",
        root,
        settings.product,
        ask=files.file,
        now=clock.now,
        keep_floors=journal.raise_floors,
        aside=prober.submit,
    )
    fetching = Fetching(
        trust=trust,
        chunks=journal.chunks,
        floors=journal,
        link=link,
        topics=topics,
        product=settings.product,
        loop=loop,
        worker=worker,
        settings=DownloadSettings(window_bytes=settings.updates.window_bytes),
        refuse=journal.refuse,
        ask_for_bundle=lambda: files.ask_for(Asked.BUNDLE),
    )
    keeper = None if store is None else _keeper(settings, store, clock, loop=loop, link=link, desk=desk)
    desk.contact = lambda: {
        "broker": {"url": settings.broker.url, "problem": link.problem},
        "identity": None if keeper is None else keeper.status(),
    }
    if keeper is not None:
        loop.post(keeper.start)
    runner = Runner(
        settings,
        journal=journal,
        link=link,
        gatekeeper=gatekeeper,
        desk=desk,
        consents=consents,
        control=ControlServer(settings.control_socket, desk),
        trust=trust,
        files=files,
        fetching=fetching,
        components={name: _component(settings, item) for name, item in settings.components.items()},
        loop=loop,
        worker=worker,
        prober=prober,
        now=clock.now,
    )
    return runner


def _keeper(
    settings: AgentSettings, store: IdentityStore, clock: DeviceClock, *, loop: Loop, link: Link, desk: Desk
) -> IdentityKeeper:
    identity = store.load()
    if identity is None or settings.identity is None:
        raise UserError(f"{store.directory} holds no identity any more; nothing was started")
    server = settings.identity.server
    return IdentityKeeper(
        store,
        identity,
        asks=Asking(store, default_keys(), clock, lambda identity: server or identity.server),
        link=link,
        clock=clock,
        loop=loop,
        worker=WorkerThread("identity"),
        is_idle=lambda: desk.standing.get("phase") == Phase.IDLE,
    )


def _prepare(settings: AgentSettings) -> bytes:
    """Make the private state directory, and return the root metadata that the device was given."""
    try:
        for parent in reversed([path for path in settings.state_dir.parents if not path.exists()]):
            parent.mkdir()
        make_directory(settings.state_dir)
        with settings.root.open("rb") as file:
            return file.read(MAX_ROOT_BYTES + 1)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; nothing was started") from error


def _component(settings: AgentSettings, component: ComponentSettings) -> Component:
    directory = settings.state_dir / "components" / component.name
    data_directory = settings.state_dir / "data" / component.name
    environment: Mapping[str, str] = {
        "FLEETLIFT_CONTROL_SOCKET": str(settings.control_socket),
        "FLEETLIFT_DATA_DIR": str(data_directory),
        "FLEETLIFT_COMPONENT": component.name,
    }
    slots = FilesSlots(directory, component.name, capacity_bytes=component.capacity_bytes, golden=component.golden)
    application: Supervisor
    if component.command:
        application = Application(
            component.command,
            directory,
            data_directory,
            environment=component.env,
            stop_timeout_s=component.stop_timeout_s,
        )
    else:
        application = SystemService(
            directory,
            restart=component.restart_command,
            stop=component.stop_command,
            active=component.active_command,
        )
    return Component(
        name=component.name,
        slots=slots,
        application=application,
        environment=environment,
        stop_timeout_s=component.stop_timeout_s,
        data=_data(settings, component, directory / "data.json"),
        drain_command=component.drain_command,
        drain_timeout_s=component.drain_timeout_s,
    )


def _data(settings: AgentSettings, component: ComponentSettings, record: Path) -> DataKeeper | None:
    """Return what keeps a component's data, if it has a directory for it that is none of the agent's own."""
    if component.data_dir is None:
        record.unlink(missing_ok=True)  # what it says would be old when there is a directory again
        return None
    own = (settings.state_dir / "components", settings.state_dir / "metadata")
    if settings.state_dir.is_relative_to(component.data_dir) or any(map(component.data_dir.is_relative_to, own)):
        raise UserError(
            f"components.{component.name}.data_dir, {component.data_dir}, is or holds what is the agent's own; "
            "nothing was started"
        )
    return DataKeeper(component.data_dir, record)
