"""How a home is made safe to reach: its authorities, its certificates, and what its broker is given."""

import signal
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cloud.broker_config import LOOPBACK, Listener, derive_secured_config, mosquitto_settings
from cloud.broker_files import CONFIG_FILE, BrokerFiles, BrokerFilesError
from cloud.config import Home, Settings, is_loopback, parse_broker_url
from cloud.connection import Tls
from cloud.durable import make_private_directory, write_durably
from cloud.pki.authorities import Authorities, RevokedCertificate
from cloud.pki.issuing import alternative_names
from cloud.pki.requests import CertificateError
from cloud.pki.service_certificates import API, renew_due
from cloud.roles import utc_now
from protocol.errors import UserError

ANYWHERE: Final = ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound
STARTING_S: Final = 3.0
"""For how long a broker is waited for that starts; then it is told at the next try."""
LOOK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Security:
    """The opened authorities of a home, and the files of its broker."""

    home: Home
    settings: Settings
    authorities: Authorities
    broker_files: BrokerFiles

    @classmethod
    def open(cls, home: Home, settings: Settings) -> Self:
        """Open what `secure` made; raises AuthorityError."""
        directory = home.storage_path(settings.broker.directory)
        files = BrokerFiles(directory.resolve(), reload_command=settings.broker.reload_command)
        return cls(home, settings, Authorities(home.ca), files)

    @property
    def names(self) -> tuple[str, ...]:
        """What the server's and the broker's certificates are for."""
        return certified_names(self.settings)

    @property
    def cloud_tls(self) -> Tls:
        """How the server reaches the broker."""
        broker = self.settings.broker
        return Tls(
            ca=self.home.storage_path(broker.ca_file),
            certificate=self.home.storage_path(broker.certificate_file) if broker.certificate_file else None,
        )

    def renew(self) -> bool:
        """Renew the servers' certificates that are due; True if any was. Blocking; raises OSError, AuthorityError."""
        return renew_due(self.home, self.authorities, self.names, utc_now(), broker=self.broker_files.directory)

    def tell_broker(
        self, certificates: Iterable[RevokedCertificate] = (), devices: Iterable[str] = (), *, force: bool = False
    ) -> None:
        """Give the broker its rules and who is revoked, and have it read them if they changed.

        Raises BrokerFilesError. With `force` it reads its files in any case: its own certificate may be new.
        """
        if self.write_access(certificates, devices) or force:
            self._await_broker()
            self.broker_files.reload()

    def write_access(self, certificates: Iterable[RevokedCertificate] = (), devices: Iterable[str] = ()) -> bool:
        """Write the broker's rules and who is revoked; return whether it has to be told. Raises BrokerFilesError."""
        return self.broker_files.write_access(
            topic_root=self.settings.broker.topic_root,
            revoked_devices=devices,
            devices_ca=self.authorities.trusted("devices"),
            services_ca=self.authorities.trusted("services"),
            crl=self.authorities.crl(certificates),
        )

    def _await_broker(self) -> None:
        """Wait while the broker starts: it would die of the signal that is to have it read its files again.

        It has its process id on the disk before it can take signals, and may have read half of the files by then.
        """
        deadline = time.monotonic() + STARTING_S
        while (pid := self.broker_files.pid()) is not None and not _takes_hangups(pid):
            if time.monotonic() > deadline:
                raise BrokerFilesError(f"the broker (process {pid}) does not get on with its start; it is told later")
            time.sleep(LOOK_S)

    @property
    def api_certificate(self) -> Path:
        """The key and certificate that the API shows."""
        return self.home.tls / API

    def load_server_certificate(self, context: ssl.SSLContext) -> None:
        """Have a server's context show the certificate as it is on the disk now."""
        context.load_cert_chain(self.api_certificate)


def _takes_hangups(pid: int) -> bool:
    """Whether a process catches SIGHUP (proc(5), SigCgt); one that has just ended has nothing to lose by it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return True
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "1")
    return bool(int(caught, 16) & 1 << (signal.SIGHUP - 1))


def secure(home: Home, settings: Settings, final: Home) -> None:
    """Make authorities, certificates and the broker's files in `home`, which is going to be `final`."""
    for directory in (home.ca, home.tls, home.broker, home.broker / "data"):
        make_private_directory(directory)
    Authorities.create(home.ca)
    security = Security.open(home, settings)
    security.renew()
    write_durably(home.operator_ca, security.authorities.trusted("services"))
    devices, cloud = listeners(settings)
    if devices[1] and cloud[1]:  # else the server looks for free ports at each start, and writes it then
        config = derive_secured_config(mosquitto_settings(), directory=final.broker, devices=devices, cloud=cloud)
        write_durably(home.broker / CONFIG_FILE, config.encode())
    security.tell_broker()


def listeners(settings: Settings) -> tuple[Listener, Listener]:
    """Return where the broker listens for devices and for the server: on loopback alone unless it is elsewhere."""
    broker, host = settings.broker, settings.server.host
    if broker.url is None:
        return (LOOPBACK if is_loopback(host) else "", broker.embedded_port), (LOOPBACK, broker.cloud_port)
    cloud = parse_broker_url(broker.url)
    devices = parse_broker_url(broker.device_url or broker.url)
    return _listener(devices.host, devices.port), _listener(cloud.host, cloud.port)


def certified_names(settings: Settings) -> tuple[str, ...]:
    """Return every name that certificates are to bear: those of the settings, and this machine's own."""
    broker = settings.broker
    named = [parse_broker_url(url).host for url in (broker.url, broker.device_url) if url]
    host = [] if settings.server.host in ANYWHERE else [settings.server.host]
    own = [name for name in ("localhost", LOOPBACK, "::1", socket.gethostname()) if _can_be_certified(name)]
    return tuple(dict.fromkeys([*settings.server.names, *named, *host, *own]))


def _can_be_certified(name: str) -> bool:
    """Whether a certificate can name it: some machines are called what no host may be called."""
    try:
        check_name(name)
    except CertificateError:
        return False
    return True


def reachable_host(host: str, names: Sequence[str]) -> str:
    """Return what to call a server that listens on `host` by: its first name, or the address."""
    if names:
        return names[0]
    return LOOPBACK if host in ANYWHERE else host


def url_of(scheme: str, host: str, port: int) -> str:
    """Return an address."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def check_name(name: str) -> None:
    """Raise CertificateError for what no certificate can name: neither a host's name nor an address."""
    alternative_names([name])


def check_tls(settings: Settings) -> None:
    """Raise UserError for settings under which something would leave this machine in the clear."""
    if not settings.server.tls and not is_loopback(settings.server.host):
        raise UserError(
            f"without TLS the server listens on loopback alone, not on {settings.server.host}. Nothing was started."
        )


def _listener(host: str, port: int) -> Listener:
    return (host if is_loopback(host) and host != "localhost" else LOOPBACK if host == "localhost" else "", port)
