"""Webhooks are told of everything, at least once, signed, in time, and no longer than they want to be."""

import json
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from cloud.store.errors import ConflictError, InvalidError, NotFoundError
from cloud.webhooks.pacing import Pace
from cloud.webhooks.sending import Sender
from cloud.webhooks.values import DeliveryState
from tests.cloud.store.fleets import ANN, START_S, join
from tests.cloud.webhooks.desks import SOURCE, Desk
from tests.support.certificates import Fleet
from tests.support.processes import wait_until
from tests.support.receivers import Receiver, receiving

PENDING, DELIVERED, GIVEN_UP = DeliveryState.PENDING, DeliveryState.DELIVERED, DeliveryState.GIVEN_UP
HOUR_S, DAY_S = 3600.0, 86_400.0


def test_an_event_comes_signed_as_a_cloudevent(desk: Desk, receiver: Receiver) -> None:
    secret = desk.add(receiver.url)
    with desk.delivering():
        (release_id,) = desk.happen("1.1.0")
        came = receiver.next()
        (view,) = desk.expect(DELIVERED)
    assert (came.method, came.path) == ("POST", "/hook?from=fleet")
    assert came.is_signed_with(secret, START_S)
    assert not came.is_signed_with(secret.replace(secret[8], "A" if secret[8] != "A" else "B", 1), START_S)
    assert came.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    event = came.event
    assert event == {
        "specversion": "1.0",
        "id": "1",
        "source": SOURCE,
        "type": "io.fleetlift.release.created",
        "subject": f"release/{release_id}",
        "time": "2023-11-14T22:13:20.000+00:00",
        "datacontenttype": "application/json",
        "product": "thermostat",
        "data": event["data"],
    }
    assert (event["data"]["label"], event["data"]["version"], event["data"]["by"]) == (1, "1.1.0", ANN)
    assert (view.tries, view.answer) == (1, "204 No Content")


def test_what_fails_is_tried_again_under_the_same_id_and_signed_anew(desk: Desk, receiver: Receiver) -> None:
    secret = desk.add(receiver.url)
    receiver.answering = lambda _: 500
    with desk.delivering():
        desk.happen("1.1.0")
        first = receiver.next()
        view = desk.expect_tries(1)
        assert (view.state, view.answer) == (PENDING, "500 Internal Server Error")
        assert view.due_at_ms == int((START_S + 5) * 1000)
        desk.later(4.9)
        receiver.answering = lambda _: 200
        desk.happen("1.2.0")  # another event does not hurry a receiver that rests
        assert len(receiver.all) == 1
        desk.later(0.2)
        desk.expect(DELIVERED, DELIVERED)
    _, second = (came for came in receiver.all if came.id == first.id)
    assert len(receiver.all) == 3
    assert (second.id, second.body) == (first.id, first.body)
    assert second.headers["webhook-timestamp"] != first.headers["webhook-timestamp"]
    assert second.is_signed_with(secret, START_S + 5)


def test_waits_grow_with_chance_and_end() -> None:
    pace = Pace()
    assert [pace.wait_s(tries, 0.0) for tries in (1, 2, 3, 20)] == [5, 20, 80, 6 * HOUR_S]
    assert pace.wait_s(1, 0.999) == pytest.approx(2.5, rel=0.01)
    assert pace.next_ms(0, 1, 1000, 0.0) == 6000
    assert pace.next_ms(0, 1, 1000, 0.0, at_least_s=60) == 61_000
    last_ms = int(3 * DAY_S * 1000)
    assert pace.next_ms(0, 9, last_ms - 1, 0.0) == last_ms
    assert pace.next_ms(0, 9, last_ms, 0.0) is None


def test_a_receiver_may_ask_for_patience(desk: Desk, receiver: Receiver) -> None:
    desk.add(receiver.url)
    receiver.answering = lambda _: (503, {"Retry-After": "120"})
    with desk.delivering():
        desk.happen("1.1.0")
        assert desk.expect_tries(1).due_at_ms == int((START_S + 120) * 1000)


def test_what_is_not_taken_for_three_days_is_given_up_and_shown_and_the_webhook_is_disabled(
    desk: Desk, receiver: Receiver
) -> None:
    desk.add(receiver.url)
    receiver.answering = lambda _: 404
    tries = 0
    with desk.delivering():
        desk.happen("1.1.0")
        for _ in range(40):
            tries += 1
            view = desk.expect_tries(tries)
            if view.due_at_ms is None:
                break
            desk.later(view.due_at_ms / 1000 - desk.clock.now_s + 0.001)
        (view,) = desk.expect(GIVEN_UP)
        assert desk.clock.now_s - START_S == pytest.approx(3 * DAY_S, abs=HOUR_S)
        assert 10 < view.tries < 30
        wait_until(lambda: not desk.store.webhooks.webhook("pager").enabled, what="the webhook disabled")
        hook = desk.store.webhooks.webhook("pager")
        assert hook.why_disabled == "nothing was taken for 3 days; the last answer was: 404 Not Found"
        desk.happen("1.2.0")
        assert desk.store.audit.rows(subject="webhook/pager")[-1].actor == "server"
        desk.store.webhooks.set_enabled("pager", enabled=True, by=ANN)
        receiver.answering = lambda _: 200
        desk.happen("1.2.0")
        desk.expect(GIVEN_UP, DELIVERED)  # what happened while it was disabled it is never told
    assert [item.event["data"]["label"] for item in receiver.all[-1:]] == [3]


def test_one_event_that_is_refused_holds_up_no_other(desk: Desk, receiver: Receiver) -> None:
    desk.add(receiver.url)
    receiver.answering = lambda came: 400 if came.event["data"]["label"] == 2 else 200
    with desk.delivering():
        desk.happen("1.1.0", "1.2.0", "1.1.0", "1.2.0")
        desk.expect(DELIVERED, PENDING, DELIVERED, DELIVERED)
        desk.happen("1.1.0")
        desk.later(6)  # now the refused one is due again, too, and is first in line
        desk.expect(DELIVERED, PENDING, DELIVERED, DELIVERED, DELIVERED)
    assert desk.store.webhooks.webhook("pager").enabled


def test_a_slow_receiver_holds_up_no_other_and_gets_few_at_a_time(desk: Desk, receiver: Receiver) -> None:
    go_on = threading.Event()
    with receiving() as slow:
        slow.answering = lambda _: 200 if go_on.wait(10) else 500
        desk.add(slow.url, "slow")
        desk.add(receiver.url)
        with desk.delivering(Sender(timeout_s=15)):
            desk.happen(*["1.1.0"] * 20)
            desk.expect(*[DELIVERED] * 20)
            assert slow.most_at_once <= 8
            go_on.set()
            desk.expect(*[DELIVERED] * 20, name="slow")
        assert slow.most_at_once <= 8


def test_a_dead_receiver_is_looked_at_with_one_delivery_at_a_time(desk: Desk, receiver: Receiver) -> None:
    desk.add(receiver.url)
    receiver.answering = lambda _: 503
    with desk.delivering():
        desk.happen(*["1.1.0"] * 12)
        desk.expect_tries_of_all(8)
        for times in range(1, 4):
            desk.later(61)
            desk.expect_tries_of_all(8 + times)
        receiver.answering = lambda _: 200
        desk.later(3600)
        desk.expect(*[DELIVERED] * 12)


def test_a_webhook_chooses_product_and_kinds(desk: Desk, receiver: Receiver) -> None:
    desk.store.catalog.create_product("pump", hardware_models=["pi4"], by=ANN)
    desk.add(receiver.url, "all")
    desk.add(receiver.url, "devices", kinds=("device.*",))
    desk.add(receiver.url, "pumps", product="pump")
    desk.add(receiver.url, "trouble", product="thermostat", kinds=("device.rolled_back", "release.disabled"))
    (release_id,) = desk.happen("1.1.0")
    join(desk.store, "pi-1")[0].fail("1.1.0", release_id)
    heard = {name: [it.event.kind for it in desk.deliveries(name)] for name in ("all", "devices", "pumps", "trouble")}
    assert heard == {
        "all": ["release.created", "device.rolled_back"],
        "devices": ["device.rolled_back"],
        "pumps": [],
        "trouble": ["device.rolled_back"],
    }


def test_gone_disables_at_once(desk: Desk, receiver: Receiver) -> None:
    desk.add(receiver.url)
    receiver.answering = lambda _: 410
    with desk.delivering():
        desk.happen("1.1.0")
        desk.expect_tries(1)
        wait_until(lambda: not desk.store.webhooks.webhook("pager").enabled, what="the webhook disabled")
    assert "410" in desk.store.webhooks.webhook("pager").why_disabled


def test_a_redirect_is_not_followed(desk: Desk, receiver: Receiver) -> None:
    with receiving() as elsewhere:
        receiver.answering = lambda _: (307, {"Location": elsewhere.url})
        desk.add(receiver.url)
        with desk.delivering():
            desk.happen("1.1.0")
            assert desk.expect_tries(1).answer == "307 Temporary Redirect, a redirect, which is not followed"
        assert elsewhere.all == []


def test_a_receiver_that_never_answers_is_tried_later(desk: Desk) -> None:
    never = threading.Event()
    with receiving() as silent:
        silent.answering = lambda _: 200 if never.wait(20) else 500
        desk.add(silent.url)
        with desk.delivering(Sender(timeout_s=0.5)):
            desk.happen("1.1.0")
            assert desk.expect_tries(1).answer == "no answer within 0.5 s"
        never.set()


def test_a_receiver_that_is_not_there_is_tried_later(desk: Desk) -> None:
    with socket.socket() as held:  # nobody listens there, and nobody else can
        held.bind(("127.0.0.1", 0))
        desk.add(f"http://127.0.0.1:{held.getsockname()[1]}/")
        with desk.delivering():
            desk.happen("1.1.0")
            assert "ConnectError" in desk.expect_tries(1).answer


def test_a_flood_in_an_answer_is_not_read(desk: Desk, receiver: Receiver) -> None:
    desk.add(receiver.url)
    receiver.answering = lambda _: (200, {"content-length": str(1 << 40)})  # and never comes
    with desk.delivering(Sender(timeout_s=0.5)):
        desk.happen("1.1.0")
        assert desk.expect_tries(1).state is PENDING


def test_a_secret_is_in_its_private_file_and_nowhere_else(desk: Desk, receiver: Receiver) -> None:
    secret = desk.add(receiver.url)
    with desk.delivering():
        desk.happen("1.1.0")
        desk.expect(DELIVERED)
    holding = [
        path for path in desk.directory.rglob("*") if path.is_file() and secret[6:].encode() in path.read_bytes()
    ]
    assert holding == [desk.directory / "webhooks" / "pager"]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    assert stat.S_IMODE(holding[0].parent.stat().st_mode) == 0o700
    assert secret not in json.dumps([row.after for row in desk.store.audit.rows()])


@pytest.mark.parametrize("found", [None, "", "no secret", "whsec_c2hvcnQ="])
def test_without_its_secret_nothing_is_sent(desk: Desk, receiver: Receiver, found: str | None) -> None:
    desk.add(receiver.url)
    path = desk.directory / "webhooks" / "pager"
    path.unlink() if found is None else path.write_text(found)
    with desk.delivering():
        desk.happen("1.1.0")
        assert "secret of webhook pager" in desk.expect_tries(1).answer or "webhook pager's secret" in (
            desk.deliveries()[0].answer
        )
    assert receiver.all == []


def test_certificates_are_checked_by_the_name_that_was_added(desk: Desk, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "authorities")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = tmp_path / "receiver.pem"
    certificate.write_bytes(fleet.authorities.issue_service("receiver", ("localhost",), server=True))
    context.load_cert_chain(certificate)
    with receiving(tls=context) as receiver:
        desk.add(f"https://localhost:{receiver.port}/", "named")
        desk.add(f"https://127.0.0.1:{receiver.port}/", "numbered")
        with desk.delivering(Sender(tls=ssl.create_default_context(cafile=fleet.ca), timeout_s=30)):
            desk.happen("1.1.0")
            desk.expect(DELIVERED, name="named")
            assert "CERTIFICATE_VERIFY_FAILED" in desk.expect_tries(1, "numbered").answer
            assert receiver.all[0].headers["host"] == f"localhost:{receiver.port}"
        with desk.delivering(Sender(timeout_s=30)):  # by the system's list alone it is a stranger
            desk.happen("1.2.0")
            assert "CERTIFICATE_VERIFY_FAILED" in desk.expect_tries(1, "named").answer


def test_what_waits_too_long_while_its_webhook_is_disabled_is_given_up_and_forgotten(desk: Desk) -> None:
    desk.add("https://pager.example/")
    desk.happen("1.1.0", "1.2.0")
    desk.store.webhooks.set_enabled("pager", enabled=False, by=ANN)
    desk.later(4 * DAY_S)
    assert desk.store.events.prune(max_rows=10, max_age_ms=int(DAY_S * 1000)) == 0
    desk.store.webhooks.give_up(older_than_ms=int(3 * DAY_S * 1000))
    desk.expect(GIVEN_UP, GIVEN_UP)
    assert desk.store.events.prune(max_rows=10, max_age_ms=int(DAY_S * 1000)) == 1
    desk.expect(GIVEN_UP)


def test_a_webhook_that_is_removed_is_forgotten_and_its_deliveries_with_it(desk: Desk) -> None:
    desk.add("https://pager.example/")
    desk.happen("1.1.0")
    with pytest.raises(ConflictError):
        desk.add("https://pager.example/")
    desk.store.webhooks.remove("pager", by=ANN)
    with pytest.raises(NotFoundError):
        desk.store.webhooks.webhook("pager")
    desk.secrets.remove("pager")
    desk.add("https://pager.example/")
    assert desk.deliveries() == []


@pytest.mark.parametrize("kinds", [("device.exploded",), ("*",), ("device",), ("devices.*",)])
def test_kinds_that_there_are_not_are_refused(desk: Desk, kinds: tuple[str, ...]) -> None:
    with pytest.raises(InvalidError, match="no kind of event"):
        desk.add("https://pager.example/", kinds=kinds)
