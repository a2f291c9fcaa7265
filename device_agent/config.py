"""The agent's settings, read strictly from one TOML file: a key that is not known is refused by file, line and name.

Paths are relative to the file. Everything is optional but what a device cannot do without: its id, product, hardware
model, state directory and root of trust, the broker's URL, and at least one component.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from device_agent.admission import InstallPolicy
from device_agent.connection import LinkSettings
from device_agent.health import AliveCheck, Check, ExecCheck, HttpCheck
from protocol.chunks import MAX_BLOB_BYTES
from protocol.errors import FleetliftError, UserError
from protocol.identity import check_id
from protocol.topics import DEFAULT_ROOT, Topics
from protocol.values import MAX_ATTRIBUTES, MAX_COMPONENTS

MAX_CONFIG_BYTES: Final = 256 * 1024
TOP_KEYS: Final = ("device", "broker", "updates", "components")
DEVICE_KEYS: Final = ("id", "product", "hardware_model", "state_dir", "root", "attributes", "control_socket")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Where the broker is."""

    url: str
    topic_root: str = DEFAULT_ROOT
    username: str | None = None
    password_file: Path | None = None


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
    control_socket: Path
    """Where the agent listens for its applications; `control.sock` in the state directory unless it is said."""


def _names_of(kind: type) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind))


COMPONENT_KEYS: Final = tuple(name for name in _names_of(ComponentSettings) if name != "name")


def load(path: Path) -> AgentSettings:
    """Read the settings; raises UserError that names the file, the line and the key."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the agent's settings with --config") from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise UserError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        text = raw.decode()
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    top = _Table(path, text, (), values, known=TOP_KEYS)
    return AgentSettings(
        **_device(top.table("device", known=DEVICE_KEYS)),
        broker=_broker(top.table("broker", known=_names_of(BrokerSettings))),
        updates=_updates(top.table("updates", {}, known=_names_of(UpdateSettings))),
        components=_components(top.table("components", known=None)),
    )


class _Table:
    """One table of the file. A key that is not known is told before anything else: it may be another one, mistyped."""

    def __init__(
        self, path: Path, text: str, names: tuple[str, ...], values: Mapping[str, Any], *, known: Collection[str] | None
    ) -> None:
        self.path = path
        self.names = names
        self._text = text
        self._values = values
        for key in values:
            if known is not None and key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
                raise self.error(key, f"not a key of this table; {hint}")

    def keys(self) -> list[str]:
        return list(self._values)

    def table(self, key: str, default: Any = ..., *, known: Collection[str] | None) -> _Table:
        return _Table(self.path, self._text, (*self.names, key), self.take(key, dict, default), known=known)

    def take(self, key: str, kind: type[T] | tuple[type, ...], default: Any = ...) -> Any:
        if key not in self._values:
            if default is ...:
                raise self.error(None, f"{'.'.join((*self.names, key))} is missing")
            return default
        value = self._values[key]
        # bool is an int to Python, and not to a person.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join(_KINDS.get(item, item.__name__) for item in kinds)
            raise self.error(key, f"{wanted} is expected, not {value!r:.60}")
        return value

    def text(self, key: str, default: Any = ..., *, one_of: tuple[str, ...] = ()) -> Any:
        value = self.take(key, str, default)
        if one_of and value not in one_of:
            raise self.error(key, f"{value!r:.60} is not one of {', '.join(one_of)}")
        return value

    def id(self, key: str) -> str:
        value: str = self.take(key, str)
        return self.checked(key, lambda: check_id(value))

    def seconds(self, key: str, default: float, *, low: float = 0.0, high: float = 366 * 86_400.0) -> float:
        value = float(self.take(key, (int, float), default))
        if not low <= value <= high:
            raise self.error(key, f"{value:g} is not {low:g} to {high:g} seconds")
        return value

    def whole(self, key: str, default: int | None, *, low: int, high: int) -> Any:
        value = self.take(key, int, default)
        if value is not None and not low <= value <= high:
            raise self.error(key, f"{value} is not {low} to {high}")
        return value

    def file(self, key: str, default: Any = ...) -> Any:
        value = self.take(key, str, default)
        return None if value is None else (self.path.parent / value).absolute()

    def words(self, key: str) -> tuple[str, ...]:
        value = self.take(key, list, [])
        if not all(isinstance(word, str) for word in value) or (value and not value[0]):
            raise self.error(key, "a list of words is expected, the program first")
        return tuple(value)

    def texts(self, key: str) -> Mapping[str, str]:
        value = self.take(key, dict, {})
        if not all(isinstance(item, str) for item in value.values()):
            raise self.error(key, "a table of texts is expected")
        return dict(value)

    def checked(self, key: str, check: Callable[[], T]) -> T:
        try:
            return check()
        except FleetliftError as error:
            raise self.error(key, str(error)) from error

    def error(self, key: str | None, what: str) -> UserError:
        name = ".".join((*self.names, key) if key else self.names)
        line = self._line(key)
        return UserError(f"{self.path}{f':{line}' if line else ''}: {f'{name}: ' if key else ''}{what}")

    def _line(self, key: str | None) -> int | None:
        """Return the line, from 1, on which the key stands, or the header of its table."""
        table, inside, header_line = ".".join(self.names), "", None
        if not key and not table:
            return None
        assignment = re.compile(rf"(?:^|[\s{{,.])[\"']?{re.escape(key or self.names[-1])}[\"']?\s*[=.]")
        for number, line in enumerate(self._text.splitlines(), start=1):
            if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
                inside = re.sub(r"[\s\"']", "", header[1])
                if key and inside == f"{table}.{key}".lstrip("."):
                    return number
                header_line = number if inside == table else header_line
            elif table.startswith(inside) and assignment.search(line.split("#")[0]):
                return number
        return header_line


def _device(table: _Table) -> dict[str, Any]:
    fields = {
        "device_id": table.id("id"),
        "product": table.id("product"),
        "hardware_model": table.id("hardware_model"),
        "state_dir": table.file("state_dir"),
        "root": table.file("root"),
        "attributes": table.texts("attributes"),
    }
    fields["control_socket"] = table.file("control_socket", None) or fields["state_dir"] / "control.sock"
    attributes = fields["attributes"]
    if len(attributes) > MAX_ATTRIBUTES or any(len(key) > 64 or len(text) > 200 for key, text in attributes.items()):
        raise table.error("attributes", f"at most {MAX_ATTRIBUTES}, names of 64 and texts of 200 characters")
    return fields


def _broker(table: _Table) -> BrokerSettings:
    root = table.text("topic_root", DEFAULT_ROOT)
    table.checked("topic_root", lambda: Topics(root))
    settings = BrokerSettings(
        url=table.text("url"),
        topic_root=root,
        username=table.text("username", None),
        password_file=table.file("password_file", None),
    )
    table.checked("url", lambda: LinkSettings(url=settings.url, device_id="any"))
    return settings


def _updates(table: _Table) -> UpdateSettings:
    return UpdateSettings(
        enabled_at_start=table.take("enabled_at_start", bool, default=True),
        install=InstallPolicy(table.text("install", "available", one_of=tuple(InstallPolicy))),
        check_interval_s=table.seconds("check_interval_s", 86_400.0, low=1.0),
        window_bytes=table.whole("window_bytes", 4 * 1024 * 1024, low=64 * 1024, high=32 * 1024 * 1024),
        startup_wait_s=table.seconds("startup_wait_s", 0.0, high=3600.0),
        hold_grace_s=table.seconds("hold_grace_s", 5.0, low=2.0, high=60.0),
    )


def _components(table: _Table) -> Mapping[str, ComponentSettings]:
    names = table.keys()
    if not 1 <= len(names) <= MAX_COMPONENTS:
        raise table.error(None, f"1 to {MAX_COMPONENTS} components are possible, each as [components.<name>]")
    for name in names:
        table.checked(name, partial(check_id, name, "component"))
    return {name: _component(name, table.table(name, known=COMPONENT_KEYS)) for name in names}


def _component(name: str, table: _Table) -> ComponentSettings:
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
    )
    if bool(settings.command) is bool(settings.restart_command):
        raise table.error(None, f"{'.'.join(table.names)} has either command or restart_command")
    if settings.prove_timeout_s <= settings.soak_s:
        raise table.error("prove_timeout_s", f"{settings.prove_timeout_s:g} is not longer than soak_s, {soak_s:g}")
    return settings


def _health(table: _Table) -> HealthSettings:
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


_KINDS: Final[Mapping[type, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}
