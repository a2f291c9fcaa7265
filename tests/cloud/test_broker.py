"""The embedded broker carries what Fleetlift sends, says why it does not start, and never outlives its parent."""

import importlib.resources
import importlib.util
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest

from cloud import broker as broker_module
from cloud.broker import (
    BrokerAddressError,
    BrokerError,
    BrokerKind,
    EmbeddedBroker,
    choose_kind,
)
from cloud.broker_config import derive_plain_config, mosquitto_settings
from tests.support.brokers import require_mosquitto
from tests.support.mqtt import Peer
from tests.support.processes import Processes, is_alive, wait_until

REPOSITORY = Path(__file__).parents[2]
BOTH_KINDS = [pytest.param("mosquitto", marks=pytest.mark.broker), "amqtt"]

HOLD_A_BROKER = """
import sys
from pathlib import Path
from cloud.broker import EmbeddedBroker
broker = EmbeddedBroker(Path(sys.argv[2]), kind=sys.argv[1])
broker.start()
print("pid", broker.pid, flush=True)
sys.stdin.close()
import signal
signal.pause()
"""


def test_a_message_reaches_a_subscriber(broker: EmbeddedBroker) -> None:
    with Peer(broker.port, "device") as device, Peer(broker.port, "cloud") as cloud:
        device.subscribe("fleetlift/v1/d/device/down/#")
        cloud.publish("fleetlift/v1/d/device/down/notice", b"x" * 65_600)
        assert device.receive() == ("fleetlift/v1/d/device/down/notice", b"x" * 65_600)
    assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
    assert is_alive(broker.pid)


def test_a_retained_message_waits_for_a_late_subscriber(broker: EmbeddedBroker) -> None:
    with Peer(broker.port, "cloud") as cloud:
        cloud.publish("release", b"1.0.0", retain=True)
    with Peer(broker.port, "device") as device:
        device.subscribe("release")
        assert device.receive() == ("release", b"1.0.0")


def test_qos_1_messages_wait_for_a_session_that_is_away(broker: EmbeddedBroker) -> None:
    with Peer(broker.port, "device", persistent=True) as device:
        device.subscribe("notices")
    with Peer(broker.port, "cloud") as cloud:
        for number in range(5):
            cloud.publish("notices", b"%d" % number)
    with Peer(broker.port, "device", persistent=True) as device:
        assert sorted(device.receive()[1] for _ in range(5)) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_packet_over_the_limit_costs_its_sender_the_connection_and_nobody_else(broker: EmbeddedBroker) -> None:
    with Peer(broker.port, "witness") as witness, Peer(broker.port, "flooder") as flooder:
        witness.subscribe("#")
        flooder._client.publish("big", b"x" * 200_000, qos=0)
        assert flooder.disconnected.wait(10)
        witness.publish("small", b"still here")
        assert witness.receive() == ("small", b"still here")


def test_nobody_receives_what_only_others_subscribed_to(broker: EmbeddedBroker) -> None:
    with Peer(broker.port, "owner") as owner:
        owner.subscribe("d/owner/#")
        owner.publish("d/owner/secret", b"for the owner", retain=True)
        with Peer(broker.port, "stranger") as stranger:
            stranger.subscribe("d/stranger/#")
            stranger.publish("d/stranger/mine", b"mine")  # by now anything unasked for would have come first
            assert stranger.receive() == ("d/stranger/mine", b"mine")


@pytest.mark.parametrize("kind", BOTH_KINDS)
def test_it_starts_again_on_the_same_port_after_a_kill(kind: BrokerKind, tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path, kind=kind) as broker:
        first_pid, port = broker.pid, broker.port
        broker.kill()
        assert not is_alive(first_pid)
        assert not broker.is_running
        broker.start()
        assert (broker.port, broker.pid != first_pid) == (port, True)
        with Peer(port, "device"):
            pass


@pytest.mark.broker
def test_mosquitto_keeps_retained_messages_over_a_clean_stop(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "data", kind="mosquitto")
    with broker, Peer(broker.port, "cloud") as cloud:
        cloud.publish("release", b"1.0.0", retain=True)
    with broker, Peer(broker.port, "device") as device:
        device.subscribe("release")
        assert device.receive() == ("release", b"1.0.0")


@pytest.mark.parametrize("kind", BOTH_KINDS)
def test_a_taken_port_is_an_error_with_the_log_and_the_other_broker_is_not_mistaken_for_ours(
    kind: BrokerKind, tmp_path: Path
) -> None:
    with EmbeddedBroker(tmp_path / "first", kind=kind) as first:
        second = EmbeddedBroker(tmp_path / "second", kind=kind, port=first.port)
        with pytest.raises(BrokerAddressError, match=rf"port {first.port} .* is taken(.|\n)*[Aa]ddress already in use"):
            second.start()
        assert not second.is_running
        assert first.is_running


@pytest.mark.parametrize("kind", BOTH_KINDS)
def test_a_broker_that_says_much_after_it_listens_is_seen_to_listen(
    kind: BrokerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that wait for it come the moment that it listens, and each may leave a screen of words."""
    monkeypatch.setattr(EmbeddedBroker, "log_tail", lambda _broker, _lines=0: "what its clients did")
    with EmbeddedBroker(tmp_path, kind=kind, start_timeout_s=60) as broker:
        assert broker.is_running


@pytest.mark.parametrize("kind", BOTH_KINDS)
def test_it_does_not_outlive_a_parent_that_was_killed(kind: BrokerKind, tmp_path: Path, processes: Processes) -> None:
    parent = processes.start(sys.executable, "-c", HOLD_A_BROKER, kind, tmp_path / "data")
    broker_pid = int(parent.wait_for_line("pid").split()[1])
    assert is_alive(broker_pid)
    parent.kill()
    wait_until(lambda: not is_alive(broker_pid), what="the orphaned broker ending")


@pytest.mark.parametrize("kind", BOTH_KINDS)
def test_stop_leaves_no_process_behind(kind: BrokerKind, tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path, kind=kind)
    broker.start()
    assert broker._watchdog is not None
    pids = (broker.pid, broker._watchdog.pid)
    broker.stop()
    broker.stop()
    assert [is_alive(pid) for pid in pids] == [False, False]
    with pytest.raises(BrokerError, match="not running"):
        assert broker.pid


@pytest.mark.broker
def test_a_broker_that_dies_by_itself_is_noticed_and_can_be_started_again(mosquitto: EmbeddedBroker) -> None:
    child = mosquitto._child
    assert child is not None
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not mosquitto.is_running
    mosquitto.start()
    assert mosquitto.is_running


def test_starting_twice_is_refused(amqtt_broker: EmbeddedBroker) -> None:
    pid = amqtt_broker.pid
    with pytest.raises(BrokerError, match="running already"):
        amqtt_broker.start()
    assert amqtt_broker.pid == pid


@pytest.mark.broker
def test_a_config_that_mosquitto_refuses_is_an_error_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "mosquitto_settings", lambda: "listener 1\nno_such_setting true\n")
    with pytest.raises(BrokerError, match=r"before it was ready(.|\n)*no_such_setting"):
        EmbeddedBroker(tmp_path, kind="mosquitto").start()


@pytest.mark.broker
def test_a_broker_that_never_becomes_ready_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(broker_module._READY, "mosquitto", "words that Mosquitto never says")
    broker = EmbeddedBroker(tmp_path, kind="mosquitto", start_timeout_s=0.5)
    with pytest.raises(BrokerError, match=r"within 0\.5 s and was stopped"):
        broker.start()
    assert not broker.is_running


@pytest.mark.broker
def test_its_files_are_private(mosquitto: EmbeddedBroker) -> None:
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (mosquitto.data_dir, mosquitto.data_dir / "mosquitto.conf")]
    assert modes == [0o700, 0o600]


def test_the_derived_config_replaces_what_belongs_to_the_machine_and_keeps_every_limit(tmp_path: Path) -> None:
    derived = derive_plain_config(mosquitto_settings(), port=12345, data_dir=tmp_path)
    lines = [line.split(maxsplit=1) for line in derived.splitlines() if not line.startswith("#")]
    settings = {setting: value for setting, value in lines if setting != "log_type"}
    assert settings["listener"] == "12345 127.0.0.1"
    assert settings["persistence_location"] == f"{tmp_path}/"
    names = [setting for setting, _ in lines if setting != "log_type"]
    assert len(names) == len(set(names)), "a setting is stated twice"
    assert names.index("allow_anonymous") > names.index("listener"), "a listener's setting before its listener"
    for limit in ("max_packet_size", "max_queued_messages", "max_queued_bytes", "memory_limit", "max_connections"):
        assert int(settings[limit]) > 0


def test_there_is_one_mosquitto_conf() -> None:
    packaged = REPOSITORY / "cloud" / "mosquitto.conf"
    assert packaged.is_symlink()
    assert packaged.resolve() == (REPOSITORY / "mosquitto.conf").resolve()
    assert mosquitto_settings() == (REPOSITORY / "mosquitto.conf").read_text(encoding="utf-8")
    assert importlib.resources.files("cloud").joinpath("mosquitto.conf").is_file()


def test_mosquitto_is_preferred_and_amqtt_is_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    require_mosquitto()
    assert choose_kind() == "mosquitto"
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: None)
    assert choose_kind() == "amqtt"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(BrokerError, match=r"fleetlift\[embedded-broker\]"):
        choose_kind()


def test_amqtt_keeps_a_returning_client_while_others_subscribe(amqtt_broker: EmbeddedBroker) -> None:
    with Peer(amqtt_broker.port, "cloud") as cloud, Peer(amqtt_broker.port, "device", persistent=True) as device:
        device.subscribe("release/#")
        for number in range(100):
            cloud.publish(f"release/{number}", b"live", retain=True)
    with Peer(amqtt_broker.port, "neighbour") as neighbour:
        returning = Peer(amqtt_broker.port, "device", persistent=True)
        for number in range(100):
            neighbour._client.subscribe(f"d/neighbour/{number}")
            if number == 20:
                returning.connect()
        neighbour.publish("release/last", b"live")
        received = returning.receive()
        while received != ("release/last", b"live"):
            received = returning.receive()
        returning.close()


def test_amqtt_refuses_mqtt_5_at_once(amqtt_broker: EmbeddedBroker) -> None:
    will = b"\x00" + b"\x00\x01t" + b"\x00\x01x"
    connect = b"\x00\x04MQTT\x05\x06\x00\x1e" + b"\x05\x11\x00\x00\x0e\x10" + b"\x00\x04pi-1" + will
    with socket.create_connection(("127.0.0.1", amqtt_broker.port), timeout=5) as client:
        client.sendall(bytes([0x10, len(connect)]) + connect)
        assert client.recv(16) == b"\x20\x03\x00\x84\x00"
        assert client.recv(16) == b""
