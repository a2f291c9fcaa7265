"""The agent's memory: where it stands, what it has to tell, what it was told, and what it learnt; all of it durable.

Nothing that is to be told is lost: entries are numbered without gaps, stored together with the step that they tell of,
and kept until long after the cloud acknowledged them, for an acknowledgement can be forged and the cloud's truth
comes with the next hello. Only the counters of refusals may lose the last few (they are stored with what is stored
next), so that a flood of bad messages does not wear out the device's storage.

Thread-safe. Times are milliseconds since 1970 by the device's clock. What cannot be stored raises JournalError, and
then nothing was; what is read and garbled counts as not there, and is logged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from device_agent.admission import Answer, BackOff
from device_agent.events import Snapshot
from device_agent.journal_chunks import ChunkStore
from device_agent.journal_database import Database, JournalError, ProcessLock
from device_agent.vitals import CrashCounts
from protocol.codec import decode, encode
from protocol.errors import IdentityError, ProtocolError
from protocol.identity import check_id
from protocol.up import AttemptEntry, Entry, JournalPosition
from protocol.values import MAX_ATTRIBUTES, MAX_FAILED, ComponentState

KEPT_ENTRIES: Final = 1000
"""Acknowledged entries that are kept, should the cloud after all not have them."""
KEPT_FAILED: Final = 1000
MAX_SNAPSHOT_BYTES: Final = 1024 * 1024
MAX_DIGITS: Final = 15
"""Of a number among the facts: below 2**53."""
_LOG = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest message of a channel that the device accepted, as it was received."""

    seq: int
    payload: bytes

    @property
    def sha256(self) -> bytes:
        """Tell it from another of the same number."""
        return hashlib.sha256(self.payload).digest()


@dataclass(frozen=True, slots=True)
class Disabling:
    """Updates are disabled, until a time or until they are enabled; `duration_ms` is how long it was to last."""

    until_ms: int | None = None
    duration_ms: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Answers:
    """What somebody at the device said of releases, oldest first."""

    answers: tuple[Answer, ...] = ()


class Journal:
    """One device's journal at `path`; holds `agent.lock` beside it for as long as it is open.

    Raises UserError if another agent has it or a newer one wrote it, JournalError if it cannot be opened.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = ProcessLock(path.with_name("agent.lock"))
        try:
            self._database = Database(path)
            self.chunks = ChunkStore(self._database)
            if not self._is_numbered():
                with self.transaction():
                    self._begin_anew()
            self._refused: dict[str, int] = dict(self._database.rows("SELECT code, count FROM refused"))
        except BaseException:
            self._lock.release()
            raise
        self._uncounted: set[str] = set()
        self._database.before_commit = self._store_counters

    def close(self) -> None:
        """Store the counters and let another agent have the state directory; idempotent."""
        if self._uncounted:
            with contextlib.suppress(JournalError), self.transaction():
                pass
        self._database.close()
        self._lock.release()

    def transaction(self) -> AbstractContextManager[None]:
        """Store everything written inside together, or nothing of it."""
        return self._database.transaction()

    # Where the device stands.

    def load(self) -> Snapshot:
        """Return the stored snapshot; an idle one if there is none, or none that this agent understands."""
        stored = self._fact("snapshot")
        return (_understood(stored, Snapshot) if stored else None) or Snapshot()

    def save(self, snapshot: Snapshot, told: AttemptEntry | None = None) -> int | None:
        """Store a step and what it tells together; returns the entry's number."""
        with self.transaction():
            self._set_fact("snapshot", encode(snapshot.stored).decode())
            return None if told is None else self.append(attempt=told)

    # What it has to tell.

    @property
    def journal_id(self) -> str:
        """The journal that entries are numbered in."""
        return self._fact("journal_id") or ""

    @property
    def acknowledged(self) -> int:
        """The number up to which the cloud said last that it has them."""
        return self._number("acknowledged")

    def position(self) -> JournalPosition:
        """Return the journal's id and the number of its next entry."""
        return JournalPosition(journal_id=self.journal_id, next_seq=self._last_seq() + 1)

    def append(self, *, attempt: AttemptEntry | None = None, installed: ComponentState | None = None) -> int:
        """Store an entry; returns its number, one more than the one before."""
        with self.transaction():
            seq = self._last_seq() + 1
            entry = Entry(seq=seq, at_ms=max(0, int(self._now() * 1000)), attempt=attempt, installed=installed)
            self._database.write("INSERT INTO entries VALUES (?, ?)", seq, encode(entry).decode())
            self._set_fact("last_seq", str(seq))
            return seq

    def unacknowledged(self, limit: int) -> tuple[Entry, ...]:
        """Return the first entries that the cloud does not have, at most `limit`, ascending."""
        entries, whole = self._entries(limit)
        if not whole:
            with self.transaction():
                self._begin_anew()
            entries, _ = self._entries(limit)
        return entries

    def _entries(self, limit: int) -> tuple[tuple[Entry, ...], bool]:
        """Return the first entries as far as they are understood, and whether they are all, without a gap."""
        rows = self._database.rows("SELECT seq, body FROM entries ORDER BY seq LIMIT ?", limit)
        entries = [entry for _, body in rows if (entry := _understood(body, Entry)) is not None]
        numbers = [seq for seq, _ in rows]
        return tuple(entries), numbers == [entry.seq for entry in entries] and numbers == [
            *range(numbers[0] if numbers else 0, (numbers[0] if numbers else 0) + len(numbers))
        ]

    def acknowledge(self, through: int) -> None:
        """Note what the cloud says that it has: it may be less than it said before, and then is sent again.

        If it has more than was ever written here, this journal was set back (restored from a copy); if it lacks what
        was dropped here long ago, it was set back itself. Either way what it does not have is told in a new journal.
        """
        with self.transaction():
            if through > self._last_seq():
                self._begin_anew()
                return
            self._set_fact("acknowledged", str(through))
            for source, destination, which in (("entries", "told", "<="), ("told", "entries", ">")):
                self._database.write(
                    f"INSERT OR REPLACE INTO {destination} SELECT * FROM {source} WHERE seq {which} ?",  # noqa: S608
                    through,
                )
                self._database.write(f"DELETE FROM {source} WHERE seq {which} ?", through)  # noqa: S608
            self._database.write("DELETE FROM told WHERE seq <= ?", through - KEPT_ENTRIES)
            ((first,),) = self._database.rows("SELECT min(seq) FROM entries")
            if first is not None and first > through + 1:
                self._begin_anew()

    def _begin_anew(self) -> None:
        untold, _ = self._entries(-1)
        self._database.write("DELETE FROM entries")
        self._database.write("DELETE FROM told")
        self._set_fact("journal_id", secrets.token_hex(6))
        self._set_fact("acknowledged", "0")
        self._set_fact("last_seq", str(len(untold)))
        for seq, entry in enumerate(untold, start=1):
            body = encode(dataclasses.replace(entry, seq=seq)).decode()
            self._database.write("INSERT INTO entries VALUES (?, ?)", seq, body)

    def _is_numbered(self) -> bool:
        """Tell whether there is a journal, and its numbers are those of its entries."""
        try:
            check_id(self.journal_id, "journal_id")
        except IdentityError:
            return False
        ((highest,),) = self._database.rows("SELECT max(seq) FROM (SELECT seq FROM entries UNION SELECT seq FROM told)")
        return (highest or 0) <= self._last_seq()

    def _last_seq(self) -> int:
        return self._number("last_seq")

    # What it was told.

    @property
    def session(self) -> int:
        """The number of the last session, 0 before the first."""
        return self._number("session")

    def next_session(self) -> int:
        """Return the number of a new session: one more than the last, over all restarts."""
        with self.transaction():
            session = self.session + 1
            self._set_fact("session", str(session))
            return session

    def seen(self, channel: str) -> Seen | None:
        """Return the newest message accepted on a channel (`<group>/<component>`, or `desired`)."""
        rows = self._database.rows("SELECT seq, payload FROM seen WHERE channel = ?", channel)
        return Seen(int(rows[0][0]), bytes(rows[0][1])) if rows else None

    def all_seen(self) -> Mapping[str, Seen]:
        """Return the newest message of every channel."""
        rows = self._database.rows("SELECT channel, seq, payload FROM seen")
        return {channel: Seen(int(seq), bytes(payload)) for channel, seq, payload in rows}

    def keep_seen(self, channel: str, seq: int, payload: bytes) -> None:
        """Store the newest message of a channel."""
        self._database.write("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", channel, seq, payload)

    def floors(self) -> Mapping[str, int]:
        """Return the highest minimum `seq` of each component that signed metadata ever stated."""
        return dict(self._database.rows("SELECT component, seq FROM floors"))

    def raise_floors(self, floors: Mapping[str, int]) -> None:
        """Store what is higher than before."""
        known = self.floors()
        higher = {component: seq for component, seq in floors.items() if seq > known.get(component, 0)}
        if higher:
            with self.transaction():
                for component, seq in higher.items():
                    self._database.write("INSERT OR REPLACE INTO floors VALUES (?, ?)", component, seq)

    # What it learnt of digests.

    def forget_chunks(self, image: str) -> None:
        """Forget which chunks of an image were received."""
        self.chunks.forget(image)

    def failed(self) -> Mapping[str, int]:
        """Return the digests that failed here, newest first, with the order of the decision that each failed for."""
        return dict(self._database.rows('SELECT digest, "order" FROM failed ORDER BY number DESC'))

    def condemn(self, digest: str, order: int) -> None:
        """Store that a digest failed here."""
        with self.transaction():
            number = self._number("condemned") + 1
            self._set_fact("condemned", str(number))
            self._database.write("INSERT OR REPLACE INTO failed VALUES (?, ?, ?)", digest, order, number)
            self._database.write("DELETE FROM failed WHERE number <= ?", number - KEPT_FAILED)

    def pardon(self, digest: str) -> None:
        """Forget whatever failed with a digest: it succeeded."""
        with self.transaction():
            self._database.write("DELETE FROM failed WHERE digest = ?", digest)
            self._database.write("DELETE FROM backing_off WHERE digest = ?", digest)

    def reported_failed(self) -> tuple[str, ...]:
        """Return the newest failed digests, as many as a message holds."""
        return tuple(list(self.failed())[:MAX_FAILED])

    def back_off(self, digest: str) -> BackOff | None:
        """Return how often a digest could not be had."""
        rows = self._database.rows("SELECT failures, at_ms FROM backing_off WHERE digest = ?", digest)
        return BackOff(failures=rows[0][0], failed_at_ms=rows[0][1]) if rows else None

    def note_failure(self, digest: str) -> None:
        """Store that a digest could not be had, once more."""
        before = self.back_off(digest)
        failures = before.failures + 1 if before else 1
        at_ms = max(0, int(self._now() * 1000))
        self._database.write("INSERT OR REPLACE INTO backing_off VALUES (?, ?, ?)", digest, failures, at_ms)

    # What runs, and whether it lets itself be updated.

    def installed(self) -> Mapping[str, ComponentState]:
        """Return each component as it was last found, or brought, to run for good."""
        rows = self._database.rows("SELECT component, body FROM installed")
        states = {component: _understood(body, ComponentState) for component, body in rows}
        return {component: state for component, state in states.items() if state is not None}

    def keep_installed(self, state: ComponentState) -> None:
        """Store what a component runs for good."""
        self._database.write("INSERT OR REPLACE INTO installed VALUES (?, ?)", state.component, encode(state).decode())

    def disabling(self) -> Disabling | None:
        """Return that updates are disabled, or None."""
        stored = self._fact("disabled")
        return _understood(stored, Disabling) if stored else None

    def set_disabling(self, disabling: Disabling | None) -> None:
        """Store that updates are disabled, or that they are not."""
        self._set_fact("disabled", encode(disabling).decode() if disabling else "")

    def answers(self) -> tuple[Answer, ...]:
        """Return what somebody at the device said of releases, oldest first."""
        stored = self._fact("answers")
        return ((_understood(stored, Answers) if stored else None) or Answers()).answers

    def keep_answers(self, answers: tuple[Answer, ...]) -> None:
        """Store what somebody at the device said of releases."""
        self._set_fact("answers", encode(Answers(answers)).decode())

    def holders_boot(self) -> str:
        """Return the boot of the device in which somebody last held updates, or the empty text."""
        return self._fact("holders_boot") or ""

    def set_holders_boot(self, boot_id: str) -> None:
        """Store in which boot of the device somebody holds updates."""
        self._set_fact("holders_boot", boot_id)

    def crashes(self) -> CrashCounts:
        """Return how often digests crashed."""
        stored = self._fact("crashes")
        return (_understood(stored, CrashCounts) if stored else None) or CrashCounts()

    def keep_crashes(self, crashes: CrashCounts) -> None:
        """Store how often digests crashed."""
        self._set_fact("crashes", encode(crashes).decode())

    # Refusals.

    def refuse(self, code: str) -> None:
        """Count a message refused; stored with what is stored next."""
        with self._database.guard:
            if code not in self._refused and len(self._refused) >= MAX_ATTRIBUTES - 1:
                code = "other"
            self._refused[code] = self._refused.get(code, 0) + 1
            self._uncounted.add(code)

    def refused(self) -> Mapping[str, int]:
        """Return how many messages were refused, by code."""
        return dict(self._refused)

    def _store_counters(self) -> None:
        for code in self._uncounted:
            self._database.write("INSERT OR REPLACE INTO refused VALUES (?, ?)", code, self._refused[code])
        self._uncounted.clear()

    # Facts.

    def _fact(self, name: str) -> str | None:
        rows = self._database.rows("SELECT value FROM facts WHERE name = ?", name)
        return str(rows[0][0]) if rows else None

    def _number(self, name: str) -> int:
        stored = self._fact(name) or ""
        return int(stored) if len(stored) <= MAX_DIGITS and stored.isascii() and stored.isdecimal() else 0

    def _set_fact(self, name: str, value: str) -> None:
        self._database.write("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)


def _understood(stored: str, kind: type[T]) -> T | None:
    try:
        return decode(stored, kind, max_bytes=MAX_SNAPSHOT_BYTES)
    except ProtocolError as error:
        _LOG.error("what the journal holds of %s is not understood, and counts as not there: %s", kind.__name__, error)
        return None
