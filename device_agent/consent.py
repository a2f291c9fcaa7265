"""What somebody at the device answers when a release requires attention: a consent, a deferral, or a decline.

1. An answer is for one firmware of one release, and counts for no other. It is in the journal before it is confirmed.
2. All deferrals of a release together last at most `longest_s`, from the first on; then it is consented to, or not.
3. Only what is optional, and neither mandatory nor forced, may be declined. A consent undoes it; so does an operator
   who makes the release mandatory; a newer release asks anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from device_agent.admission import Answer, Said
from protocol.errors import FleetliftError
from protocol.values import MAX_RELEASES

LONGEST_DEFERRAL_S: Final = 7 * 86_400.0


class ConsentError(FleetliftError):
    """An answer that cannot be given; nothing was changed."""


class Asking(StrEnum):
    """How a question stands."""

    ASKED = "asked"
    DEFERRED = "deferred"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A firmware of a release that waits for somebody at the device, or that somebody declined."""

    source_id: str
    digest: str
    component: str
    version: str
    mandatory: bool
    optional: bool
    state: Asking
    until_ms: int | None = None
    """When it is installed without an answer (`asked`), or asked again (`deferred`); None: never."""

    def described(self) -> dict[str, Any]:
        """Return it as applications are told: JSON values."""
        return {
            "component": self.component,
            "version": self.version,
            "mandatory": self.mandatory,
            "optional": self.optional,
            "state": self.state.value,
            "until_ms": self.until_ms,
        }


class Memory(Protocol):
    """Where answers are kept, durably."""

    def answers(self) -> tuple[Answer, ...]:
        """Return them, oldest first."""

    def keep_answers(self, answers: tuple[Answer, ...]) -> None:
        """Store them."""


class Consents:
    """Knows what was answered. `questions` is set by the loop; `consent`, `defer` and `decline` are for any thread.

    `changed` is called, in whatever thread, after an answer. `now` is in seconds since 1970.
    """

    def __init__(self, memory: Memory, *, longest_s: float, now: Callable[[], float]) -> None:
        self._memory = memory
        self._longest_ms = round(longest_s * 1000)
        self._now = now
        self._guard = threading.Lock()
        self._answers = memory.answers()  # replaced, never changed: other threads read it
        self.questions: tuple[Question, ...] = ()
        self.changed: Callable[[], None] = _nothing

    def answer(self, source_id: str, digest: str) -> Answer | None:
        """Return what was said of a firmware of a release."""
        wanted = (source_id, digest)
        return next((item for item in self._answers if (item.source_id, item.digest) == wanted), None)

    @property
    def declined(self) -> tuple[str, ...]:
        """The releases that were declined, oldest first."""
        return tuple(dict.fromkeys(item.source_id for item in self._answers if item.said is Said.DECLINED))

    def consent(self, component: str | None) -> None:
        """Let what is asked for be installed; without a question, nothing. Durable before it returns."""
        question = self._find(component)
        if question is not None:
            self._keep(question, Said.CONSENTED)

    def defer(self, seconds: int, component: str | None) -> float:
        """Ask again in so many seconds; return when (seconds since 1970). Raises ConsentError."""
        question, now_ms = self._open(component), self._now_ms()
        before = self.answer(question.source_id, question.digest)
        since_ms = before.since_ms if before is not None and 0 < before.since_ms <= now_ms else now_ms
        until_ms = now_ms + seconds * 1000
        if until_ms > since_ms + self._longest_ms:
            left_s = max(0, since_ms + self._longest_ms - now_ms) // 1000
            raise ConsentError(
                f"{question.component} {question.version} may be deferred for {left_s} s more at most; "
                "nothing was changed"
            )
        self._keep(question, Said.DEFERRED, until_ms=until_ms, since_ms=since_ms)
        return until_ms / 1000

    def decline(self, component: str | None) -> None:
        """Keep what is asked for from being installed at all; durable before it returns. Raises ConsentError."""
        question = self._open(component)
        if question.mandatory or not question.optional:
            raise ConsentError(
                f"{question.component} {question.version} is not optional: it can be deferred, and not declined; "
                "nothing was changed"
            )
        self._keep(question, Said.DECLINED)

    def oblige(self, source_ids: Iterable[str]) -> None:
        """Hear which releases cannot be declined, whatever was said of them before."""
        obliged = set(source_ids)
        with self._guard:
            left = tuple(it for it in self._answers if it.said is not Said.DECLINED or it.source_id not in obliged)
            if left != self._answers:
                self._memory.keep_answers(left)
                self._answers = left

    def _find(self, component: str | None) -> Question | None:
        found = [item for item in self.questions if component in (None, item.component)]
        return min(found, key=lambda item: item.state is Asking.DECLINED, default=None)

    def _open(self, component: str | None) -> Question:
        question = self._find(component)
        if question is None or question.state is Asking.DECLINED:
            raise ConsentError("nothing waits for an answer; nothing was changed")
        return question

    def _keep(self, question: Question, said: Said, *, until_ms: int = 0, since_ms: int = 0) -> None:
        answer = Answer(
            source_id=question.source_id,
            digest=question.digest,
            said=said,
            at_ms=self._now_ms(),
            until_ms=until_ms,
            since_ms=since_ms,
        )
        with self._guard:
            others = [
                item for item in self._answers if (item.source_id, item.digest) != (answer.source_id, answer.digest)
            ]
            kept = (*others, answer)[-MAX_RELEASES:]
            self._memory.keep_answers(kept)
            self._answers = kept
        self.changed()

    def _now_ms(self) -> int:
        return max(0, round(self._now() * 1000))


def _nothing() -> None:
    pass
