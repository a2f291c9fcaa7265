"""Answers of people, kept: durable first, one firmware of one release each, and never more of them than are of use."""

from dataclasses import replace

import pytest

from device_agent.admission import Answer, Said
from device_agent.consent import Asking, ConsentError, Consents, Question
from protocol.errors import FleetliftError
from protocol.values import MAX_RELEASES
from tests.device_agent.stand_in import Clock

APP = Question(
    source_id="r1",
    digest="a" * 64,
    component="app",
    version="1.1.0",
    mandatory=False,
    optional=True,
    state=Asking.ASKED,
)
OS = replace(APP, source_id="r7", digest="b" * 64, component="os", version="5.0.0")


class Memory:
    """Keeps answers, unless it is full."""

    def __init__(self) -> None:
        self.kept: tuple[Answer, ...] = ()
        self.full = False

    def answers(self) -> tuple[Answer, ...]:
        return self.kept

    def keep_answers(self, answers: tuple[Answer, ...]) -> None:
        if self.full:
            raise FleetliftError("the disk is full")
        self.kept = answers


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def consents(memory: Memory, clock: Clock) -> Consents:
    made = Consents(memory, longest_s=1000, now=clock)
    made.questions = (APP,)
    return made


def said(consents: Consents, question: Question = APP) -> Said | None:
    answer = consents.answer(question.source_id, question.digest)
    return answer.said if answer else None


def test_an_answer_is_kept_before_it_counts(memory: Memory, clock: Clock, consents: Consents) -> None:
    heard: list[Said | None] = []
    consents.changed = lambda: heard.append(said(Consents(memory, longest_s=1, now=clock)))
    consents.consent(None)
    consents.defer(5, None)
    consents.decline(None)
    assert heard == [Said.CONSENTED, Said.DEFERRED, Said.DECLINED]
    memory.full = True
    with pytest.raises(FleetliftError, match="the disk is full"):
        consents.consent(None)
    assert said(consents) is Said.DECLINED
    assert len(heard) == 3


def test_an_answer_is_for_one_firmware_of_one_release(consents: Consents) -> None:
    consents.consent(None)
    assert consents.answer("r2", APP.digest) is None
    assert consents.answer("r1", "c" * 64) is None


def test_of_several_questions_the_one_of_the_component_is_answered(consents: Consents) -> None:
    consents.questions = (replace(APP, state=Asking.DECLINED), OS)
    consents.consent(None)
    assert (said(consents), said(consents, OS)) == (None, Said.CONSENTED)
    consents.consent("app")
    assert said(consents) is Said.CONSENTED
    with pytest.raises(ConsentError, match="nothing waits for an answer"):
        consents.decline("app")
    with pytest.raises(ConsentError, match="nothing waits for an answer"):
        consents.defer(5, "kernel")


@pytest.mark.parametrize("change", [{"optional": False}, {"mandatory": True}])
def test_only_what_is_optional_may_be_declined(consents: Consents, change: dict[str, bool]) -> None:
    consents.questions = (replace(APP, **change),)  # type: ignore[arg-type]
    with pytest.raises(ConsentError, match="is not optional"):
        consents.decline(None)
    assert not consents.declined


def test_deferrals_add_up(consents: Consents, clock: Clock) -> None:
    assert consents.defer(600, None) == clock.time + 600
    clock.time += 300
    assert consents.defer(700, None) == clock.time + 700, "until 1000 s after the first, and no later"
    with pytest.raises(ConsentError, match="for 700 s more at most"):
        consents.defer(701, None)
    clock.time += 900
    with pytest.raises(ConsentError, match="for 0 s more at most"):
        consents.defer(1, None)
    consents.questions = (OS,)
    assert consents.defer(1000, None) == clock.time + 1000, "another release has its own"


def test_a_deferral_from_the_future_is_over(consents: Consents, clock: Clock) -> None:
    consents.defer(600, None)
    answer = consents.answer(APP.source_id, APP.digest)
    assert answer is not None
    now_ms = round(clock.time * 1000)
    assert [answer.defers(now_ms + ms) for ms in (-1, 0, 599_999, 600_000)] == [False, True, True, False]
    clock.time -= 10**8  # the clock was wrong, and is set back
    assert consents.defer(1000, None) == clock.time + 1000


def test_who_is_obliged_has_declined_nothing(memory: Memory, consents: Consents) -> None:
    consents.decline(None)
    consents.oblige(["r9"])
    assert consents.declined == ("r1",)
    consents.oblige(["r1"])
    assert not consents.declined
    assert not memory.kept
    consents.consent(None)
    consents.oblige(["r1"])
    assert said(consents) is Said.CONSENTED


def test_the_newest_answers_are_kept(memory: Memory, consents: Consents) -> None:
    for number in range(MAX_RELEASES + 5):
        consents.questions = (replace(APP, source_id=f"r{number}"),)
        consents.decline(None)
    assert len(memory.kept) == len(consents.declined) == MAX_RELEASES
    assert consents.declined[-1] == f"r{MAX_RELEASES + 4}"
