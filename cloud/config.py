"""The server's settings from `fleetlift.toml`, strict to the letter, and where everything lies in a home.

A home holds `cloud/` (what the server needs) and `operator/` (what the server never sees). A file is refused with its
name, the line and the key of whatever is wrong in it; nothing is ever half read.
"""

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cloud.settings_files import read_settings
from protocol.chunks import MAX_BLOB_BYTES
from protocol.errors import FleetliftError, UserError
from protocol.topics import DEFAULT_ROOT, Topics

HOME_VARIABLE: Final = "FLEETLIFT_HOME"
DEFAULT_HOME: Final = Path("fleetlift-home")
DEFAULT_PORT: Final = 8321
DEFAULT_BROKER_PORT: Final = 18321
DEFAULT_CLOUD_PORT: Final = 18322
MQTT_PORT: Final = 1883
MQTT_CLOUD_PORT: Final = 8884
MQTTS_PORT: Final = 8883


class _Section(BaseModel):
    """A table whose keys are all known, of the right type, and never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ServerSettings(_Section):
    """Where the HTTP API listens, and what it accepts."""

    host: str = "127.0.0.1"
    """The address it listens on; 0.0.0.0 for all."""
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """The port of API and console."""
    public_url: str | None = None
    """What operators reach it by, when a proxy stands before it; links in answers start with it."""
    tls: bool = True
    """Whether it speaks HTTPS. Without, it listens on loopback alone: for a proxy beside it, or for trying things."""
    names: list[str] = Field(default=[], max_length=32)
    """Host names and addresses by which operators and devices reach server and broker; certificates bear them."""
    max_request_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """The largest body of any request but an image's upload."""
    max_image_bytes: int = Field(default=8 * 1024**3, ge=1, le=MAX_BLOB_BYTES)
    """The largest image that is taken."""
    docs_url: str | None = None
    """Where the site of the documents stands, if it is elsewhere; refused requests link to it."""
    docs_dir: str | None = None
    """The site as `make docs` built it, served at /docs/; without it only the catalogue of codes is there."""

    @field_validator("public_url", "docs_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError("starts with http:// or https://")
        return value.rstrip("/") if value else None


class BrokerSettings(_Section):
    """Which MQTT broker; without `url` one is started, for devices on `embedded_port`, for us on `cloud_port`."""

    url: str | None = None
    """Where the server reaches a broker that runs by itself, mqtts://host:8884; without it, one is started."""
    device_url: str | None = None
    """What devices reach the broker by, when that is another address; enrolled devices are told it."""
    embedded_port: int = Field(default=DEFAULT_BROKER_PORT, ge=0, le=65535)
    """The devices' port of the broker that is started."""
    cloud_port: int = Field(default=DEFAULT_CLOUD_PORT, ge=0, le=65535)
    """The server's own port of the broker that is started."""
    directory: str = "../broker"
    """The broker's own files: the server writes certificates, access rules and revocations there."""
    reload_command: list[str] = []
    """Run when those files have changed; without it the process in `directory`'s mosquitto.pid is told."""
    ca_file: str = "tls/services-ca.crt"
    """What the broker's certificate is checked by, for mqtts."""
    certificate_file: str | None = "tls/cloud.pem"
    """The server's certificate and key for the broker, in one PEM file."""
    topic_root: str = DEFAULT_ROOT
    """What all topics begin with."""
    username: str | None = None
    """The server's user name at a broker without certificates."""
    password_file: str | None = None
    """The file with its password."""

    @field_validator("url", "device_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is not None:
            check_encrypted(value)
        return value

    @field_validator("topic_root")
    @classmethod
    def _check_root(cls, value: str) -> str:
        try:
            return Topics(value).root
        except FleetliftError as error:
            raise ValueError(str(error)) from None


class StorageSettings(_Section):
    """Where the server keeps things; relative paths are relative to the settings file's directory."""

    database: str = "fleetlift.db"
    """A file (SQLite), or the URL of a PostgreSQL database, postgresql://user@host/name."""
    blobs: str = "blobs"
    """The images, by their digests."""
    metadata: str = "metadata"
    """The signed metadata."""
    keys: str = "keys"
    """The server's own key, which signs snapshots, timestamps and notices."""


class DeviceSettings(_Section):
    """Which devices are let in."""

    joining: Literal["open", "known"] = "open"
    """`open`: a device of a known product registers itself by its first hello; `known`: only enrolled ones."""
    renewal_grace_days: int = Field(default=90, ge=0, le=3650)
    """For how long after its end a certificate is still good for getting the next one."""
    quiet_after_hours: int = Field(default=24, ge=1, le=8760)
    """For how long a device has to be away to be called quiet."""


class EventSettings(_Section):
    """How long what happened is kept, for timelines and webhooks."""

    max_rows: int = Field(default=1_000_000, ge=1000)
    """How many events are kept."""
    max_age_days: int = Field(default=400, ge=4)
    """How old they become."""


class WebhookSettings(_Section):
    """How webhooks are spoken to."""

    ca_file: str | None = None
    """What receivers' certificates are checked by (PEM); without it, by the system's list."""


class ConsoleSettings(_Section):
    """The console in the browser."""

    confirm_above: int = Field(default=10, ge=0)
    """Devices from which on their number has to be typed before a release reaches them."""


class LogSettings(_Section):
    """What the server says about its work, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """From which level on something is said."""
    format: Literal["text", "json"] = "text"
    """Lines for people, or a JSON object a line."""


class TracingSettings(_Section):
    """Traces in OpenTelemetry's format; nobody is sent any unless `endpoint` is set. Needs the extra `tracing`."""

    endpoint: str | None = None
    """A collector's address for OTLP over HTTP, as http://collector:4318."""
    ca_file: str | None = None
    """What the collector's certificate is checked by (PEM); without it, by the system's list."""
    sampled_percent: int = Field(default=100, ge=0, le=100)
    """How many of a hundred traces are kept; one that the caller of a request keeps is kept here, too."""

    @field_validator("endpoint")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is not None and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ValueError("is an address that starts with http:// or https://")
        return value


class Settings(_Section):
    """The whole of `fleetlift.toml`."""

    server: ServerSettings = ServerSettings()
    broker: BrokerSettings = BrokerSettings()
    storage: StorageSettings = StorageSettings()
    devices: DeviceSettings = DeviceSettings()
    events: EventSettings = EventSettings()
    webhooks: WebhookSettings = WebhookSettings()
    console: ConsoleSettings = ConsoleSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()


class OperatorContext(_Section):
    """The whole of `context.toml`: what an operator's commands assume where no option says otherwise."""

    server: str = f"http://127.0.0.1:{DEFAULT_PORT}"
    """The server's address."""
    product: str | None = None
    """The product that is meant where none is named."""
    component: str = "app"
    """The component that is meant where none is named."""
    ca: str | None = None
    """What the server's certificate is checked by (PEM, relative to this file); without it, by the system's list."""


@dataclass(frozen=True, slots=True)
class Home:
    """The paths in a home; making none of them."""

    root: Path

    @classmethod
    def choose(cls, option: Path | None = None) -> "Home":
        """Return the home of an option, else of FLEETLIFT_HOME, else `./fleetlift-home`; absolute."""
        return cls((option or Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME)).expanduser().absolute())

    @property
    def cloud(self) -> Path:
        """What the server needs."""
        return self.root / "cloud"

    @property
    def settings_file(self) -> Path:
        """The server's settings."""
        return self.cloud / "fleetlift.toml"

    @property
    def ca(self) -> Path:
        """The fleet's certificate authorities, with their keys."""
        return self.cloud / "ca"

    @property
    def tls(self) -> Path:
        """The server's own certificates."""
        return self.cloud / "tls"

    @property
    def webhooks(self) -> Path:
        """What webhooks are signed with, a file each."""
        return self.cloud / "webhooks"

    @property
    def broker(self) -> Path:
        """What the broker needs, and nothing else: settings, certificates, access rules, its data."""
        return self.root / "broker"

    @property
    def operator(self) -> Path:
        """What the operator needs and the server never sees."""
        return self.root / "operator"

    @property
    def context_file(self) -> Path:
        """The operator's context."""
        return self.operator / "context.toml"

    @property
    def token_file(self) -> Path:
        """The operator's API token."""
        return self.operator / "token"

    @property
    def operator_ca(self) -> Path:
        """What the operator's commands check the server's certificate by."""
        return self.operator / "ca.crt"

    @property
    def keys(self) -> Path:
        """The offline keys."""
        return self.operator / "keys"

    def storage_path(self, name: str) -> Path:
        """Return a path of StorageSettings, absolute."""
        return self.cloud / Path(name).expanduser()


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker listens, and whether it speaks TLS there."""

    host: str
    port: int
    tls: bool = False


def parse_broker_url(url: str) -> BrokerAddress:
    """Return what `mqtts://host[:port]` or `mqtt://host[:port]` says; raises ValueError."""
    parts = urlsplit(url)
    more = parts.path.strip("/") or parts.username or parts.query or parts.fragment
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or more:
        raise ValueError(f"{url!r:.100} is not mqtt://host or mqtts://host, with a :port if not the usual one")
    tls = parts.scheme == "mqtts"
    return BrokerAddress(parts.hostname, parts.port or (MQTTS_PORT if tls else MQTT_PORT), tls)


def check_encrypted(url: str) -> None:
    """Raise ValueError for what is no broker's address, or one that would be spoken to in the clear over a network."""
    address = parse_broker_url(url)
    if urlsplit(url).scheme == "mqtt" and not is_loopback(address.host):
        raise ValueError(f"{url!r:.100} is not encrypted; only mqtts:// leaves this machine")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, by a name or address that can be nothing else."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(path: Path) -> Settings:
    """Return the server's settings; a missing file gives the defaults.

    Raises:
        UserError: the file cannot be read, is not TOML, or has a key or value that is not known or not possible;
            the text names the file, the line and the key.
    """
    return read_settings(path, Settings)


def load_context(path: Path) -> OperatorContext:
    """Return the operator's context; a missing file gives the defaults. Raises UserError as `load_settings` does."""
    return read_settings(path, OperatorContext)


def read_broker_password(home: Home, settings: Settings) -> str | None:
    """Return the password in `[broker] password_file`, None where none is named; raises UserError."""
    if settings.broker.password_file is None:
        return None
    path = home.storage_path(settings.broker.password_file)
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"the broker's password file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:  # its text would quote the password
        raise UserError(f"the broker's password file {path} is not text in UTF-8.") from None
