"""The agent's settings, read strictly from one TOML file: a key that is not known is refused by file, line and name.

Paths are relative to the file. Everything is optional but what a device cannot do without: its id, product, hardware
model, state directory and root of trust, the broker's URL, and at least one component. A device that enrols has its id
and its broker's URL from there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, Final, TypeVar

from device_agent.admission import InstallPolicy
from device_agent.config_table import Table, read_table
from device_agent.consent import LONGEST_DEFERRAL_S
from device_agent.health import AliveCheck, Check, ExecCheck, HttpCheck
from device_agent.identity.server import check_server
from device_agent.identity.store import Identity, IdentityFilesError, IdentityStore
from device_agent.link_settings import LinkSettings
from device_agent.timezones import is_known, system_timezone
from protocol.chunks import MAX_BLOB_BYTES
from protocol.errors import UserError
from protocol.identity import check_id
from protocol.topics import DEFAULT_ROOT, Topics
from protocol.values import MAX_ATTRIBUTES, MAX_COMPONENTS

TOP_KEYS: Final = ("device", "identity", "broker", "updates", "components")
DEVICE_KEYS: Final = (
    "id", "product", "hardware_model", "state_dir", "root", "attributes", "control_socket", "timezone",
)  # fmt: skip
HEALTH_KEYS: Final = ("kind", "url", "command", "interval_s", "timeout_s")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """How a component's application is asked how it is, and how often."""

    check: Check = field(default_factory=AliveCheck)
    interval_s: float = 1.0
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSettings:
    """One component: how its image runs, and when a new version has proved good.

    `command` starts the application as the agent's child, with `{image}` and `{python}` filled in; without it
    `restart_command` restarts a service of the system; `stop_command`, if it is given, stops it, and `active_command`
    tells by 0 that it runs.

    `data_dir` is saved before the schema of the data changes (docs/data-safety.md), once the application said that its
    data is synced (`data_sync` is `application`, not `none`), has ended, and `drain_command` has run.
    """

    name: str
    backend: str = "files"
    command: tuple[str, ...] = ()
    restart_command: tuple[str, ...] = ()
    stop_command: tuple[str, ...] = ()
    active_command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    health: HealthSettings = field(default_factory=HealthSettings)
    soak_s: float = 10.0
    prove_timeout_s: float = 120.0
    stop_timeout_s: float = 10.0
    confirm: bool = False
    needs_broker: bool = True
    capacity_bytes: int | None = None
    golden: Path | None = None
    data_dir: Path | None = None
    data_sync: str = "application"
    drain_command: tuple[str, ...] = ()
    drain_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """When updates happen."""

    enabled_at_start: bool = True
    install: InstallPolicy = InstallPolicy.AVAILABLE
    check_interval_s: float = 86_400.0
    window_bytes: int = 4 * 1024 * 1024
    startup_wait_s: float = 0.0
    """How long the start of the application waits for news of mandatory updates (a known one goes first anyway)."""
    hold_grace_s: float = 5.0
    """How long after its start an agent waits for holds to be taken again, if there were any before."""
    gauge_interval_s: float = 30.0
    """How often at most the cloud is told of gauges that changed."""
    longest_deferral_s: float = LONGEST_DEFERRAL_S
    """How long somebody at the device may put one update off in all, from the first time on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Where the broker is."""

    url: str
    topic_root: str = DEFAULT_ROOT
    username: str | None = None
    password_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """Where the device's key and certificate are, and the server (`https://host:8321`) that they are from."""

    directory: Path
    server: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicantSettings:
    """What a device is told that is to be enrolled."""

    identity: IdentitySettings
    device_id: str | None
    product: str
    hardware_model: str
    root: Path
    broker_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Everything that the agent is told before it starts."""

    device_id: str
    product: str
    hardware_model: str
    state_dir: Path
    root: Path
    attributes: Mapping[str, str]
    broker: BrokerSettings
    updates: UpdateSettings
    components: Mapping[str, ComponentSettings]
    identity: IdentitySettings | None
    """None: the device is known by its broker's user name, if by anything."""
    control_socket: Path
    """Where the agent listens for its applications; `control.sock` in the state directory unless it is said."""
    timezone: str = ""
    """By whose clock maintenance windows are meant (IANA database; empty: UTC); the system's unless it is said."""


def _names_of(kind: type) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind))


COMPONENT_KEYS: Final = tuple(name for name in _names_of(ComponentSettings) if name != "name")


def load(path: Path) -> AgentSettings:
    """Read the settings; raises UserError that names the file, the line and the key."""
    top = read_table(path, known=TOP_KEYS)
    identity = _identity(top)
    enrolled = None if identity is None else _enrolled(top, identity)
    return AgentSettings(
        **_device(top.table("device", known=DEVICE_KEYS), enrolled),
        identity=identity,
        broker=_broker(top.table("broker", {} if enrolled else ..., known=_names_of(BrokerSettings)), enrolled),
        updates=_updates(top.table("updates", {}, known=_names_of(UpdateSettings))),
        components=_components(top.table("components", known=None)),
    )


def load_control_socket(path: Path) -> Path:
    """Read of the settings where the agent listens: all that others than its own user need. Raises UserError."""
    return _control_socket(read_table(path, known=TOP_KEYS).table("device", known=DEVICE_KEYS))


def load_applicant(path: Path) -> ApplicantSettings:
    """Read of the settings what it takes to be enrolled; raises UserError as `load` does."""
    top = read_table(path, known=TOP_KEYS)
    identity, device = _identity(top), top.table("device", known=DEVICE_KEYS)
    if identity is None:
        raise top.error(None, "there is no [identity] with a directory; nothing was changed")
    return ApplicantSettings(
        identity=identity,
        device_id=device.id("id", None),
        product=device.id("product"),
        hardware_model=device.id("hardware_model"),
        root=device.file("root"),
        broker_url=top.table("broker", {}, known=_names_of(BrokerSettings)).text("url", None),
    )


def _identity(top: Table) -> IdentitySettings | None:
    if "identity" not in top.keys():  # noqa: SIM118 - not a mapping
        return None
    table = top.table("identity", known=_names_of(IdentitySettings))
    server = table.text("server", None)
    if server is not None:
        table.checked("server", lambda: check_server(server))
    return IdentitySettings(directory=table.file("directory"), server=server)


def _enrolled(top: Table, settings: IdentitySettings) -> Identity:
    try:
        identity = IdentityStore(settings.directory).load()
    except IdentityFilesError as error:
        raise UserError(str(error)) from error
    if identity is None:
        raise UserError(
            f"{settings.directory} holds no identity: this device is not enrolled, and nothing was started. "
            f"Do: fleetlift-agent enrol --config {top.path} --code-file CODE"
        )
    return identity


def _device(table: Table, enrolled: Identity | None) -> dict[str, Any]:
    fields = {
        "device_id": table.id("id", enrolled.device_id if enrolled else ...),
        "product": table.id("product"),
        "hardware_model": table.id("hardware_model"),
        "state_dir": table.file("state_dir"),
        "root": table.file("root"),
        "attributes": table.texts("attributes"),
    }
    for key, name in (("id", "device_id"), ("product", "product")):
        if enrolled is not None and fields[name] != getattr(enrolled, name):
            raise table.error(key, f"{fields[name]}, but the device is enrolled as {getattr(enrolled, name)}")
    fields["control_socket"] = _control_socket(table)
    fields["timezone"] = _timezone(table)
    attributes = fields["attributes"]
    if len(attributes) > MAX_ATTRIBUTES or any(len(key) > 64 or len(text) > 200 for key, text in attributes.items()):
        raise table.error("attributes", f"at most {MAX_ATTRIBUTES}, names of 64 and texts of 200 characters")
    return fields


def _control_socket(table: Table) -> Path:
    said: Path | None = table.file("control_socket", None)
    return said or Path(table.file("state_dir")) / "control.sock"


def _timezone(table: Table) -> str:
    said: str | None = table.text("timezone", None)
    if said and not is_known(said):
        raise table.error("timezone", f"{said!r:.80} is no zone of the IANA database as this device has it")
    return system_timezone(os.environ) if said is None else said


def _broker(table: Table, enrolled: Identity | None) -> BrokerSettings:
    root = table.text("topic_root", enrolled.topic_root if enrolled else DEFAULT_ROOT)
    table.checked("topic_root", lambda: Topics(root))
    settings = BrokerSettings(
        url=table.text("url", enrolled.broker_url if enrolled else ...),
        topic_root=root,
        username=table.text("username", None),
        password_file=table.file("password_file", None),
    )
    link = table.checked("url", lambda: LinkSettings(url=settings.url, device_id="any"))
    if link.is_open:
        raise table.error("url", f"{settings.url} would go over the network in the clear; use mqtts://")
    return settings


def _updates(table: Table) -> UpdateSettings:
    return UpdateSettings(
        enabled_at_start=table.take("enabled_at_start", bool, default=True),
        install=InstallPolicy(table.text("install", "available", one_of=tuple(InstallPolicy))),
        check_interval_s=table.seconds("check_interval_s", 86_400.0, low=1.0),
        window_bytes=table.whole("window_bytes", 4 * 1024 * 1024, low=64 * 1024, high=32 * 1024 * 1024),
        startup_wait_s=table.seconds("startup_wait_s", 0.0, high=3600.0),
        hold_grace_s=table.seconds("hold_grace_s", 5.0, low=2.0, high=60.0),
        gauge_interval_s=table.seconds("gauge_interval_s", 30.0, low=1.0, high=86_400.0),
        longest_deferral_s=table.seconds("longest_deferral_s", LONGEST_DEFERRAL_S),
    )


def _components(table: Table) -> Mapping[str, ComponentSettings]:
    names = table.keys()
    if not 1 <= len(names) <= MAX_COMPONENTS:
        raise table.error(None, f"1 to {MAX_COMPONENTS} components are possible, each as [components.<name>]")
    for name in names:
        table.checked(name, partial(check_id, name, "component"))
    components = {name: _component(name, table.table(name, known=COMPONENT_KEYS)) for name in names}
    for one, other in permutations(components.values(), 2):
        if one.data_dir is not None and other.data_dir is not None and one.data_dir.is_relative_to(other.data_dir):
            raise table.error(one.name, f"its data_dir is {other.name}'s, too; each has its own")
    return components


def _component(name: str, table: Table) -> ComponentSettings:
    soak_s = table.seconds("soak_s", 10.0, high=86_400.0)
    settings = ComponentSettings(
        name=name,
        backend=table.text("backend", "files", one_of=("files",)),
        command=table.words("command"),
        restart_command=table.words("restart_command"),
        stop_command=table.words("stop_command"),
        active_command=table.words("active_command"),
        env=table.texts("env"),
        health=_health(table.table("health", {}, known=HEALTH_KEYS)),
        soak_s=soak_s,
        prove_timeout_s=table.seconds("prove_timeout_s", max(120.0, 2 * soak_s), high=7 * 86_400.0),
        stop_timeout_s=table.seconds("stop_timeout_s", 10.0, high=600.0),
        confirm=table.take("confirm", bool, default=False),
        needs_broker=table.take("needs_broker", bool, default=True),
        capacity_bytes=table.whole("capacity_bytes", None, low=1, high=MAX_BLOB_BYTES),
        golden=table.file("golden", None),
        data_dir=table.file("data_dir", None),
        data_sync=table.text("data_sync", "application", one_of=("application", "none")),
        drain_command=table.words("drain_command"),
        drain_timeout_s=table.seconds("drain_timeout_s", 60.0, low=0.1, high=3600.0),
    )
    if bool(settings.command) is bool(settings.restart_command):
        raise table.error(None, f"{'.'.join(table.names)} has either command or restart_command")
    if settings.data_dir is not None and settings.restart_command and not settings.stop_command:
        raise table.error("data_dir", "it can be saved only while the application does not run; add stop_command")
    if settings.data_dir is None and settings.drain_command:
        raise table.error("drain_command", "there is no data_dir to drain into")
    if settings.prove_timeout_s <= settings.soak_s:
        raise table.error("prove_timeout_s", f"{settings.prove_timeout_s:g} is not longer than soak_s, {soak_s:g}")
    return settings


def _health(table: Table) -> HealthSettings:
    kind = table.text("kind", "alive", one_of=("alive", "http", "exec"))
    url, command = table.text("url", None), table.words("command")
    if (kind == "http") is not (url is not None):
        raise table.error("kind", "http has a url, and no other kind has")
    if (kind == "exec") is not bool(command):
        raise table.error("kind", "exec has a command, and no other kind has")
    check: Check = ExecCheck(command) if command else AliveCheck()
    return HealthSettings(
        check=table.checked("url", lambda: HttpCheck(url)) if url is not None else check,
        interval_s=table.seconds("interval_s", 1.0, low=0.05, high=3600.0),
        timeout_s=table.seconds("timeout_s", 5.0, low=0.05, high=600.0),
    )
