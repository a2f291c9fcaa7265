"""A session's bookkeeping and its reports, pure: what is due when, with time as data."""

from dataclasses import dataclass, field

import pytest

from device_agent.admission import Trigger
from device_agent.events import Snapshot, Waiting
from device_agent.reports import AGAIN_S, ENTRIES_PER_REPORT, PAUSE_S, Reports
from device_agent.session import FIRST_ASK_S, PATIENCE_S, Session
from device_agent.starting import MANDATORY_WAIT_S, Starting
from protocol.phases import Phase, Wait
from protocol.up import Entry, JournalPosition
from tests.support.updates import attempt


def begun(now: float = 0.0) -> Session:
    session = Session()
    session.begin(1, now)
    assert session.hello_due(now)
    return session


def hellos(session: Session, until: float) -> list[float]:
    said = []
    while (due := session.next_due()) is not None and due <= until:
        if session.hello_due(due):
            said.append(due)
        session.take_trigger((), due)
    return said


def test_a_hello_is_said_again_with_back_off() -> None:
    assert hellos(begun(), 1000) == [5, 15, 35, 75, 155, 315, 615, 915]


def test_the_answer_ends_it() -> None:
    session = begun()
    session.desired_arrived(1, (), 1.0)
    assert session.take_trigger((), 1.0) is Trigger.SESSION_START
    assert session.take_trigger((), 1.0) is None
    assert hellos(session, 1000) == []


def test_an_answer_to_another_session_does_not() -> None:
    session = begun()
    session.desired_arrived(0, (), 1.0)
    session.desired_arrived(7, (), 1.0)
    assert session.take_trigger((), 1.0) is None
    assert hellos(session, 20) == [5, 15]


def test_a_new_session_begins_its_back_off_anew() -> None:
    session = begun()
    hellos(session, 100)
    session.end()
    assert session.next_due() is None
    session.begin(2, 200.0)
    assert session.hello_due(200.0)
    assert hellos(session, 220) == [205, 215]


def test_missing_notices_are_asked_for_with_back_off() -> None:
    session = begun()
    session.desired_arrived(1, ("g/app",), 1.0)
    assert session.take_trigger(("g/app",), 1.0) is None
    asked = [tenth / 10 for tenth in range(10, 300) if session.ask_due(tenth / 10)]
    assert asked == [1 + FIRST_ASK_S, 7, 13, 25]
    session.notices_changed((), 30.0)
    assert session.take_trigger((), 30.0) is Trigger.SESSION_START
    assert not session.ask_due(1000.0)


def test_what_could_not_be_kept_is_asked_for_with_the_back_off_of_a_hello() -> None:
    session = begun()
    session.ask_again(0.0)  # the answer to the hello is waited for anyway
    assert not session.hello_due(1.0)
    session.desired_arrived(1, (), 1.0)
    session.take_trigger((), 1.0)
    session.ask_again(10.0)
    assert session.hello_due(10.0)
    session.ask_again(10.1)  # nor could the answer be kept
    assert hellos(session, 50) == [15, 25, 45]
    session.desired_arrived(1, (), 50.0)
    assert session.take_trigger((), 50.0) is Trigger.NOTICE, "a gradual release still waits for its time"


def test_patience_ends_and_the_answer_decides_again() -> None:
    session = begun()
    assert session.awaits_decision
    assert session.take_trigger((), PATIENCE_S - 0.1) is None
    assert session.take_trigger((), PATIENCE_S) is Trigger.SESSION_START
    assert not session.awaits_decision
    assert session.take_trigger((), PATIENCE_S + 1) is None
    session.desired_arrived(1, (), 50.0)
    assert session.take_trigger((), 50.0) is Trigger.SESSION_START
    assert session.take_trigger((), 51.0) is None


def test_the_stronger_reason_to_ask_counts() -> None:
    session = begun()
    session.check(Trigger.CHECK, 1.0)
    session.check(Trigger.TIMER, 2.0)
    session.desired_arrived(1, (), 3.0)
    assert session.take_trigger((), 3.0) is Trigger.CHECK


def test_a_check_without_a_session_says_nothing() -> None:
    session = Session()
    session.check(Trigger.CHECK, 1.0)
    assert session.next_due() is None


# Reports.


@dataclass
class Outbox:
    """A journal's outbox, in memory."""

    count: int = 0
    acknowledged: int = 0
    journal_id: str = "j"
    told: list[int] = field(default_factory=list)

    def unacknowledged(self, limit: int) -> tuple[Entry, ...]:
        numbers = range(self.acknowledged + 1, self.count + 1)
        return tuple(Entry(seq=seq, at_ms=0) for seq in numbers)[:limit]

    def acknowledge(self, through: int) -> None:
        self.acknowledged = through

    def position(self) -> JournalPosition:
        return JournalPosition(journal_id=self.journal_id, next_seq=self.count + 1)


def sent(reports: Reports, now: float) -> list[int]:
    report = reports.report_due(now)
    return [entry.seq for entry in report.entries] if report else []


def test_entries_go_out_in_order_one_report_at_a_time() -> None:
    outbox = Outbox(count=ENTRIES_PER_REPORT + 3)
    reports = Reports(outbox)
    assert sent(reports, 0.0) == []
    reports.link_up(0.0)
    assert sent(reports, 0.0) == list(range(1, ENTRIES_PER_REPORT + 1))
    assert sent(reports, 1.0) == []
    outbox.count += 1
    reports.entries_added(1.0)
    assert sent(reports, 1.0) == []  # after what was sent is acknowledged
    reports.acknowledged("j", ENTRIES_PER_REPORT, 2.0)
    assert sent(reports, 2.0) == list(range(ENTRIES_PER_REPORT + 1, ENTRIES_PER_REPORT + 5))
    reports.acknowledged("j", ENTRIES_PER_REPORT + 4, 3.0)
    assert sent(reports, 3.0) == []
    assert reports.next_due() is None


def test_without_an_acknowledgement_they_go_out_again() -> None:
    reports = Reports(Outbox(count=1))
    reports.link_up(0.0)
    assert [when for when in range(35) if sent(reports, float(when))] == [0, AGAIN_S, 2 * AGAIN_S, 3 * AGAIN_S]


def test_an_acknowledgement_that_falls_short_makes_them_go_out_again_but_not_at_once() -> None:
    outbox = Outbox(count=3, acknowledged=2)
    reports = Reports(outbox)
    reports.link_up(0.0)
    assert sent(reports, 0.0) == [3]
    reports.acknowledged("j", 0, 0.1)
    assert sent(reports, 0.1) == []
    assert sent(reports, PAUSE_S) == [1, 2, 3]
    for turn in range(100):  # a cloud that never gets on is not hammered
        reports.acknowledged("j", 0, PAUSE_S + turn / 1000)
        assert sent(reports, PAUSE_S + turn / 1000) == []


def test_another_journal_s_acknowledgement_is_nothing() -> None:
    outbox = Outbox(count=1)
    reports = Reports(outbox)
    reports.link_up(0.0)
    sent(reports, 0.0)
    reports.acknowledged("other", 1, 1.0)
    assert outbox.acknowledged == 0


def test_an_acknowledgement_of_what_was_never_written_counts_once_a_hello() -> None:
    outbox = Outbox(count=3, acknowledged=3)
    reports = Reports(outbox)
    reports.acknowledged("j", 4, 0.0)
    assert outbox.acknowledged == 3
    reports.hello_said()
    reports.acknowledged("j", 4, 1.0)
    assert outbox.acknowledged == 4
    reports.acknowledged("j", 5, 2.0)
    assert outbox.acknowledged == 4


def test_nothing_goes_out_without_a_link() -> None:
    reports = Reports(Outbox(count=1))
    reports.link_up(0.0)
    reports.link_down()
    reports.entries_added(1.0)
    reports.acknowledged("j", 0, 2.0)
    assert sent(reports, 100.0) == []


# Starting.


IDLE = Snapshot()


def starting(news_wait_s: float = 0.0) -> Starting:
    return Starting(began_s=100.0, news_wait_s=news_wait_s)


def waits(
    of: Starting, snapshot: Snapshot = IDLE, *, known: bool = False, grace: bool = False, now: float = 100.0
) -> bool:
    return of.waits("app", snapshot, mandatory_known=known, in_grace=grace, now=now)


def at(phase: Phase, *, mandatory: bool = False, waiting: Waiting | None = None) -> Snapshot:
    return Snapshot(phase=phase, attempt=attempt(mandatory=mandatory), waiting=waiting)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.IDLE])
def test_what_an_application_s_own_update_means_for_its_start(phase: Phase) -> None:
    waited_for = (Phase.INSTALLING, Phase.RESTARTING, Phase.PROVING, Phase.ROLLING_BACK)
    assert waits(starting(), at(phase)) is (phase in waited_for)
    assert not starting().waits("other", at(phase), mandatory_known=False, in_grace=False, now=100.0)


def test_an_installation_that_waits_is_not_waited_for() -> None:
    held = Waiting(Wait.HELD)
    assert not waits(starting(), at(Phase.INSTALLING, waiting=held))
    assert waits(starting(), at(Phase.INSTALLING, waiting=held), grace=True)
    assert not waits(starting(), at(Phase.DOWNLOADING, mandatory=True, waiting=held))


def test_a_mandatory_download_is_waited_for_while_it_gets_on() -> None:
    of, downloading = starting(), at(Phase.DOWNLOADING, mandatory=True)
    assert waits(of, downloading, known=True, now=100 + MANDATORY_WAIT_S - 1)
    assert not waits(of, downloading, known=True, now=100 + MANDATORY_WAIT_S)
    of.progressed(110.0)
    assert waits(of, downloading, known=True, now=110 + MANDATORY_WAIT_S - 1)
    assert not waits(of, downloading, known=True, now=110 + MANDATORY_WAIT_S)


def test_a_mandatory_download_that_may_not_be_installed_yet_is_not_waited_for() -> None:
    assert not waits(starting(), at(Phase.DOWNLOADING, mandatory=True), known=False)


def test_a_known_mandatory_update_is_waited_for_until_a_decision() -> None:
    of = starting()
    assert waits(of, known=True)
    assert not waits(of)
    of.decided = True
    assert not waits(of, known=True)


def test_news_are_waited_for_as_long_as_it_is_set() -> None:
    of = starting(news_wait_s=30.0)
    assert of.next_deadline(100.0) == 100 + MANDATORY_WAIT_S
    assert waits(of, now=129.0)
    assert not waits(of, now=130.0)
    assert of.next_deadline(129.0) == 130.0
    assert of.next_deadline(130.0) is None
    of.decided = True
    assert not waits(of, now=101.0)
