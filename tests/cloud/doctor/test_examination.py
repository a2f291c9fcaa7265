"""Every check finds what it is for: sound brokers pass, and each way of breaking one is named."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cloud.broker import HOST, EmbeddedBroker, Secured
from cloud.broker_config import derive_secured_config, mosquitto_settings
from cloud.doctor.case import Case, Door, Passes
from cloud.doctor.examination import CHECKS, examine
from cloud.doctor.findings import Finding, Verdict
from cloud.doctor.visitor import Visit
from protocol.topics import Topics
from tests.support.brokers import free_port
from tests.support.certificates import Fleet

Change = Callable[[str], str]
GOOD = Verdict.OK
VERSION = "broker-version"


@dataclass
class Clinic:
    """A fleet, its running broker, and what an examination of it needs."""

    fleet: Fleet
    broker: EmbeddedBroker
    scratch: Path

    def case(self, **changes: object) -> Case:
        ca = None if self.broker.secured is None else self.fleet.ca
        case = Case(
            devices=Door(HOST, self.broker.port, ca),
            cloud=Door(HOST, self.broker.cloud_port, ca),
            topics=Topics(),
            passes=Passes(self.scratch, self.fleet.authorities if ca else None),
            cloud_certificate=self.fleet.cloud.certificate if ca else None,
            files=self.fleet.files if ca else None,
            may_revoke=True,
            plain_ports=(),
        )
        return replace(case, **changes)  # type: ignore[arg-type]

    def findings(self, **changes: object) -> dict[str, Finding]:
        return {finding.check: finding for finding in examine(self.case(**changes))}


def bad(findings: dict[str, Finding]) -> dict[str, str]:
    """Return the checks that did not end well: `fail`, `warn` or `unknown`; which Mosquitto is installed is none."""
    return {
        name: found.seen.verdict.value
        for name, found in findings.items()
        if found.seen.verdict is not GOOD and name != VERSION
    }


@contextmanager
def clinic(tmp_path: Path, change: Change = str, *, monkeypatch: pytest.MonkeyPatch | None = None) -> Iterator[Clinic]:
    """Run a broker on a changed mosquitto.conf."""
    settings = change(mosquitto_settings())
    if monkeypatch is not None:
        assert settings != mosquitto_settings(), "the change changes nothing"
        monkeypatch.setattr("cloud.broker_files.mosquitto_settings", lambda: settings)
    fleet = Fleet(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with EmbeddedBroker(fleet.files.directory, secured=Secured(tls=fleet.cloud), kind="mosquitto") as broker:
        yield Clinic(fleet, broker, scratch)


def without(*names: str) -> Change:
    """Remove settings wherever they stand."""
    return lambda text: re.sub(rf"^({'|'.join(names)}) .*\n", "", text, flags=re.MULTILINE)


def with_value(name: str, value: str) -> Change:
    """Give a setting another value wherever it stands."""
    return lambda text: re.sub(rf"^{name} .*$", f"{name} {value}", text, flags=re.MULTILINE)


def anonymous(text: str) -> str:
    return with_value("allow_anonymous", "true")(without("require_certificate", "use_\\w+", "crlfile")(text))


def old_tls(text: str) -> str:
    return with_value("tls_version", "tlsv1.1\nciphers ALL:@SECLEVEL=0")(text)


def open_to_all(text: str) -> str:
    return with_value("allow_anonymous", "true")(text)


def any_size(text: str) -> str:
    return without("max_packet_size")(text)


@pytest.mark.broker
def test_a_sound_broker_passes_everything_and_is_left_as_it_was(tmp_path: Path) -> None:
    with clinic(tmp_path) as here:
        here.fleet.revoked.append(here.fleet.device("pi-1"))
        here.fleet.write_access()
        here.fleet.files.reload()
        files = {path: path.read_bytes() for path in here.fleet.files.directory.glob("*.*") if path.suffix != ".log"}
        findings = here.findings()
        assert bad(findings) == {}, [found.seen for found in findings.values()]
        assert list(findings) == list(CHECKS)
        assert all(found.looked_at and found.seen.text for found in findings.values())
        assert {path: path.read_bytes() for path in files} == files
        context = here.fleet.cloud.context()
        with Visit(
            host=HOST, port=here.broker.cloud_port, client_id="fleetlift.later", context=context
        ).open() as cloud:
            cloud.subscribe("fleetlift/v1/#")
            cloud.publish("fleetlift/v1/end")
            assert cloud.until("fleetlift/v1/end") == [], "the examination left messages behind"


@pytest.mark.broker
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            without("acl_file"),
            {"reading": "fail", "publishing": "fail", "retained": "fail", "last-will": "fail", "configuration": "fail"},
            id="no access rules",
        ),
        pytest.param(
            without("use_username_as_clientid"),
            {"client-id": "fail", "configuration": "fail"},
            id="client ids are not tied to certificates",
        ),
        pytest.param(without("crlfile"), {"revocation": "fail", "configuration": "fail"}, id="no revocation list"),
        pytest.param(old_tls, {"tls-versions": "fail", "configuration": "fail"}, id="old TLS"),
        pytest.param(
            with_value("max_queued_messages", "20"), {"queue": "fail", "configuration": "warn"}, id="tiny queue"
        ),
        pytest.param(
            with_value("max_queued_messages", "0"), {"queue": "warn", "configuration": "warn"}, id="endless queue"
        ),
        pytest.param(
            with_value("max_packet_size", "60000"), {"packet-size": "fail", "configuration": "warn"}, id="tiny packets"
        ),
        pytest.param(any_size, {"packet-size": "warn", "configuration": "warn"}, id="packets of any size"),
        pytest.param(
            with_value("max_keepalive", "60000"), {"keepalive": "warn", "configuration": "warn"}, id="long silence"
        ),
        pytest.param(
            with_value("max_inflight_messages", "0"),
            {"in-flight": "warn", "configuration": "warn"},
            id="any number in flight",
        ),
        pytest.param(
            with_value("max_connections", "1000000"),
            {"connections": "warn", "configuration": "warn"},
            id="more connections than files",
        ),
    ],
)
def test_each_fault_of_a_configuration_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, expected: dict[str, str]
) -> None:
    with clinic(tmp_path, change, monkeypatch=monkeypatch) as here:
        findings = here.findings(plain_ports=())
        assert bad(findings) == expected, [found.seen for found in findings.values() if found.seen.verdict is not GOOD]
        assert all(found.seen.mend for found in findings.values() if found.seen.verdict in {Verdict.FAIL, Verdict.WARN})


@pytest.mark.broker
def test_a_broker_that_lets_everybody_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with clinic(tmp_path, anonymous, monkeypatch=monkeypatch) as here:
        found = bad(here.findings())
        assert {"conversation", "no-certificate", "foreign-certificate", "wrong-door", "configuration"} <= {
            name for name, verdict in found.items() if verdict == "fail"
        }


@pytest.mark.broker
@pytest.mark.parametrize("is_known", [True, False])
def test_a_plain_listener_beside_the_others_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    port = free_port()

    def derive(*args: Any, **more: Any) -> str:
        return f"{derive_secured_config(*args, **more)}listener {port} 127.0.0.1\n"

    monkeypatch.setattr("cloud.broker_files.derive_secured_config", derive)
    with clinic(tmp_path, open_to_all, monkeypatch=monkeypatch) as here:
        config = here.fleet.files.config_file
        if not is_known:  # then it is seen from outside, at a usual port
            config.write_text(config.read_text().replace(f"listener {port} 127.0.0.1\n", ""))
        findings = here.findings(plain_ports=() if is_known else (port,))
        assert bad(findings) == {"plain-mqtt": "fail", "configuration": "fail"}
        assert f"127.0.0.1:{port}" in findings["plain-mqtt"].seen.text


@pytest.mark.broker
def test_a_broker_without_retained_messages_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with clinic(tmp_path, with_value("retain_available", "false"), monkeypatch=monkeypatch) as here:
        assert bad(here.findings())["features"] == "fail"


def _expire(fleet: Fleet) -> None:
    fleet.expire_server()
    fleet.files.reload()


def _rename(fleet: Fleet) -> None:
    fleet.renew_server(["broker.test"])
    fleet.files.reload()


def _loosen(fleet: Fleet) -> None:
    path = fleet.files.directory / "acl"
    path.write_text(path.read_text() + "pattern readwrite #\n")
    fleet.files.reload()


def _open_files(fleet: Fleet) -> None:
    fleet.files.server_file.chmod(0o644)


def _mix_authorities(fleet: Fleet) -> None:
    authorities = fleet.files.directory / "services-ca"
    for path in (fleet.files.directory / "devices-ca").iterdir():
        shutil.copy(path, authorities)


def _lose_list(fleet: Fleet) -> None:
    fleet.authorities.rotate("devices")
    (fleet.files.directory / "devices-ca.crt").write_bytes(fleet.authorities.trusted("devices"))
    fleet.files.reload()


@pytest.mark.broker
@pytest.mark.parametrize(
    ("damage", "failed"),
    [
        (_expire, {"broker-certificate", "device-session", "server-session", "expiry"}),
        (_rename, {"broker-certificate", "device-session", "server-session"}),
        (_loosen, {"reading", "publishing", "retained", "last-will", "access-rules"}),
        (_open_files, {"files"}),
        (_mix_authorities, {"wrong-door"}),
        (_lose_list, {"device-session", "conversation"}),
    ],
)
def test_each_fault_of_the_files_is_named(tmp_path: Path, damage: Callable[[Fleet], None], failed: set[str]) -> None:
    with clinic(tmp_path) as here:
        damage(here.fleet)
        findings = here.findings()
        seen = [(name, found.seen) for name, found in findings.items() if found.seen.verdict is not GOOD]
        assert {name for name, what in seen if what.verdict is Verdict.FAIL} == failed, seen


@pytest.mark.broker
def test_the_certificates_fault_is_said_in_words(tmp_path: Path) -> None:
    with clinic(tmp_path) as here:
        _expire(here.fleet)
        assert "expired on" in here.findings()["broker-certificate"].seen.text
        _rename(here.fleet)
        named = here.findings()["broker-certificate"].seen
        assert "broker.test is not trusted: IP address mismatch" in named.text
        assert HOST in named.mend


@pytest.mark.broker
def test_without_being_allowed_it_revokes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with clinic(tmp_path) as here:
        crl = (here.fleet.files.directory / "revoked.crl").read_bytes()
        monkeypatch.setattr(here.fleet.files, "reload", lambda: pytest.fail("the broker was told"))
        assert bad(here.findings(may_revoke=False)) == {"revocation": "unknown"}
        assert (here.fleet.files.directory / "revoked.crl").read_bytes() == crl


@pytest.mark.broker
def test_a_broker_elsewhere_is_examined_as_far_as_it_can_be(tmp_path: Path) -> None:
    with clinic(tmp_path) as here:
        found = bad(here.findings(files=None))
        assert set(found.values()) == {"unknown"}
        assert set(found) == {
            *("revocation", "files", "expiry", "access-rules", "configuration", "connections", "reload")
        }


def test_a_plain_broker_fails_and_every_other_check_is_still_made(broker: EmbeddedBroker, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = bad(Clinic(Fleet(tmp_path), broker, scratch).findings())
    failed = {name for name, verdict in found.items() if verdict == "fail"}
    assert {"tls-versions", "plain-mqtt", "reading", "publishing", "retained", "last-will", "client-id"} == failed
    assert found["no-certificate"] == "unknown"
    assert (found.get("mqtt-version") == "warn") == (broker.kind == "amqtt")


def test_where_no_broker_is_nothing_is_called_good(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    nowhere = Door(HOST, free_port(), fleet.ca)
    passes = Passes(tmp_path, fleet.authorities)
    case = Case(devices=nowhere, cloud=nowhere, topics=Topics(), passes=passes, plain_ports=())
    findings = list(examine(case))
    assert [found.check for found in findings if found.seen.verdict is Verdict.FAIL] == ["reach"]
    assert not [found for found in findings if found.seen.verdict is GOOD]


@pytest.mark.broker
def test_throw_away_devices_are_good_for_minutes(tmp_path: Path) -> None:
    passes = Passes(tmp_path, Fleet(tmp_path).authorities)
    device = passes.device()
    assert device.issued is not None
    assert (device.issued.not_after - device.issued.not_before).total_seconds() <= 20 * 60
    assert device.certificate is not None
    assert device.certificate.stat().st_mode & 0o077 == 0
    assert re.fullmatch(r"doctor-[0-9a-f]{12}", device.id)
