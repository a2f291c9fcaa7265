"""The broker's files: what stands in them, whole after any interruption, private, and the broker told of them."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from cloud import authority_directory as directory_module
from cloud import broker_files as module
from cloud.authority_directory import write_authorities
from cloud.broker_config import BrokerConfigError, derive_secured_config, mosquitto_settings
from cloud.broker_files import BrokerFiles, BrokerFilesError, access_rules
from cloud.durable import write_durably
from cloud.pki.issuing import new_key
from tests.support.certificates import Fleet
from tests.support.processes import Processes

CRL_END = b"-----END X509 CRL-----"


def settings(text: str) -> list[tuple[str, str]]:
    """Return the statements of a configuration but its comments."""
    lines = [line.partition(" ") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, value) for name, _, value in lines]


def test_the_rules_are_one_line_each() -> None:
    assert access_rules("fleetlift/v1", ["pi-2", "pi-1", "pi-2"]).splitlines()[1:] == [
        "user pi-1",
        "topic deny #",
        "user pi-2",
        "topic deny #",
        "user fleetlift.cloud",
        "topic readwrite fleetlift/v1/#",
        "pattern write fleetlift/v1/d/%u/up/+",
        "pattern read fleetlift/v1/d/%u/down/#",
        "pattern read fleetlift/v1/p/#",
        "pattern read fleetlift/v1/b/+",
    ]


@pytest.mark.parametrize("bad", ["", "a\nuser b", "+", "#", "UPPER", "a b", "a" * 65, "fleetlift.cloud"])
def test_nothing_but_an_id_becomes_a_rule(bad: str) -> None:
    with pytest.raises(BrokerFilesError, match="no access rules were written"):
        access_rules("fleetlift/v1", [bad])


def test_the_derived_config_keeps_every_setting_but_paths_addresses_user_and_log(tmp_path: Path) -> None:
    derived = settings(
        derive_secured_config(mosquitto_settings(), directory=tmp_path, devices=("", 1), cloud=("::1", 2))
    )
    listeners = [value for name, value in derived if name == "listener"]
    assert listeners == ["1", "2 ::1"]
    own = {"listener", "persistence_location", "user", "pid_file", "log_dest", "connection_messages"}
    files = {"acl_file", "cafile", "capath", "certfile", "keyfile", "crlfile"}
    assert [(name, value) for name, value in derived if name not in own | files] == [
        (name, value) for name, value in settings(mosquitto_settings()) if name not in own | files
    ]
    paths = [Path(value) for name, value in derived if name in files | {"pid_file", "persistence_location"}]
    assert {path.parent for path in paths} == {tmp_path}
    assert {path.name for path in paths} == {
        *("acl", "server.pem", "devices-ca.crt", "services-ca.crt", "revoked.crl", "mosquitto.pid", "data"),
        *("devices-ca", "services-ca"),
    }


def test_production_and_the_derived_config_state_every_limit_and_every_guard() -> None:
    text = mosquitto_settings()
    head, devices, cloud = (dict(settings(part)) for part in text.replace("\nlistener ", "\n\0listener ").split("\0"))
    for limit in (
        "max_packet_size",
        "max_keepalive",
        "max_queued_messages",
        "max_queued_bytes",
        "max_inflight_messages",
    ):
        assert int(head[limit]) > 0
    assert int(head["memory_limit"]) > 0
    assert head["allow_anonymous"] == "false"
    for door in (devices, cloud):
        assert (door["require_certificate"], door["use_identity_as_username"], door["tls_version"]) == (
            "true",
            "true",
            "tlsv1.2",
        )
        assert int(door["max_connections"]) > 0
    assert devices["use_username_as_clientid"] == "true"
    assert devices["crlfile"].endswith("/revoked.crl")
    assert (devices["cafile"][-14:], cloud["cafile"][-15:]) == ("devices-ca.crt", "services-ca.crt")
    assert cloud["listener"].endswith(" 127.0.0.1")


def test_what_cannot_stand_in_the_config_is_refused(tmp_path: Path) -> None:
    files = BrokerFiles(tmp_path / "broker")
    with pytest.raises(BrokerConfigError, match="nothing was written"):
        files.write_config(("127.0.0.1\nallow_anonymous true", 1), ("", 2))
    with pytest.raises(BrokerConfigError, match="nothing was written"):
        BrokerFiles(tmp_path / "a\nb").write_config(("", 1), ("", 2))
    assert not any(tmp_path.iterdir())


def test_files_are_private_and_writing_the_same_again_changes_nothing(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    assert fleet.files.write_config(("", 1), ("127.0.0.1", 2))
    assert not fleet.files.write_config(("", 1), ("127.0.0.1", 2))
    fleet.files.reload()
    assert not fleet.write_access()
    directory = fleet.files.directory
    assert {path.name: oct(mode(path)) for path in directory.iterdir()} == {
        **dict.fromkeys(
            ("acl", "mosquitto.conf", "devices-ca.crt", "services-ca.crt", "revoked.crl", "server.pem"), "0o600"
        ),
        **dict.fromkeys(("data", "devices-ca", "services-ca"), "0o700"),
    }
    assert mode(directory) == 0o700
    directory.chmod(0o2750)  # now it is a group's as well
    fleet.write_access()
    fleet.files.write_config(("", 1), ("127.0.0.1", 2))
    assert {mode(path) for path in directory.iterdir() if path.is_file()} == {0o640}
    for name in ("devices-ca", "services-ca"):
        assert mode(directory / name) == 0o750
        assert {mode(path) for path in (directory / name).iterdir()} == {0o640}


def test_what_was_written_before_a_group_could_read_it_is_given_to_the_group(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    group = 65534 if os.geteuid() == 0 else max(os.getgroups())
    directory = fleet.files.directory
    os.chown(directory, -1, group)
    directory.chmod(0o2750)
    fleet.write_access()
    written = [
        path for path in directory.rglob("[!.]*") if path.is_file()
    ]  # what begins with a dot is the server's own
    assert len(written) >= 6
    assert {path.name for path in written if path.stat().st_gid != group} == set()


@pytest.mark.parametrize("change", ["rotated", "retired", "revoked"])
def test_an_interruption_leaves_whole_files_that_fit_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    fleet = Fleet(tmp_path)
    if change == "retired":
        fleet.authorities.rotate("devices")
        fleet.write_access()
    before, original = contents(fleet), tmp_path / "original"
    shutil.copytree(fleet.files.directory, original)
    match change:
        case "rotated":
            fleet.authorities.rotate("devices")
        case "retired":
            fleet.authorities.retire("devices")
        case _:
            fleet.revoked.append(fleet.device("pi-1"))
    states = []
    for writes in range(7):
        failing = Failing(writes)
        monkeypatch.setattr(module, "write_durably", failing)
        monkeypatch.setattr(directory_module, "write_durably", failing)
        try:
            fleet.write_access()
        except BrokerFilesError as error:
            assert "could not be written: No space left on device" in str(error)  # noqa: PT017 - some succeed
        states.append(contents(fleet))
        lists = fleet.files.directory.joinpath("revoked.crl").read_bytes().split(CRL_END)[:-1]
        listed = {x509.load_pem_x509_crl(part + CRL_END).issuer for part in lists}
        bundle = fleet.files.directory.joinpath("devices-ca.crt").read_bytes()
        hashed = (path.read_bytes() for path in fleet.files.directory.joinpath("devices-ca").glob("*.0"))
        authorities = x509.load_pem_x509_certificates(bundle + b"".join(hashed))
        assert {authority.subject for authority in authorities} <= listed, "an authority without its list"
        if writes < 6:
            shutil.rmtree(fleet.files.directory)
            shutil.copytree(original, fleet.files.directory)
    after = states[-1]
    assert after != before
    for state in states:
        assert all(data in (before[name], after[name]) for name, data in state.items())
    assert not list(fleet.files.directory.glob(".*.part"))


class Failing:
    """`write_durably` on a disk that is full after so many writes."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def __call__(self, path: Path, data: bytes) -> None:
        if self.left == 0:
            raise OSError(28, os.strerror(28))
        self.left -= 1
        write_durably(path, data)


def test_what_the_broker_was_not_told_of_is_still_to_be_told(tmp_path: Path) -> None:
    fleet, ran = Fleet(tmp_path), tmp_path / "ran"
    again = BrokerFiles(fleet.files.directory, reload_command=("false",))
    with pytest.raises(BrokerFilesError):
        again.reload()
    assert fleet.write_access(), "nothing changed, and the broker does not know yet"
    assert BrokerFiles(fleet.files.directory, reload_command=("touch", str(ran))).reload()
    assert not fleet.write_access()
    fleet.revoked.append(fleet.device("pi-1"))
    assert fleet.write_access()
    assert fleet.write_access()


def test_a_command_is_run_instead_of_a_signal_and_its_failure_told(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    assert BrokerFiles(tmp_path, reload_command=("touch", str(ran))).reload()
    assert ran.exists()
    with pytest.raises(BrokerFilesError, match="sh ended with 3: no such unit"):
        BrokerFiles(tmp_path, reload_command=("sh", "-c", "echo no such unit >&2; exit 3")).reload()
    with pytest.raises(BrokerFilesError, match="could not be told"):
        BrokerFiles(tmp_path, reload_command=("/nonexistent",)).reload()


@pytest.mark.parametrize("content", [None, "", "0", "-1", "1", "x", "999999999"])
def test_without_a_broker_nobody_is_told(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "mosquitto.pid").write_text(content)
    assert not BrokerFiles(tmp_path).reload()


def test_a_process_that_has_a_dead_brokers_number_is_left_alone(tmp_path: Path, processes: Processes) -> None:
    other = processes.start(sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)")
    other.wait_for_line("up")
    (tmp_path / "mosquitto.pid").write_text(str(other.pid))
    assert not BrokerFiles(tmp_path).reload()
    assert other.terminate() == -signal.SIGTERM, "it was ended by another signal"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) & 0o777


def contents(fleet: Fleet) -> dict[str, Any]:
    names = ("acl", "devices-ca.crt", "services-ca.crt", "revoked.crl")
    return {name: (fleet.files.directory / name).read_bytes() for name in names}


@pytest.mark.parametrize(
    "names",
    [
        [(NameOID.COMMON_NAME, "devices 1 0123456789abcdef")],
        [(NameOID.ORGANIZATION_NAME, "  Fleet   LIFT "), (NameOID.COMMON_NAME, "\u00c4rger GmbH & Co")],
        [(NameOID.COUNTRY_NAME, "DE"), (NameOID.EMAIL_ADDRESS, "Ca@Broker.Test"), (NameOID.USER_ID, "x" * 200)],
    ],
)
def test_authorities_are_found_where_openssl_looks(
    tmp_path: Path, names: list[tuple[x509.ObjectIdentifier, str]]
) -> None:
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in names])
    key, now = new_key(), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    certificate = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(1)).sign(key, SHA256())
    assert write_authorities(tmp_path / "found", [certificate])
    assert not write_authorities(tmp_path / "found", [certificate])
    (path,) = (tmp_path / "found").iterdir()
    openssl = shutil.which("openssl")
    assert openssl is not None
    said = subprocess.run((openssl, "x509", "-hash", "-noout", "-in", path), check=True, capture_output=True, text=True)
    assert path.name == f"{said.stdout.strip()}.0"
    assert write_authorities(tmp_path / "found", [])
    assert not list((tmp_path / "found").iterdir())
