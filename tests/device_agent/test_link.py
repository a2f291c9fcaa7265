"""The link against real brokers: versions, subscriptions, last will, lost brokers, refusals and hostile packets."""

import logging
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloud.broker import EmbeddedBroker, find_mosquitto
from cloud.broker_config import derive_plain_config, mosquitto_settings
from device_agent.link import LinkError, LinkSettings
from tests.support.brokers import free_port
from tests.support.linking import OFFLINE, ONLINE, PRESENCE, TIMEOUT_S, TOPICS, DeafBroker, Owner, start
from tests.support.mqtt import Peer
from tests.support.processes import wait_until


@pytest.fixture
def owners() -> Iterator[list[Owner]]:
    made: list[Owner] = []
    yield made
    for owner in made:
        owner.link.stop(timeout_s=1)


def test_it_speaks_the_highest_version_that_the_broker_does(broker: EmbeddedBroker, owners: list[Owner]) -> None:
    owner = start(owners, broker.url)
    assert owner.expect("up") is False
    assert owner.link.mqtt_version == ("5" if broker.kind == "mosquitto" else "3.1.1")
    assert owner.link.is_up
    assert owner.link.problem is None


def test_messages_go_both_ways_and_a_failing_handler_ends_nothing(broker: EmbeddedBroker, owners: list[Owner]) -> None:
    owner = Owner(broker.url)
    owners.append(owner)
    assert owner.link.subscribe({TOPICS.all_down("dev-1"): 1, TOPICS.chunks("a" * 64): 0}) is False
    assert owner.link.publish("x", b"lost") is False
    owner.link.start()
    owner.expect("up")
    with Peer(broker.port, "cloud") as peer:
        peer.subscribe(TOPICS.all_up())
        assert peer.receive() == (PRESENCE, ONLINE)
        for payload in (b"raise", b"fine"):
            peer.publish(TOPICS.down("dev-1", "ack"), payload)
            assert owner.receive() == (TOPICS.down("dev-1", "ack"), payload)
        peer.publish(TOPICS.chunks("a" * 64), b"chunk", qos=0)
        assert owner.receive() == (TOPICS.chunks("a" * 64), b"chunk")
        assert owner.link.publish(TOPICS.up("dev-1", "state"), b"state")
        heard = peer.receive()
        if heard == (PRESENCE, ONLINE):  # retained and live, if it was told at the moment of the subscription
            heard = peer.receive()
        assert heard == (TOPICS.up("dev-1", "state"), b"state")
        assert owner.link.unsubscribe([TOPICS.chunks("a" * 64)]) is True
        assert owner.link.subscribe({"late": 1}) is True

        def late_alone() -> bool:
            peer.publish(TOPICS.chunks("a" * 64), b"unwanted")
            peer.publish("late", b"wanted")
            return owner.receive() == ("late", b"wanted")

        wait_until(late_alone, what="the new subscription without the old one")  # SUBSCRIBE is queued, not awaited


def test_the_farewell_is_the_last_word(broker: EmbeddedBroker, owners: list[Owner]) -> None:
    owner = start(owners, broker.url)
    owner.expect("up")
    owner.link.stop()
    assert owner.link.publish("x", b"") is False
    with Peer(broker.port, "cloud") as peer:
        peer.subscribe(PRESENCE)
        assert peer.receive() == (PRESENCE, OFFLINE)
    assert owner.events.empty()


@pytest.mark.broker
def test_the_last_will_speaks_for_a_device_that_cannot(mosquitto: EmbeddedBroker, owners: list[Owner]) -> None:
    owner = start(owners, mosquitto.url)
    owner.expect("up")
    with Peer(mosquitto.port, "cloud") as peer:
        peer.subscribe(PRESENCE)
        assert peer.receive() == (PRESENCE, ONLINE)
        with Peer(mosquitto.port, "dev-1"):  # takes the session over: the broker cuts the first without a farewell
            assert peer.receive() == (PRESENCE, OFFLINE)
    owner.expect("down")


def test_a_killed_broker_comes_back_and_everything_is_subscribed_before_up(
    broker: EmbeddedBroker, owners: list[Owner]
) -> None:
    owner = Owner(broker.url)
    owners.append(owner)
    owner.link.subscribe({f"echo/{number}": 1 for number in range(150)})  # more than one SUBSCRIBE holds
    owner.link.start()
    owner.expect("up")
    assert owner.receive() == ("echo/1", b"1")
    for ups in (2, 3):
        broker.kill()
        owner.expect("down")
        assert owner.link.publish("echo/1", b"lost") is False
        assert owner.link.problem
        broker.start()
        owner.expect("up")
        assert owner.receive() == ("echo/1", b"%d" % ups)


@pytest.mark.broker
def test_another_broker_in_the_place_of_the_first_is_spoken_to_in_its_version(
    mosquitto: EmbeddedBroker, tmp_path: Path, owners: list[Owner]
) -> None:
    owner = start(owners, mosquitto.url, version_timeout_s=0.2, connect_timeout_s=0.5)
    owner.expect("up")
    mosquitto.stop()
    owner.expect("down")
    with EmbeddedBroker(tmp_path / "other", kind="amqtt", port=mosquitto.port):
        owner.expect("up")
        assert owner.link.mqtt_version == "3.1.1"
        owner.link.stop()


@pytest.mark.broker
def test_what_was_dropped_while_away_is_dropped_from_the_kept_session(
    mosquitto: EmbeddedBroker, owners: list[Owner]
) -> None:
    owner = start(owners, mosquitto.url, session_expiry_s=3600)
    owner.expect("up")
    owner.link.subscribe({"keep": 1, "drop": 1})
    with Peer(mosquitto.port, "cloud") as peer:
        for name in ("keep", "drop"):
            peer.publish(name, b"retained", retain=True)
            assert owner.receive() == (name, b"retained")
            peer.publish(name, b"", retain=True)
            owner.receive()
    mosquitto.stop()  # saves the sessions
    owner.expect("down")
    assert owner.link.unsubscribe(["drop"]) is False
    mosquitto.start()
    assert owner.expect("up") is True
    with Peer(mosquitto.port, "cloud") as peer:
        peer.publish("drop", b"no")
        peer.publish("keep", b"yes")
    seen = [owner.receive()]
    while seen[-1] != ("keep", b"yes"):  # what was not acknowledged before the stop comes twice
        seen.append(owner.receive())
    assert ("drop", b"no") not in seen


@pytest.mark.broker
def test_a_refused_publish_and_a_refused_login_are_told(tmp_path: Path, owners: list[Owner]) -> None:
    (tmp_path / "acl").write_text("topic readwrite fleetlift/v1/d/#\n")
    with own_mosquitto(tmp_path, f"acl_file {tmp_path}/acl") as url:
        owner = start(owners, url)
        owner.expect("up")
        assert owner.expect("denied") == ("echo/1", "Not authorized")
        assert owner.link.publish("somebody/elses", b"x")
        assert owner.expect("denied") == ("somebody/elses", "Not authorized")
    with own_mosquitto(tmp_path, "allow_anonymous false") as url:
        refused = start(owners, url)
        wait_until(lambda: "refused by the broker" in str(refused.link.problem), what="the refusal")
        assert not refused.link.is_up


@pytest.mark.broker
def test_many_threads_may_publish_at_once(mosquitto: EmbeddedBroker, owners: list[Owner]) -> None:
    owner = start(owners, mosquitto.url)
    owner.expect("up")

    def publish(thread: int) -> None:
        for number in range(50):
            payload = b"%d/%d/" % (thread, number) + bytes(60_000)
            wait_until(lambda payload=payload: owner.link.publish("echo", payload), what="room in the queue")  # type: ignore[misc]

    with Peer(mosquitto.port, "cloud") as peer:
        peer.subscribe("echo")
        threads = [threading.Thread(target=publish, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        arrived = {peer.receive() for _ in range(400)}
        for thread in threads:
            thread.join()
    assert arrived == {("echo", b"%d/%d/" % (t, n) + bytes(60_000)) for t in range(8) for n in range(50)}
    assert owner.events.empty()


def test_a_full_queue_refuses_and_never_blocks(owners: list[Owner]) -> None:
    with DeafBroker() as deaf:
        owner = start(owners, deaf.url, max_queued=10)
        owner.expect("up")
        answers = [owner.link.publish("x", bytes(100_000)) for _ in range(50)]
        # Two places are taken by what was published when the link came up.
        assert answers == [True] * 8 + [False] * 42


def test_it_is_not_up_before_the_subscriptions_are_acknowledged(owners: list[Owner]) -> None:
    acknowledge = threading.Event()
    with DeafBroker(suback=acknowledge) as deaf:
        owner = Owner(deaf.url)
        owners.append(owner)
        owner.link.subscribe({"wanted": 1})
        owner.link.start()
        assert deaf.subscribed.wait(TIMEOUT_S)
        assert not owner.link.is_up
        assert owner.link.publish("x", b"") is False
        assert owner.events.empty()
        acknowledge.set()
        owner.expect("up")


def test_a_broker_that_never_answers_is_left(owners: list[Owner]) -> None:
    with DeafBroker(connack=b"") as deaf:
        owner = start(owners, deaf.url, connect_timeout_s=0.2)
        assert deaf.connected.acquire(timeout=TIMEOUT_S)
        assert deaf.connected.acquire(timeout=TIMEOUT_S)
        wait_until(lambda: "no answer" in str(owner.link.problem), what="the time-out")
        assert deaf.protocols[:2] == [5, 4]  # it may have hung on the version


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\x30\xff\xff\xff\x7f" + bytes(200_000), id="256 MiB announced"),
        pytest.param(b"\x30\x04\x00\xffab", id="a topic longer than its packet"),
        pytest.param(b"\x30\x02\x00\x00", id="no topic"),
        pytest.param(b"\x30\x80\x80\x80\x80\x80\x01", id="an endless length"),
        pytest.param(b"\x90\x03\x00\x01\x00", id="an acknowledgement of nothing"),
        pytest.param(b"\xf0\x00", id="an unknown packet"),
    ],
)
def test_garbage_costs_a_connection_at_most(packet: bytes, owners: list[Owner]) -> None:
    with DeafBroker(then=packet) as deaf:
        owner = start(owners, deaf.url)
        owner.expect("up")
        deaf.then = b""
        if packet != b"\x90\x03\x00\x01\x00":
            owner.expect("down")
            owner.expect("up")
        assert owner.link.publish("x", b"") is True


def test_an_invalid_topic_name_reaches_nobody(owners: list[Owner]) -> None:
    bad = b"\x30\x07\x00\x02\xff\xfe\x00ab"
    good = b"\x30\x07\x00\x02ok\x00ab"
    with DeafBroker(then=bad + good) as deaf:
        owner = start(owners, deaf.url)
        owner.expect("up")
        assert owner.receive() == ("ok", b"ab")


def test_a_broker_cannot_fill_the_log(owners: list[Owner], caplog: pytest.LogCaptureFixture) -> None:
    bad_topic = b"\x30\x07\x00\x02\xff\xfe\x00ab"
    failing = b"\x30\x0c\x00\x04fail\x00raise" + b"\x32\x0e\x00\x04fail\x00\x01\x00raise"
    refused = b"\x40\x03\x00\x01\x87"
    flood = (bad_topic + failing) * 300
    with caplog.at_level(logging.DEBUG), DeafBroker(then=flood + refused + b"\xf0\x00") as deaf:
        owner = start(owners, deaf.url)
        for _ in range(2):  # a new connection begins no new count
            owner.expect("up")
            for _ in range(600):
                assert owner.receive() == ("fail", b"raise")
            while (event := owner.events.get(timeout=TIMEOUT_S))[0] != "down":
                assert event[0] == "denied"
        owner.link.stop()
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    about_topics = [record for record in told if "no UTF-8" in record.getMessage()]
    assert [record.exc_info for record in about_topics] == [None]
    assert r"b'\xff\xfe'" in about_topics[0].getMessage()
    assert sum("'fail' could not be handled: RuntimeError" in record.getMessage() for record in told) == 1
    assert sum("the broker refused" in record.getMessage() for record in told) == 1
    assert len(told) < 10


@pytest.mark.parametrize("url", ["", "http://host", "mqtt://", "mqtt://host:port", "mqtt://user:secret@host", "host:1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(LinkError, match="broker url"):
        LinkSettings(url=url, device_id="dev-1")


def test_urls() -> None:
    assert LinkSettings(url="mqtt://host", device_id="d").address() == ("mqtt", "host", 1883)
    assert LinkSettings(url="mqtts://[::1]:1/", device_id="d").address() == ("mqtts", "::1", 1)


def test_a_password_file_that_cannot_be_read_is_a_problem_not_an_end(tmp_path: Path, owners: list[Owner]) -> None:
    owner = start(owners, f"mqtt://127.0.0.1:{free_port()}", username="u", password_file=tmp_path / "missing")
    wait_until(lambda: "password cannot be read" in str(owner.link.problem), what="the problem")


@contextmanager
def own_mosquitto(directory: Path, *settings: str) -> Iterator[str]:
    """A Mosquitto with the project's configuration, but for some settings."""
    executable, port = find_mosquitto(), free_port()
    assert executable is not None
    names = {setting.split()[0] for setting in settings}
    lines = derive_plain_config(mosquitto_settings(), port=port, data_dir=directory).splitlines()
    config = directory / "mosquitto.conf"
    config.write_text("\n".join([*(line for line in lines if line.split()[0] not in names), *settings, ""]))

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([executable, "-c", str(config)], stderr=log)
    try:
        wait_until(listens, what="the broker")
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
