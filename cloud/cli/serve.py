"""`fleetlift serve`: the whole cloud in one process, with a broker beside it where none is named."""

import asyncio
import contextlib
import fcntl
import importlib.metadata
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import uvicorn

from cloud.api.backend import Backend
from cloud.artifacts import Artifacts
from cloud.broker import EmbeddedBroker, Secured
from cloud.broker_files import BrokerFilesError
from cloud.changes import Changes
from cloud.cli.beside import beside, webhook_authorities
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.initialise import Plan, database_url, make_home, online_key_path, settle
from cloud.cli.listening import QuietServer, listen
from cloud.cli.logs import configure_logging
from cloud.cli.observing import counters, tracing
from cloud.cli.securing import Security, check_tls, listeners, reachable_host, url_of
from cloud.config import Home, Settings, is_loopback, load_settings, parse_broker_url, read_broker_password
from cloud.connection import BrokerAccess
from cloud.intake import Intake
from cloud.link import Link, UpMessage
from cloud.manual import ManualSite
from cloud.online_key import OnlineKey
from cloud.provenance import ORIGIN, SERVER, Origin
from cloud.refusals import Refusals
from cloud.service import Service
from cloud.site import create_site
from cloud.spans import TRACER, Tracer
from cloud.store.store import Store
from cloud.streams import Streams
from cloud.tls import modern
from cloud.trust import MetadataRepository
from cloud.webhooks.secret_files import SecretFiles
from cloud.webhooks.sending import Sender
from protocol.errors import FleetliftError, UserError
from protocol.topics import Topics

_log = logging.getLogger("cloud.serve")

BROKER_LOOK_S: Final = 1.0
RENEWAL_LOOK_S: Final = 3600.0
CONNECTED_WITHIN_S: Final = 10.0
GRACE_S: Final = 3
"""How long requests in progress have, once the server is told to end."""
SWITCH_S: Final = 0.001
"""How long a thread that counts may keep the interpreter from those that answer, each time (Python's own: 5 ms).

Of 100,000 devices a page that takes 50 ms took 300 ms beside such a count, and takes 80 ms so.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a server is made of, opened."""

    settings: Settings
    store: Store
    repository: MetadataRepository
    artifacts: Artifacts
    access: BrokerAccess
    embedded: EmbeddedBroker | None
    security: Security | None
    renewed: bool
    """Whether certificates were renewed before the broker could be told."""
    listener: socket.socket
    secrets: SecretFiles
    sender: Sender
    manual: ManualSite | None
    tracer: Tracer | None

    @property
    def url(self) -> str:
        """What operators reach the server by."""
        host, port = self.listener.getsockname()[:2]
        server = self.settings.server
        own = url_of("https" if server.tls else "http", reachable_host(host, server.names), port)
        return server.public_url or own

    @property
    def reaches_out(self) -> bool:
        """Whether the broker that was started here listens for devices beyond this machine."""
        secured = self.embedded.secured if self.embedded else None
        return secured is not None and not is_loopback(secured.device_host)

    @property
    def device_url(self) -> str:
        """What devices reach the broker by."""
        if self.embedded is not None and self.embedded.secured is not None:
            host = reachable_host(self.embedded.secured.device_host, self.settings.server.names)
            return self.settings.broker.device_url or url_of("mqtts", host, self.embedded.port)
        return self.settings.broker.device_url or str(self.access)


@click.command("serve", cls=Command, examples=("fleetlift serve --home /var/lib/fleetlift --host 0.0.0.0",))
@click.option("--host", envvar="FLEETLIFT_HOST", help="Where to listen (FLEETLIFT_HOST; default: the settings').")
@click.option("--port", type=click.IntRange(0, 65535), envvar="FLEETLIFT_PORT", help="(FLEETLIFT_PORT)")
@click.option("--broker", envvar="FLEETLIFT_BROKER", metavar="URL", help="A running broker (FLEETLIFT_BROKER).")
@pass_operator
def serve(operator: Operator, *, host: str | None, port: int | None, broker: str | None) -> None:
    """Run the server until it is told to end. Without a home, one is made first.

    Without a broker's address in the settings a broker is started, too.
    """
    home = operator.home
    if not home.root.exists():
        make_home(home, settle(Plan(), operator.output.warn))
        operator.output.warn(f"{home.root} was not there and is made: the server's part, and your keys and token.")
    if not home.cloud.is_dir():
        raise UserError(f"{home.root} is not a home. Nothing was started; `fleetlift init` makes one, --home names it.")
    settings = _override(load_settings(home.settings_file), host, port, broker)
    configure_logging(settings.log)
    sys.setswitchinterval(SWITCH_S)
    with contextlib.ExitStack() as stack:
        parts = _open(home, settings, stack)
        try:
            asyncio.run(_run(parts, operator))
        except ExceptionGroup as group:
            ours = group.subgroup(FleetliftError)
            if ours is None:
                raise
            raise _first(ours) from group


def _first(group: BaseExceptionGroup[FleetliftError]) -> FleetliftError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _override(settings: Settings, host: str | None, port: int | None, broker: str | None) -> Settings:
    server = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    changed = settings.model_copy(update={"server": settings.server.model_copy(update=server)})
    if broker is not None:
        try:
            parse_broker_url(broker)
        except ValueError as error:
            raise UserError(f"--broker: {error}. Nothing was started.") from None
        changed = changed.model_copy(update={"broker": settings.broker.model_copy(update={"url": broker})})
    return changed


def _open(home: Home, settings: Settings, stack: contextlib.ExitStack) -> Parts:
    """Open everything, in an order in which what is refused leaves nothing started."""
    check_tls(settings)
    manual = ManualSite(home.storage_path(settings.server.docs_dir)) if settings.server.docs_dir else None
    stack.enter_context(_alone(home.cloud / "serve.lock"))
    tracer = stack.enter_context(tracing(home, settings))
    store = stack.enter_context(Store.open(database_url(home, settings), time.time))
    key = OnlineKey.load_or_create(online_key_path(home, settings))
    repository = MetadataRepository(home.storage_path(settings.storage.metadata), key)
    artifacts = Artifacts(home.storage_path(settings.storage.blobs))
    stack.callback(artifacts.close)
    listener = stack.enter_context(listen(settings.server.host, settings.server.port))
    sender = Sender(tls=webhook_authorities(home, settings))
    security, renewed = _secure(home, settings, store) if settings.server.tls else (None, False)
    embedded = None
    if settings.broker.url is None:
        embedded = stack.enter_context(_embedded(home, settings, security))
    return Parts(
        settings=settings,
        store=store,
        repository=repository,
        artifacts=artifacts,
        access=_access(settings, embedded.cloud_url if embedded else settings.broker.url or "", home, security),
        embedded=embedded,
        security=security,
        renewed=renewed,
        listener=listener,
        secrets=SecretFiles(home.webhooks),
        sender=sender,
        manual=manual,
        tracer=tracer,
    )


def _secure(home: Home, settings: Settings, store: Store) -> tuple[Security, bool]:
    """Open the authorities, bring certificates and the broker's files up to date; tell whether any was renewed."""
    security = Security.open(home, settings)
    renewed = security.renew()
    revoked = store.certificates.revocations()
    try:
        security.write_access(revoked.certificates, revoked.device_ids)
    except BrokerFilesError as error:  # it is tried again and again: devices are served meanwhile
        _log.warning("%s", error)
    return security, renewed


def _embedded(home: Home, settings: Settings, security: Security | None) -> EmbeddedBroker:
    port = settings.broker.embedded_port
    if security is None:
        return EmbeddedBroker(home.broker, port=port)
    (device_host, _), (_, cloud_port) = listeners(settings)
    secured = Secured(tls=security.cloud_tls, cloud_port=cloud_port, device_host=device_host)
    return EmbeddedBroker(security.broker_files.directory, port=port, secured=secured)


def _access(settings: Settings, url: str, home: Home, security: Security | None) -> BrokerAccess:
    address, password = parse_broker_url(url), read_broker_password(home, settings)
    if address.tls and security is None:
        raise UserError("[server] tls is off, and the broker speaks mqtts. Nothing was started; switch it on.")
    return BrokerAccess(
        host=address.host,
        port=address.port,
        username=settings.broker.username,
        password=password,
        tls=security.cloud_tls if security is not None and address.tls else None,
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the home's lock; raises UserError if another server has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"another server runs on {path.parent.parent} already (pid {pid}). Nothing was started.", exit_code=5
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


async def _run(parts: Parts, operator: Operator) -> None:
    ORIGIN.set(Origin(via=SERVER))  # of what its loops decide
    TRACER.set(parts.tracer)
    stop, connected = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    topics, changes, refusals = Topics(parts.settings.broker.topic_root), Changes(), Refusals()
    intake = Intake(parts.store, parts.repository, parts.artifacts)
    await asyncio.to_thread(intake.reconcile, by="server")
    streams = Streams(parts.access, parts.artifacts, topics)

    def on_up() -> None:
        connected.set()
        service.connected()

    async def receive(device_id: str, message: UpMessage) -> None:
        await service.receive(device_id, message)

    link = Link(parts.access, topics, receive, on_up=on_up, refusals=refusals)
    service = Service(
        parts.store,
        parts.repository,
        parts.artifacts,
        link=link,
        streams=streams,
        topics=topics,
        changes=changes,
        open_joining=parts.settings.devices.joining == "open",
        refusals=refusals,
        tell_access=lambda: _refresh(parts, config),
        beside=beside(parts.store, parts.settings, changes, parts.secrets, parts.sender, source=parts.url),
    )

    backend = Backend(
        store=parts.store,
        repository=parts.repository,
        artifacts=parts.artifacts,
        intake=intake,
        settings=parts.settings,
        base_url=parts.url,
        broker_url=parts.device_url,
        changes=changes,
        why_not_ready=lambda: "" if link.is_connected else "the broker is not reached",
        counters=lambda: counters(service, link, streams),
        refusals=refusals,
        authorities=parts.security.authorities if parts.security else None,
        secrets=parts.secrets,
    )
    config = uvicorn.Config(
        create_site(backend, parts.manual),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=parts.security.api_certificate if parts.security else None,
    )
    config.load()
    if config.ssl is not None:
        modern(config.ssl)
    server = QuietServer(config)
    streams.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            http = tasks.create_task(server.serve(sockets=[parts.listener]), name="http")
            loops = [
                tasks.create_task(service.run(), name="service"),
                tasks.create_task(link.run(), name="link"),
                tasks.create_task(_keep_broker(parts.embedded), name="broker"),
                tasks.create_task(_announce(parts, operator, connected), name="announce"),
                tasks.create_task(_keep_secure(parts, config, connected), name="security"),
            ]
            await stop.wait()
            server.should_exit = True
            changes.close()  # long polls and the console's streams end now
            await http
            for task in loops:
                task.cancel()
    finally:
        await asyncio.to_thread(streams.stop)


async def _keep_broker(broker: EmbeddedBroker | None) -> None:
    """Start the embedded broker again when it died."""
    while broker is not None:
        await asyncio.sleep(BROKER_LOOK_S)
        if broker.is_running:
            continue
        _log.warning("the embedded broker ended; it is started again on port %d", broker.port)
        try:
            await asyncio.to_thread(broker.start)
        except FleetliftError as error:
            _log.warning("%s", error)


async def _keep_secure(parts: Parts, config: uvicorn.Config, connected: asyncio.Event) -> None:
    """Renew the servers' certificates in time, and have the broker know what it was not told.

    Not before we are connected: Mosquitto 2.0.11 ends when it is told while it keeps a session of somebody away.
    But in the end all the same: it may be what keeps us out.
    """
    force = parts.renewed
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(connected.wait(), CONNECTED_WITHIN_S)
    while parts.security is not None:
        try:
            await asyncio.to_thread(_refresh, parts, config, force=force)
            force = False
        except (FleetliftError, OSError) as error:
            _log.warning("certificates could not be brought up to date, and it is tried again: %s", error)
        await asyncio.sleep(RENEWAL_LOOK_S)


def _refresh(parts: Parts, config: uvicorn.Config, *, force: bool = False) -> None:
    """Bring certificates, access rules and revocations up to date, for the API and for the broker; blocking."""
    if parts.security is None:
        return
    renewed = parts.security.renew()
    revoked = parts.store.certificates.revocations()
    parts.security.tell_broker(revoked.certificates, revoked.device_ids, force=renewed or force)
    if renewed and config.ssl is not None:
        parts.security.load_server_certificate(config.ssl)
        _log.info("the servers' certificates were renewed")


async def _announce(parts: Parts, operator: Operator, connected: asyncio.Event) -> None:
    """Say where everything is, and when devices are served."""
    say, version = operator.output.say, importlib.metadata.version("fleetlift")
    say(f"Fleetlift {version} serves operators at {parts.url} and devices at {parts.device_url}.")
    say(f"The console is at {parts.url}/ (`fleetlift console` gives a link that lets you in).")
    if parts.embedded is not None:
        alone = "" if parts.reaches_out else " for this machine alone"
        say(f"Its broker is {parts.embedded.kind}, started here{alone}.")
    await connected.wait()
    say("Ready. It ends with Ctrl-C.")
