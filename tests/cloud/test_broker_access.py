"""What the broker lets whom do: the project's configuration on a real Mosquitto, seen by devices and strangers."""

import socket
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from cloud import broker as broker_module
from cloud.broker import HOST, EmbeddedBroker, Secured
from cloud.broker_config import mosquitto_settings
from cloud.broker_files import BrokerFilesError
from cloud.doctor.hello import VERSIONS, offers
from cloud.doctor.visitor import RefusedError, Visit, VisitError
from tests.cloud.sites import (
    CANARY,
    NOT_AUTHORIZED,
    SESSION_S,
    TOPICS,
    Site,
    eventually_open,
    is_refused,
    site,
)
from tests.support.certificates import Fleet, Identity

__all__ = ["site"]
pytestmark = pytest.mark.broker
TLS_ALERT = b"\x15"


def test_a_device_and_the_cloud_hear_each_other(site: Site) -> None:
    with site.device("pi-1") as device, site.cloud() as cloud:
        cloud.subscribe(TOPICS.all_up())
        device.subscribe(TOPICS.all_down("pi-1"), f"{TOPICS.root}/p/thermostat/#", TOPICS.chunks("ab" * 32))
        assert device.publish(TOPICS.up("pi-1", "hello"), b"up") == 0
        assert cloud.until(TOPICS.up("pi-1", "hello"), b"up") == []
        for topic in (
            TOPICS.notice("thermostat", "everyone", "app"),
            TOPICS.bundle("thermostat"),
            TOPICS.chunks("ab" * 32),
        ):
            assert cloud.publish(topic, b"for all") == 0
            assert device.until(topic, b"for all") == []
        for topic in (CANARY, TOPICS.chunks("cd" * 32, "pi-1")):
            assert cloud.publish(topic, b"for one") == 0
            assert device.until(topic, b"for one") == []


@pytest.mark.parametrize(
    "foreign", ["#", "+/+/d/#", "+/+/d/+/down/+", "$SYS/#", "fleetlift/v1/d/pi-2/#", "$share/g/fleetlift/v1/d/+/down/#"]
)
def test_a_device_receives_nothing_that_is_not_for_it(site: Site, foreign: str) -> None:
    with site.device("pi-1") as thief, site.device("pi-2") as other, site.cloud() as cloud:
        assert cloud.publish(TOPICS.down("pi-2", "desired"), b"retained secret") == 0
        thief.subscribe(foreign)  # granted, it seems
        thief.subscribe(TOPICS.all_down("pi-1"))
        for kind in ("ack", "desired", "meta"):
            cloud.publish(TOPICS.down("pi-2", kind), b"secret")
        other.publish(TOPICS.up("pi-2", "hello"), b"private")
        cloud.publish(CANARY, b"canary")
        before = {heard.topic for heard in thief.until(CANARY, b"canary")}
        assert before == set()


@pytest.mark.parametrize(
    "topic",
    [
        TOPICS.up("pi-2", "hello"),
        TOPICS.up("pi-2", "presence"),
        TOPICS.down("pi-2", "desired"),
        TOPICS.down("pi-1", "desired"),
        TOPICS.up("pi-1", "hello/deeper"),
        TOPICS.notice("thermostat", "everyone", "app"),
        TOPICS.bundle("thermostat"),
        TOPICS.chunks("ab" * 32),
        "elsewhere",
        "$SYS/broker/version",
    ],
)
@pytest.mark.parametrize("retain", [False, True])
def test_a_device_publishes_nothing_in_the_name_of_others(site: Site, topic: str, retain: bool) -> None:
    with site.device("pi-1") as forger, site.cloud() as cloud:
        cloud.subscribe(f"{TOPICS.root}/#")
        assert forger.publish(topic, b"forged", retain=retain) == NOT_AUTHORIZED
        assert forger.publish(TOPICS.up("pi-1", "hello"), b"canary") == 0
        assert cloud.until(TOPICS.up("pi-1", "hello"), b"canary") == []
    with site.cloud("fleetlift.later") as cloud:
        cloud.subscribe(f"{TOPICS.root}/#")
        cloud.publish(CANARY, b"canary")
        assert cloud.until(CANARY, b"canary") == [], "a forged message was retained"


def test_a_will_in_the_name_of_another_is_never_published(site: Site) -> None:
    forger, topic = site.fleet.device("pi-1"), TOPICS.up("pi-2", "presence")
    with site.cloud() as cloud:
        cloud.subscribe(TOPICS.all_up())
        try:
            dying = site.visit(forger, will=(topic, b"forged"), will_retained=True).open()
        except RefusedError:
            pass
        else:
            dying.vanish()
        with site.visit(forger).open() as again:  # whatever the first left behind is published by now
            again.publish(TOPICS.up("pi-1", "hello"), b"canary")
            assert cloud.until(TOPICS.up("pi-1", "hello"), b"canary") == []


def test_its_own_will_is_published(site: Site) -> None:
    with site.cloud() as cloud:
        cloud.subscribe(TOPICS.all_up())
        site.device("pi-1", will=(TOPICS.up("pi-1", "presence"), b"gone")).vanish()
        assert cloud.until(TOPICS.up("pi-1", "presence"), b"gone") == []


@pytest.mark.parametrize("clean", [False, True])
def test_another_devices_client_id_takes_neither_its_session_nor_its_queue(site: Site, clean: bool) -> None:
    victim, thief = site.fleet.device("pi-2"), site.fleet.device("pi-1")
    own = site.visit(victim, clean=False, session_expiry_s=SESSION_S)
    with own.open() as connected, site.cloud() as cloud:
        connected.subscribe(TOPICS.all_down("pi-2"))
        with site.visit(thief, client_id="pi-2", clean=clean).open() as stealing:
            assert connected.publish(TOPICS.up("pi-2", "state"), b"still here") == 0
            stealing.subscribe(TOPICS.all_down("pi-2"))
            cloud.publish(TOPICS.down("pi-2", "desired"), b"for pi-2")
            assert connected.until(TOPICS.down("pi-2", "desired"), b"for pi-2") == []
    with site.cloud() as cloud:
        cloud.publish(TOPICS.down("pi-2", "desired"), b"while it was away")
        with site.visit(thief, client_id="pi-2", clean=clean).open() as stealing:
            stealing.subscribe(TOPICS.all_down("pi-1"))
            cloud.publish(CANARY, b"canary")
            assert stealing.until(CANARY, b"canary") == []
        with own.open() as back:
            assert back.session_present
            assert back.until(TOPICS.down("pi-2", "desired"), b"while it was away") == []


def test_a_device_that_calls_itself_the_cloud_does_not_end_its_session(site: Site) -> None:
    with site.cloud("fleetlift.control") as cloud, site.device("pi-1", client_id="fleetlift.control") as device:
        assert cloud.publish(CANARY, b"still here") == 0
        assert device.publish(TOPICS.up("pi-1", "hello"), b"") == 0


def test_who_has_no_certificate_or_a_wrong_one_is_not_let_in(site: Site, tmp_path: Path) -> None:
    fleet = site.fleet
    (tmp_path / "foreign").mkdir()
    foreign = Fleet(tmp_path / "foreign").device("pi-1")
    server = fleet.files.server_file
    wrong: list[tuple[str, Identity | Path | None]] = [
        ("no certificate", None),
        ("another fleet's", foreign),
        ("the cloud's own", fleet.cloud.certificate),
        ("the broker's own", server),
        ("an expired one", fleet.device("pi-1", lifetime=timedelta(seconds=-1))),
    ]
    for why, identity in wrong:
        assert is_refused(site.visit(identity, "pi-1")), f"let in with {why}"
    for identity in (None, foreign, fleet.device("pi-1"), server):
        visit = replace(site.visit(identity, "fleetlift.control"), port=site.broker.cloud_port)
        assert is_refused(visit), f"let in at the cloud's door with {identity}"


def test_neither_door_opens_without_tls_or_with_an_old_one(site: Site) -> None:
    for port in (site.broker.port, site.broker.cloud_port):
        with pytest.raises(VisitError):
            Visit(host=HOST, port=port, client_id="pi-1").open()
        assert _answer_to_plain_mqtt(port)[:1] in (b"", TLS_ALERT)
        taken = {name: offers(HOST, port, version, timeout_s=10) for name, version in VERSIONS.items()}
        assert taken == {"TLS 1.0": False, "TLS 1.1": False, "TLS 1.2": True, "TLS 1.3": True}


def test_a_device_of_the_old_protocol_is_held_to_the_same_rules(site: Site) -> None:
    with site.device("pi-1", version=MQTTProtocolVersion.MQTTv311) as forger, site.cloud() as cloud:
        cloud.subscribe(TOPICS.all_up())
        forger.publish(TOPICS.up("pi-2", "hello"), b"forged")
        forger.publish(TOPICS.up("pi-1", "hello"), b"canary")
        assert cloud.until(TOPICS.up("pi-1", "hello"), b"canary") == []


def test_the_connection_of_who_sends_too_much_ends(site: Site) -> None:
    with site.device("pi-1") as flooder, site.device("pi-2") as other:
        flooder.send(TOPICS.up("pi-1", "report"), b"x" * 140_000)
        assert flooder.wait_until_closed() is not None  # or the reason is lost with the connection
        assert other.publish(TOPICS.up("pi-2", "report"), b"x" * 128 * 1024) == 0


def test_connections_over_the_limit_are_not_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = mosquitto_settings().replace("max_connections 10000", "max_connections 3")
    monkeypatch.setattr("cloud.broker_files.mosquitto_settings", lambda: settings)
    fleet = Fleet(tmp_path)
    with EmbeddedBroker(fleet.files.directory, secured=Secured(tls=fleet.cloud)) as broker:
        site = Site(fleet, broker)
        inside = [site.device(f"pi-{number}") for number in range(3)]
        with pytest.raises(RefusedError):
            site.device("pi-9")
        assert [device.publish(TOPICS.up(f"pi-{number}", "hello")) for number, device in enumerate(inside)] == [0, 0, 0]
        inside.pop().close()
        eventually_open(site.visit(fleet.device("pi-9")))
        for device in inside:
            device.close()


def test_what_waits_for_an_absent_device_is_bounded(site: Site) -> None:
    device = site.fleet.device("pi-1")
    visit = site.visit(device, clean=False, session_expiry_s=SESSION_S)
    with visit.open() as away:
        away.subscribe(TOPICS.all_down("pi-1"))
    with site.cloud() as cloud:
        for _ in range(1300):
            cloud.send(CANARY, b"x" * 100)
        cloud.acknowledged(1300)
        with visit.open() as back:
            cloud.publish(TOPICS.down("pi-1", "meta"), b"last")
            waited = back.until(TOPICS.down("pi-1", "meta"), b"last")
    assert 1000 <= len(waited) <= 1100


def test_access_that_cannot_be_is_written_nowhere_and_the_broker_runs_on(site: Site) -> None:
    fleet = site.fleet
    before = {path.name: path.read_bytes() for path in fleet.files.directory.iterdir() if path.is_file()}
    good = {"devices_ca": fleet.authorities.trusted("devices"), "services_ca": fleet.authorities.trusted("services")}
    crl = fleet.authorities.crl(())
    bad: list[dict[str, Any]] = [
        {"revoked_devices": ["pi-1\ntopic readwrite #"]},
        {"revoked_devices": ["+"]},
        {"topic_root": "a/#"},
        {"topic_root": "a\nuser x"},
        {"devices_ca": b""},
        {"devices_ca": good["devices_ca"][:-40]},
        {"devices_ca": fleet.device("pi-1").issued.pem},
        {"services_ca": b"nothing"},
        {"crl": b""},
        {"crl": crl.replace(b"M", b"N", 3)},
    ]
    for change in bad:
        with pytest.raises(BrokerFilesError, match=r"nothing was written|no access rules were written"):
            fleet.files.write_access(**{"topic_root": TOPICS.root, "revoked_devices": [], "crl": crl, **good, **change})
    assert {path.name: path.read_bytes() for path in fleet.files.directory.iterdir() if path.is_file()} == before
    fleet.files.reload()
    site.device("pi-1").close()
    assert site.broker.is_running


def test_a_broker_that_is_to_be_secured_says_why_it_does_not_start(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.files.server_file.unlink()
    with pytest.raises(broker_module.BrokerError, match=r"before it was ready(.|\n)*server\.pem"):
        EmbeddedBroker(fleet.files.directory, secured=Secured(tls=fleet.cloud), kind="mosquitto").start()
    with pytest.raises(broker_module.BrokerError, match="amqtt has no TLS, nothing was started"):
        EmbeddedBroker(tmp_path / "other", secured=Secured(tls=fleet.cloud), kind="amqtt")


def test_mosquitto_starts_on_the_written_configuration_as_anybody(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with EmbeddedBroker(fleet.files.directory, secured=Secured(tls=fleet.cloud)) as broker:
        assert (fleet.files.directory / "mosquitto.pid").read_text().strip() == str(broker.pid)
        assert (fleet.files.directory / "data").stat().st_mode & 0o077 == 0


def _answer_to_plain_mqtt(port: int) -> bytes:
    connect = b"\x00\x04MQTT\x04\x02\x00\x1e\x00\x04pi-1"
    with socket.create_connection((HOST, port), timeout=10) as opened:
        try:
            opened.sendall(bytes([0x10, len(connect)]) + connect)
            return opened.recv(100)
        except ConnectionError:
            return b""
