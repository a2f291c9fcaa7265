"""Which entries of the journal to send, and when: all of them, in order, until the cloud itself has them.

Pure: time is an argument (seconds of a clock that only goes forward); the journal is read through `Outbox`.
"""

from __future__ import annotations

from typing import Final, Protocol

from protocol.up import Entry, JournalPosition, Report

ENTRIES_PER_REPORT: Final = 32
AGAIN_S: Final = 10.0
PAUSE_S: Final = 1.0
"""Between two sendings of the same entries, whatever the cloud says."""


class Outbox(Protocol):
    """The part of the journal that is to be told."""

    @property
    def journal_id(self) -> str:
        """Which journal."""

    @property
    def acknowledged(self) -> int:
        """The number up to which the cloud has it."""

    def unacknowledged(self, limit: int) -> tuple[Entry, ...]:
        """Return the first entries that it does not have."""

    def acknowledge(self, through: int) -> None:
        """Note what it has."""

    def position(self) -> JournalPosition:
        """Return where the journal stands."""


class Reports:
    """Sends one report at a time, and the next when the one before is acknowledged."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._up = False
        self._awaited_through = 0
        self._sent_at = float("-inf")
        self._due: float | None = None
        self._hello_open = False

    def hello_said(self) -> None:
        """Hear that the cloud was told where the journal stands, which it answers with an Ack."""
        self._hello_open = True

    def link_up(self, now: float) -> None:
        """Begin to send, from what was acknowledged last."""
        self._up, self._due = True, now

    def link_down(self) -> None:
        """Send nothing."""
        self._up, self._due = False, None

    def entries_added(self, now: float) -> None:
        """Send what is new, unless an acknowledgement is awaited: it comes after that."""
        if self._up and (self._due is None or self._awaited_through == 0):
            self._due = now

    def acknowledged(self, journal_id: str, through: int, now: float) -> None:
        """Hear an Ack; one that falls short of what was sent makes it be sent again.

        One that is beyond what was ever written makes the journal begin anew. So it counts as the answer to a hello
        alone: who forges it costs the device no more than one journal a hello.
        """
        if journal_id != self._outbox.journal_id:
            return
        answers_hello, self._hello_open = self._hello_open, False
        if through >= self._outbox.position().next_seq and not answers_hello:
            return
        before = self._outbox.acknowledged
        if through != before:
            self._outbox.acknowledge(through)
        self._awaited_through = 0
        again = self._sent_at + PAUSE_S if through <= before else now
        self._due = max(now, again) if self._up else None

    def report_due(self, now: float) -> Report | None:
        """Return, once, the report that is to be sent now; without an acknowledgement it is due again."""
        if self._due is None or now < self._due:
            return None
        entries = self._outbox.unacknowledged(ENTRIES_PER_REPORT)
        if not entries:
            self._due, self._awaited_through = None, 0
            return None
        self._due, self._awaited_through, self._sent_at = now + AGAIN_S, entries[-1].seq, now
        return Report(journal_id=self._outbox.journal_id, entries=entries)

    def next_due(self) -> float | None:
        """Return when a report is due next."""
        return self._due
