"""What the broker reads: its configuration, whom it lets in and what each may do; written whole, durable, then told.

The directory holds `mosquitto.conf`, `acl`, `revoked.crl`, `server.pem`, the authorities (`devices-ca.crt` and
`services-ca.crt`, and in `devices-ca/` and `services-ca/` as OpenSSL looks for them), and the broker's own data. Files
are this user's alone (0600). Where the broker runs as somebody else, give the directory a group that he is in and the
setgid bit (`chmod 2750`): then they are for that group to read, too (0640).

Everything is checked before the first file is written: an access file that it cannot read makes Mosquitto quit (2.1) or
let nobody in. After a crash between two files each of them is whole, the old or the new one, and any mixture is a
consistent one; writing again finishes it.
"""

import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from cloud.authority_directory import write_authorities
from cloud.broker_config import DATA_DIRECTORY, PID_FILE, Listener, derive_secured_config, mosquitto_settings
from cloud.durable import PRIVATE_FILE, make_private_directory, write_durably
from cloud.pki.issuing import CLOUD_NAME
from cloud.roles import utc_now
from protocol.errors import FleetliftError, ProtocolError
from protocol.identity import check_id
from protocol.topics import Topics

CONFIG_FILE: Final = "mosquitto.conf"
ACL_FILE: Final = "acl"
DEVICES_CA_FILE: Final = "devices-ca.crt"
SERVICES_CA_FILE: Final = "services-ca.crt"
CRL_FILE: Final = "revoked.crl"
SERVER_FILE: Final = "server.pem"
DEVICES_CA_DIRECTORY: Final = "devices-ca"
SERVICES_CA_DIRECTORY: Final = "services-ca"
UNTOLD_FILE: Final = ".untold"
RELOAD_TIMEOUT_S: Final = 10.0
SHARED_FILE: Final = 0o640
SHARED_DIRECTORY: Final = 0o2750
_CRL_END: Final = b"-----END X509 CRL-----"
_MAX_PID_BYTES: Final = 32


class BrokerFilesError(FleetliftError):
    """The broker's files are not what they must be, could not be written, or the broker could not be told."""


class BrokerFiles:
    """The files of one broker. Blocking; one writer at a time."""

    def __init__(self, directory: Path, *, reload_command: Sequence[str] = ()) -> None:
        """Take the directory (made on the first write, 0700), and what to run instead of signalling the broker."""
        self.directory = directory.absolute()
        self.reload_command = tuple(reload_command)

    @property
    def config_file(self) -> Path:
        """What `mosquitto -c` is to be given."""
        return self.directory / CONFIG_FILE

    @property
    def server_file(self) -> Path:
        """The broker's own key and certificate; somebody else writes it, `reload` makes the broker read it."""
        return self.directory / SERVER_FILE

    @property
    def _untold(self) -> Path:
        """There from the first change until the broker has been told of the last."""
        return self.directory / UNTOLD_FILE

    def write_config(self, devices: Listener, cloud: Listener) -> bool:
        """Write `mosquitto.conf` with these two listeners; return whether it changed. A running broker keeps its own.

        Raises BrokerFilesError, or BrokerConfigError for an address or a path that cannot stand in it.
        """
        text = derive_secured_config(mosquitto_settings(), directory=self.directory, devices=devices, cloud=cloud)
        try:
            make_private_directory(self.directory)
            make_private_directory(self.directory / DATA_DIRECTORY)
        except OSError as error:
            raise BrokerFilesError(f"{self.directory} could not be made: {error.strerror}; nothing changed") from error
        return self._write(CONFIG_FILE, text.encode())

    def write_access(
        self,
        *,
        topic_root: str,
        revoked_devices: Iterable[str],
        devices_ca: bytes,
        services_ca: bytes,
        crl: bytes,
        now: datetime | None = None,
    ) -> bool:
        """Write who is let in and what each may do; return whether the broker has to be told, by `reload`.

        That is so when a file changed, and when one did before and telling never came to its end.

        `devices_ca`, `services_ca`: PEM bundles; `crl`: PEM, a list of each authority in `devices_ca`.

        Raises:
            BrokerFilesError: one of these is not that, and nothing was written; or a file could not be written, and
                those after it are still the old ones.
        """
        acl = access_rules(topic_root, revoked_devices).encode()
        services = _check_authorities(SERVICES_CA_FILE, services_ca)
        devices = _check_authorities(DEVICES_CA_FILE, devices_ca)
        _check_revocations(crl, devices, now or utc_now())
        writes: list[Callable[[], bool]] = [
            lambda: self._write(CRL_FILE, crl),
            lambda: self._write(DEVICES_CA_FILE, devices_ca),
            lambda: self._write_directory(DEVICES_CA_DIRECTORY, devices),
        ]
        # A list without its authority does no harm; an authority without its list would let nobody in.
        if crl.count(_CRL_END) < self._read(CRL_FILE).count(_CRL_END):
            writes.reverse()
        try:
            make_private_directory(self.directory)
        except OSError as error:
            raise BrokerFilesError(f"{self.directory} could not be made: {error.strerror}; nothing changed") from error
        changed = [self._write(ACL_FILE, acl), *(write() for write in writes)]
        changed.append(self._write(SERVICES_CA_FILE, services_ca))
        changed.append(self._write_directory(SERVICES_CA_DIRECTORY, services))
        self._share(self.server_file)
        return any(changed) or self._untold.exists()

    def write_revocations(self, crl: bytes, *, now: datetime | None = None) -> None:
        """Write the revocation lists alone, against the authorities that are there; raises BrokerFilesError."""
        _check_revocations(crl, _check_authorities(DEVICES_CA_FILE, self._read(DEVICES_CA_FILE)), now or utc_now())
        self._write(CRL_FILE, crl)

    def pid(self) -> int | None:
        """Return the process id that the running broker wrote, if that is a broker's."""
        try:
            with (self.directory / PID_FILE).open("rb") as file:
                pid = int(file.read(_MAX_PID_BYTES))
        except (OSError, ValueError):
            return None
        return pid if pid > 1 and _is_mosquitto(pid) else None

    def may_signal(self, pid: int) -> bool:
        """Tell whether this user may have a process read its files again."""
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True

    def reload(self) -> bool:
        """Have the broker read the files again; return False when none runs: it will read them when it starts.

        Raises BrokerFilesError when it could not be told; the files stay as they are, and telling can be repeated.
        """
        told = self._tell()
        self._untold.unlink(missing_ok=True)
        return told

    def _tell(self) -> bool:
        if self.reload_command:
            self._run_reload_command()
            return True
        pid = self.pid()
        if pid is None:
            return False
        with contextlib.ExitStack() as opened:
            try:
                process = os.pidfd_open(pid)  # from here on the number cannot come to mean another process
                opened.callback(os.close, process)
                if not _is_mosquitto(pid):
                    return False
                signal.pidfd_send_signal(process, signal.SIGHUP)
            except ProcessLookupError:
                return False
            except OSError as error:
                raise BrokerFilesError(
                    f"the broker (process {pid}) could not be told of its new files: {error.strerror}. "
                    "Give [broker] reload_command, or run server and broker as one user"
                ) from error
        return True

    def _run_reload_command(self) -> None:
        command = self.reload_command
        try:
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=RELOAD_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BrokerFilesError(f"the broker could not be told of its new files: {command[0]}: {error}") from error
        if ended.returncode:
            said = ended.stderr.decode("utf-8", "replace").strip()[-500:]
            raise BrokerFilesError(
                f"the broker could not be told of its new files: {command[0]} ended with {ended.returncode}: {said}"
            )

    def _read(self, name: str) -> bytes:
        try:
            return (self.directory / name).read_bytes()
        except OSError:
            return b""

    def _write(self, name: str, data: bytes) -> bool:
        path = self.directory / name
        try:
            changed = self._read(name) != data
            if changed:
                if not self._untold.exists():
                    write_durably(self._untold, b"")
                write_durably(path, data)
        except OSError as error:
            raise BrokerFilesError(
                f"{path} could not be written: {error.strerror}. It is unchanged, and so are those after it; try again"
            ) from error
        self._share(path)
        return changed

    def _write_directory(self, name: str, authorities: Sequence[x509.Certificate]) -> bool:
        directory = self.directory / name
        try:
            changed = write_authorities(directory, authorities)
            if self.directory.stat().st_mode & stat.S_ISGID:
                directory.chmod(SHARED_DIRECTORY)
            for path in directory.iterdir():
                self._share(path)
        except OSError as error:
            raise BrokerFilesError(f"{directory} could not be written: {error.strerror}; try again") from error
        return changed

    def _share(self, path: Path) -> None:
        """Let the broker read a file, where it runs as somebody else and the directory says so."""
        try:
            mode = SHARED_FILE if self.directory.stat().st_mode & stat.S_ISGID else PRIVATE_FILE
            if not path.exists():
                return
            if stat.S_IMODE(path.stat().st_mode) != mode:
                path.chmod(mode)
            theirs, its = self.directory.stat().st_gid, path.stat().st_gid
        except OSError as error:
            raise BrokerFilesError(f"{path} could not be made readable for the broker: {error.strerror}") from error
        if mode == SHARED_FILE and its != theirs:  # who is not in a group cannot have directories pass it on
            try:
                os.chown(path, -1, theirs)
            except OSError:
                raise BrokerFilesError(
                    f"{path} is of the group {its}, and the broker reads what is of {theirs}. Add this server's user "
                    "to that group (usermod -aG GROUP USER), and start the server again"
                ) from None


def _is_mosquitto(pid: int) -> bool:
    """Whether a process is a broker: the number in a file may be that of one long gone, and somebody else's by now."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == "mosquitto"
    except FileNotFoundError:
        return False


def access_rules(topic_root: str, revoked_devices: Iterable[str]) -> str:
    """Return the text of Mosquitto's ACL file (docs/protocol.md, access rules); raises BrokerFilesError.

    A revoked device is denied everything, also in a session that it has; the revocation list keeps it from the next.
    """
    try:
        root = Topics(topic_root).root
        revoked = sorted({check_id(device_id, "device") for device_id in revoked_devices})
    except ProtocolError as error:
        raise BrokerFilesError(f"no access rules were written: {error}") from error
    lines = [
        "# Written by Fleetlift; edits here are lost. Read again on SIGHUP.",
        *(f"user {device_id}\ntopic deny #" for device_id in revoked),
        f"user {CLOUD_NAME}",
        f"topic readwrite {root}/#",
        f"pattern write {root}/d/%u/up/+",
        f"pattern read {root}/d/%u/down/#",
        f"pattern read {root}/p/#",
        f"pattern read {root}/b/+",
    ]
    return "\n".join(lines) + "\n"


def read_revocation_lists(crl: bytes) -> list[x509.CertificateRevocationList]:
    """Return the lists in a PEM file; raises BrokerFilesError."""
    try:
        return [x509.load_pem_x509_crl(part + _CRL_END) for part in crl.split(_CRL_END)[:-1]]
    except (ValueError, x509.InvalidVersion) as error:
        raise BrokerFilesError("revoked.crl does not hold revocation lists in PEM; nothing was written") from error


def _check_authorities(name: str, bundle: bytes) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(bundle)
        constraints = [it.extensions.get_extension_for_class(x509.BasicConstraints).value for it in found]
    except (ValueError, x509.ExtensionNotFound, x509.InvalidVersion) as error:
        raise BrokerFilesError(f"{name} would not be certificates of authorities; nothing was written") from error
    if not all(it.ca for it in constraints):
        raise BrokerFilesError(f"{name} would hold a certificate of no authority; nothing was written")
    return found


def _check_revocations(crl: bytes, authorities: Sequence[x509.Certificate], now: datetime) -> None:
    lists = read_revocation_lists(crl)
    for authority in authorities:
        good = (
            it.issuer == authority.subject
            and it.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
            and it.last_update_utc <= now
            and (it.next_update_utc is None or now < it.next_update_utc)
            for it in lists
        )
        if not any(good):
            raise BrokerFilesError(
                f"revoked.crl would hold no valid list of {authority.subject.rfc4514_string()}, and its devices would "
                "be let in no more; nothing was written"
            )
