"""Hello, state, presence and reports: what is stored once, and what is passed over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloud.fleet import AttemptFilter, OtaStatus
from cloud.store.errors import NotFoundError
from cloud.store.store import Store
from cloud.values import OutboxKind
from protocol.identity import EVERYONE, MAX_INTEGER
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.up import Availability, Entry, Pending, Report
from protocol.values import ComponentState, Via
from tests.cloud.store.fleets import ANN, HAPPY, MODEL, PRODUCT, Clock, Device, digest_of, join, release

# Hello


def test_a_new_device_is_registered_by_its_hello_and_told_what_to_follow(store: Store, clock: Clock) -> None:
    release(store, "1.1.0")
    answer = Device(store, "pi-1").hello()

    assert (answer.registered, answer.refusal) == (True, None)
    assert (answer.ack.journal_id, answer.ack.through) == ("j1", 0)  # type: ignore[union-attr]
    desired = answer.desired
    assert desired is not None
    assert (desired.device_id, desired.product, desired.session) == ("pi-1", PRODUCT, 1)
    assert (desired.groups, desired.pins, desired.otas, desired.ota_enabled) == ((EVERYONE,), (), (), True)
    assert desired.notices == {f"{EVERYONE}/app": int(clock() * 1000)}
    view = store.devices.device("pi-1")
    assert (view.online, view.session, view.hardware_model, view.attributes) == (True, 1, MODEL, {"site": "hall"})
    assert view.components == (ComponentState(component="app", version="1.0.0", build=1, digest=digest_of("1.0.0")),)
    assert [row.action for row in store.audit.rows(subject="device/pi-1")] == ["device.registered"]


def test_who_is_not_answered_leaves_no_trace(store: Store) -> None:
    store.catalog.create_product("lamp", hardware_models=[MODEL], by=ANN)
    join(store, "pi-1")
    before, audited = store.devices.devices(), len(store.audit.rows())

    assert Device(store, "pi-2", product="toaster").hello().refusal == "unknown_product"
    assert Device(store, "pi-1", product="lamp", session=2).hello().refusal == "other_product"
    closed = store.journal.receive_hello("pi-3", Device(store, "pi-3").greeting(), open_joining=False)
    assert (closed.refusal, closed.ack, closed.desired) == ("unknown_device", None, None)
    assert (store.devices.devices(), len(store.audit.rows())) == (before, audited)


def test_a_device_that_was_registered_joins_where_joining_is_closed(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    store.devices.register("pi-1", product=PRODUCT, hardware_model="pi5", groups=["test"], by=ANN)

    answer = store.journal.receive_hello("pi-1", Device(store, "pi-1").greeting(), open_joining=False)

    assert answer.desired is not None
    assert answer.desired.groups == ("test", EVERYONE)
    assert store.devices.device("pi-1").hardware_model == MODEL


def test_the_numbers_of_what_is_desired_rise_even_if_the_clock_does_not(store: Store, clock: Clock) -> None:
    (device,) = join(store, "pi-1")
    first = store.devices.desired_for("pi-1").seq
    clock.now_s -= 3600

    assert store.devices.desired_for("pi-1", session=7).seq == first + 1
    assert device.hello().desired.seq == first + 2  # type: ignore[union-attr]


def test_an_older_sessions_words_are_ignored(store: Store) -> None:
    device = Device(store, "pi-1", session=5)
    device.hello()
    old = Device(store, "pi-1", {"app": "0.9.0"}, session=4, seq=50)

    assert old.hello().refusal == "stale_hello"
    assert old.tell() is False
    assert old.presence(online=False) is False
    view = store.devices.device("pi-1")
    assert (view.session, view.online, view.components[0].version) == (5, True, "1.0.0")


def test_within_a_session_the_newest_state_wins(store: Store) -> None:
    (device,) = join(store, "pi-1")
    device.running = {"app": "1.1.0"}
    late = device.state(phase=Phase.PROVING)
    assert device.tell(phase=Phase.COMMITTING)

    assert store.journal.receive_state("pi-1", late) is False
    assert store.journal.receive_state("pi-1", replace(late, session=2, seq=0)) is True
    assert store.devices.device("pi-1").phase is Phase.PROVING


def test_a_repeated_hello_is_answered_again(store: Store) -> None:
    device = Device(store, "pi-1")
    greeting = device.greeting()
    first = store.journal.receive_hello("pi-1", greeting)
    second = store.journal.receive_hello("pi-1", greeting)

    assert second.ack == first.ack
    assert second.desired is not None
    assert (second.registered, second.refusal) == (False, None)


def test_a_device_that_lost_its_journal_starts_again_at_1(store: Store) -> None:
    device = Device(store, "pi-1", session=57)
    device.hello()
    device.report(*device.steps("1.1.0", "rel-x", *HAPPY))
    assert store.devices.device("pi-1").journal_through == 3

    wiped = Device(store, "pi-1", journal_id="j2", session=1)
    assert wiped.hello().ack.through == 0  # type: ignore[union-attr]
    assert wiped.report(*wiped.steps("1.1.0", "rel-x", Phase.DOWNLOADING)) == 1
    assert (store.devices.device("pi-1").session, store.devices.device("pi-1").online) == (1, True)
    # The same attempt id in another journal is another attempt.
    assert [attempt.journal_id for attempt in store.journal.history("pi-1")] == ["j2", "j1"]


def test_a_device_goes_back_to_a_journal_where_it_was_left(store: Store) -> None:
    (device,) = join(store, "pi-1")
    device.report(*device.steps("1.1.0", "rel-x", *HAPPY))
    Device(store, "pi-1", journal_id="j2").hello()

    assert device.report(*device.steps("1.2.0", "rel-x", Phase.DOWNLOADING)) == 4
    assert len(store.journal.history("pi-1")) == 2


# Presence


def test_presence_is_of_its_session(store: Store) -> None:
    (device,) = join(store, "pi-1")
    assert device.presence(online=False)
    assert store.devices.device("pi-1").online is False

    # The next session's presence may overtake its hello: it is taken, but opens no session.
    assert device.presence(online=True, session=2)
    assert store.devices.device("pi-1").online is True
    device.session = 2
    assert device.hello().refusal is None
    assert device.presence(online=False, session=1) is False, "the will of the session before comes late"
    assert store.devices.device("pi-1").online is True
    assert Device(store, "pi-9").presence(online=True) is False


def test_a_last_will_of_any_number_shuts_out_no_hello(store: Store) -> None:
    (device,) = join(store, "pi-1")
    device.presence(online=False, session=MAX_INTEGER)
    device.session = 2
    assert device.hello().refusal is None


def test_state_is_shown_as_the_device_told_it(store: Store) -> None:
    (device,) = join(store, "pi-1")
    availability = Availability(enabled=False, disabled_until_ms=5)
    pending = Pending(component="app", version="1.1.0", digest=digest_of("1.1.0"), source_id="rel-1", why=Wait.DISABLED)

    device.tell(
        phase=Phase.DOWNLOADING, availability=availability, pending=(pending,), failed=("f" * 64,), refused={"bad": 2}
    )

    view = store.devices.device("pi-1")
    assert (view.phase, view.availability, view.pending) == (Phase.DOWNLOADING, availability, (pending,))
    assert (view.failed, view.refused) == (("f" * 64,), {"bad": 2})


def test_components_that_are_gone_are_gone(store: Store) -> None:
    device = Device(store, "pi-1", {"app": "1.0.0", "os": "1.0.0"})
    device.hello()
    device.running = {"os": "2.0.0"}
    device.tell()

    assert [(it.component, it.version) for it in store.devices.device("pi-1").components] == [("os", "2.0.0")]


# Reports


def test_entries_are_applied_once_and_in_order(store: Store) -> None:
    (device,) = join(store, "pi-1")
    entries = device.steps("1.1.0", "rel-x", *HAPPY, outcome=Outcome.SUCCEEDED)

    assert device.report(*entries[:2]) == 2
    assert device.report(*entries[:2]) == 2
    assert device.report(*entries[1:3]) == 3
    assert device.report(entries[0]) == 3
    assert device.report(*entries) == 4

    (attempt,) = store.journal.history("pi-1")
    assert [step.seq for step in attempt.steps] == [1, 2, 3, 4]
    assert [step.phase for step in attempt.steps] == [*HAPPY, Phase.PROVING]
    assert (attempt.outcome, attempt.succeeded, attempt.phase) == (Outcome.SUCCEEDED, True, Phase.PROVING)
    assert (attempt.from_version, attempt.fetched_bytes) == ("1.0.0", 1000)


def test_after_a_gap_nothing_is_applied_and_the_answer_says_from_where(store: Store) -> None:
    (device,) = join(store, "pi-1")
    entries = device.steps("1.1.0", "rel-x", *HAPPY, outcome=Outcome.SUCCEEDED)
    device.report(entries[0])

    assert device.report(*entries[2:]) == 1
    assert len(store.journal.history("pi-1")[0].steps) == 1
    assert device.report(*entries[1:]) == 4


def test_what_refers_to_nothing_known_is_kept_all_the_same(store: Store) -> None:
    (device,) = join(store, "pi-1")
    entries = device.steps("9.9.9", "rel-of-another-cloud", Phase.IDLE, outcome=Outcome.FAILED, reason=Reason.UNTRUSTED)
    found = Entry(
        seq=device.next_seq,
        at_ms=1,
        installed=ComponentState(component="app", version="9.9.9", build=1, digest=digest_of("9.9.9")),
    )
    device.next_seq += 1

    assert device.report(*entries, found, Entry(seq=device.next_seq, at_ms=2)) == 4
    (attempt,) = store.journal.attempts(AttemptFilter(source_id="rel-of-another-cloud"))
    assert (attempt.channel, attempt.label, attempt.reason) == (None, None, Reason.UNTRUSTED)
    assert device.report(Entry(seq=device.next_seq, at_ms=2)) == 4


def test_nobody_answers_a_device_that_is_not_known(store: Store) -> None:
    stranger = Device(store, "pi-9")

    assert stranger.report(*stranger.steps("1.1.0", "rel-x", Phase.DOWNLOADING)) is None
    assert stranger.tell() is False
    with pytest.raises(NotFoundError, match="no device 'pi-9'"):
        store.journal.history("pi-9")


def test_the_first_outcome_of_an_attempt_stays(store: Store) -> None:
    made = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    entries = device.steps("1.1.0", made.release_id, *HAPPY, outcome=Outcome.ROLLED_BACK, reason=Reason.HEALTH_FAILED)
    said = entries[-1].attempt
    assert said is not None
    again = replace(said, outcome=Outcome.SUCCEEDED, reason=None, booted_digest=said.digest)
    device.report(*entries, device.entry(again))

    (attempt,) = store.journal.history("pi-1")
    assert (attempt.outcome, attempt.reason, len(attempt.steps)) == (Outcome.ROLLED_BACK, Reason.HEALTH_FAILED, 5)
    assert store.metrics.release(made.release_id).installs == 0


def test_attempts_are_found_by_what_is_asked(store: Store) -> None:
    made = release(store, "1.1.0")
    good, bad, slow = join(store, "pi-1", "pi-2", "pi-3")
    good.take("1.1.0", made.release_id)
    bad.fail("1.1.0", made.release_id)
    slow.report(*slow.steps("1.1.0", made.release_id, Phase.DOWNLOADING))

    def of(**asked: object) -> list[str]:
        found = store.journal.attempts(AttemptFilter(**asked))  # type: ignore[arg-type]
        assert all((attempt.channel, attempt.label) == (made.channel, 1) for attempt in found)
        return [attempt.device_id for attempt in found]

    assert of(source_id=made.release_id) == ["pi-3", "pi-2", "pi-1"]
    assert of(open_only=True) == ["pi-3"]
    assert of(outcome=Outcome.SUCCEEDED, product=PRODUCT) == ["pi-1"]
    assert of(device_id="pi-2") == ["pi-2"]
    assert of(product="lamp") == []
    assert of(limit=1) == ["pi-3"]


# Single-device OTAs end with their attempts


@pytest.mark.parametrize(
    ("outcome", "reason", "status", "in_force"),
    [
        (Outcome.SUCCEEDED, None, OtaStatus.SUCCEEDED, True),
        (Outcome.ROLLED_BACK, Reason.HEALTH_FAILED, OtaStatus.ROLLED_BACK, False),
        (Outcome.FAILED, Reason.DIGEST_MISMATCH, OtaStatus.FAILED, False),
        (Outcome.CANCELLED, Reason.SUPERSEDED, OtaStatus.CANCELLED, False),
    ],
)
def test_an_ota_ends_with_its_attempt(
    store: Store, outcome: Outcome, reason: Reason | None, status: OtaStatus, in_force: bool
) -> None:
    device, other = join(store, "pi-1", "pi-2")
    ota = store.devices.create_ota("pi-1", "app", "1.2.0", by=ANN)
    other.report(*other.steps("1.2.0", ota.ota_id, Phase.IDLE, outcome=outcome, reason=reason, via=Via.OTA))
    assert store.devices.ota(ota.ota_id).status is OtaStatus.OPEN

    device.report(*device.steps("1.2.0", ota.ota_id, *HAPPY, outcome=outcome, reason=reason, via=Via.OTA))

    ended = store.devices.ota(ota.ota_id)
    assert (ended.status, ended.reason, ended.in_force) == (status, reason, in_force)
    assert (OutboxKind.DESIRED, "pi-1") in {(item.kind, item.key) for item in store.outbox.take()}
    assert bool(store.devices.desired_for("pi-1").otas) is in_force


def test_an_ota_that_lied_about_its_success_has_failed(store: Store) -> None:
    (device,) = join(store, "pi-1")
    ota = store.devices.create_ota("pi-1", "app", "1.2.0", by=ANN)
    lie = device.steps("1.2.0", ota.ota_id, *HAPPY, outcome=Outcome.SUCCEEDED, booted="0" * 64, via=Via.OTA)
    device.report(*lie)

    assert store.devices.ota(ota.ota_id).status is OtaStatus.FAILED


def test_a_report_of_a_journal_that_no_hello_announced_is_taken_from_its_beginning(store: Store) -> None:
    store.devices.register("pi-1", product=PRODUCT, hardware_model=MODEL, by=ANN)
    device = Device(store, "pi-1")
    entries = device.steps("1.1.0", "rel-x", *HAPPY)

    assert store.journal.receive_report("pi-1", Report(journal_id="j7", entries=tuple(entries[1:]))) == 0
    assert store.journal.receive_report("pi-1", Report(journal_id="j7", entries=tuple(entries))) == 3
