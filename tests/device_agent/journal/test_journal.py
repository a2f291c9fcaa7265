"""The journal on a real disk: what is stored together, what survives, and what is refused."""

import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent.events import Snapshot
from device_agent.journal import KEPT_ENTRIES, Disabling, Journal
from device_agent.journal_database import SCHEMA_VERSION, JournalError
from protocol.errors import UserError
from protocol.phases import Phase
from protocol.values import MAX_ATTRIBUTES, MAX_FAILED, ComponentState
from tests.device_agent.journal.entries import NOW, told
from tests.support.processes import Processes
from tests.support.updates import attempt, digest_of, firmware

Open = Callable[[], Journal]


def numbers(journal: Journal) -> list[int]:
    return [entry.seq for entry in journal.unacknowledged(10_000)]


# What it keeps.


def test_a_new_journal_is_empty_and_private(journal: Journal, path: Path) -> None:
    assert journal.load() == Snapshot()
    assert journal.position().next_seq == 1
    assert journal.unacknowledged(10) == ()
    assert (journal.disabling(), journal.failed(), journal.floors(), journal.installed()) == (None, {}, {}, {})
    for file in (path, path.with_name("agent.lock")):
        assert file.stat().st_mode & 0o777 == 0o600


def test_it_remembers(journal: Journal, open_journal: Open) -> None:
    snapshot = Snapshot(phase=Phase.PROVING, attempt=attempt(), told=Phase.PROVING, trials=2, stores=7)
    state = ComponentState(component="app", version="1.0.0", build=1, digest=digest_of("x"))
    position = journal.position()
    journal.save(snapshot, told())
    journal.keep_seen("everyone/app", 5, b"payload")
    journal.condemn(digest_of("bad"), 9)
    journal.note_failure(digest_of("gone"))
    journal.raise_floors({"app": 3})
    journal.keep_installed(state)
    journal.set_disabling(Disabling(1000, 500, "dosing"))
    journal.set_holders_boot("boot")
    journal.chunks.save_bitmap("i", "b", b"\x03")
    journal.chunks.save_chunk_list("i", "l", b"list")
    journal.refuse("bad_chunk")
    assert journal.next_session() == 1
    again = open_journal()
    assert again.load() == snapshot
    assert numbers(again) == [1]
    assert again.unacknowledged(1)[0].attempt == told()
    assert again.unacknowledged(1)[0].at_ms == 1_800_000_000_500
    assert again.position().journal_id == position.journal_id
    assert (again.all_seen()["everyone/app"].seq, again.all_seen()["everyone/app"].payload) == (5, b"payload")
    assert again.failed() == {digest_of("bad"): 9}
    back_off = again.back_off(digest_of("gone"))
    assert back_off is not None
    assert (back_off.failures, back_off.failed_at_ms) == (1, 1_800_000_000_500)
    assert again.floors() == {"app": 3}
    assert again.installed() == {"app": state}
    assert again.disabling() == Disabling(1000, 500, "dosing")
    assert again.holders_boot() == "boot"
    assert (again.chunks.bitmap("i", "b"), again.chunks.chunk_list("l")) == (b"\x03", b"list")
    assert again.refused() == {"bad_chunk": 1}
    assert again.next_session() == 2


def test_floors_only_rise(journal: Journal) -> None:
    journal.raise_floors({"app": 5, "os": 1})
    journal.raise_floors({"app": 3, "os": 2})
    assert journal.floors() == {"app": 5, "os": 2}


def test_chunks_are_forgotten_by_image(journal: Journal) -> None:
    for image in ("x", "y"):
        journal.chunks.save_bitmap(image, "b", image.encode())
        journal.chunks.save_chunk_list(image, f"list of {image}", b"")
    journal.chunks.forget_others("x")
    assert (journal.chunks.bitmap("x", "b"), journal.chunks.bitmap("y", "b")) == (b"x", None)
    assert journal.chunks.chunk_list("list of y") is None
    journal.chunks.forget("x")
    assert journal.chunks.bitmap("x", "b") is None
    assert journal.chunks.chunk_list("list of x") is None


def test_a_success_pardons(journal: Journal) -> None:
    digest = firmware().digest
    journal.condemn(digest, 1)
    journal.note_failure(digest)
    journal.pardon(digest)
    assert journal.failed() == {}
    assert journal.back_off(digest) is None


def test_the_newest_failures_are_reported(journal: Journal) -> None:
    with journal.transaction():
        for number in range(MAX_FAILED + 10):
            journal.condemn(digest_of(str(number)), 1)
    assert len(journal.reported_failed()) == MAX_FAILED
    assert journal.reported_failed()[0] == digest_of(str(MAX_FAILED + 9))
    assert len(journal.failed()) == MAX_FAILED + 10


def test_refusals_are_bounded_and_cost_no_write(journal: Journal, open_journal: Open) -> None:
    before = journal._database._connection.total_changes
    for number in range(3 * MAX_ATTRIBUTES):
        journal.refuse(f"code-{number}")
    assert journal._database._connection.total_changes == before
    assert len(journal.refused()) == MAX_ATTRIBUTES
    assert sum(journal.refused().values()) == 3 * MAX_ATTRIBUTES
    assert open_journal().refused() == journal.refused()


# What it has to tell.


def test_entries_are_numbered_without_gaps(journal: Journal) -> None:
    assert [journal.append(attempt=told(str(number))) for number in range(5)] == [1, 2, 3, 4, 5]
    assert numbers(journal) == [1, 2, 3, 4, 5]
    assert [entry.seq for entry in journal.unacknowledged(2)] == [1, 2]
    assert journal.position().next_seq == 6


def test_what_is_acknowledged_is_not_told_again_unless_the_cloud_takes_it_back(journal: Journal) -> None:
    for number in range(5):
        journal.append(attempt=told(str(number)))
    journal.acknowledge(4)
    assert (numbers(journal), journal.acknowledged) == ([5], 4)
    journal.acknowledge(2)
    assert numbers(journal) == [3, 4, 5]
    journal.acknowledge(5)
    assert numbers(journal) == []
    assert journal.append(attempt=told("next")) == 6


def test_old_acknowledged_entries_are_dropped(journal: Journal) -> None:
    with journal.transaction():
        for number in range(KEPT_ENTRIES + 20):
            journal.append(attempt=told(str(number)))
    journal.acknowledge(KEPT_ENTRIES + 20)
    journal.acknowledge(20)
    assert len(numbers(journal)) == KEPT_ENTRIES
    assert numbers(journal)[-1] == KEPT_ENTRIES + 20


def test_a_cloud_that_lacks_what_was_dropped_is_told_the_rest_in_a_new_journal(journal: Journal) -> None:
    before = journal.journal_id
    with journal.transaction():
        for number in range(KEPT_ENTRIES + 20):
            journal.append(attempt=told(str(number)))
    journal.acknowledge(KEPT_ENTRIES + 20)
    journal.acknowledge(7)  # it was restored from an old copy
    assert journal.journal_id != before
    assert numbers(journal) == list(range(1, KEPT_ENTRIES + 1))


def test_a_journal_that_was_set_back_begins_anew(journal: Journal) -> None:
    before = journal.journal_id
    for number in range(4):
        journal.append(attempt=told(str(number)))
    journal.acknowledge(2)
    journal.acknowledge(90)  # of a life that this copy of the disk knows nothing of
    assert journal.journal_id != before
    assert [(entry.seq, entry.attempt.attempt_id if entry.attempt else "") for entry in journal.unacknowledged(9)] == [
        (1, "2"),
        (2, "3"),
    ]
    assert journal.position().next_seq == 3


# All or nothing.


def test_what_is_written_together_is_stored_together(journal: Journal, open_journal: Open) -> None:
    def stumble() -> None:
        with journal.transaction():
            journal.save(Snapshot(phase=Phase.PROVING, attempt=attempt()), told())
            with journal.transaction():
                journal.condemn(digest_of("x"), 1)
            raise RuntimeError

    def check(of: Journal) -> None:
        assert (of.load(), numbers(of), of.failed()) == (Snapshot(), [], {})

    with pytest.raises(RuntimeError):
        stumble()
    check(journal)
    again = open_journal()
    check(again)
    assert again.append(attempt=told()) == 1


def test_an_uncommitted_step_dies_with_the_process(path: Path, processes: Processes) -> None:
    child = processes.start(
        sys.executable,
        "-c",
        "import sys, time; from pathlib import Path; from device_agent.journal import *; "
        "journal = Journal(Path(sys.argv[1]), time.time); "
        "journal.set_holders_boot('stored'); "
        "block = journal.transaction(); block.__enter__(); journal.set_holders_boot('not stored'); "
        "print('now', flush=True); time.sleep(60)",
        path,
    )
    child.wait_for_line("now")
    child.kill()
    journal = Journal(path, lambda: NOW)
    assert journal.holders_boot() == "stored"
    journal.close()


def test_a_full_disk_changes_nothing_and_is_survived(journal: Journal, open_journal: Open) -> None:
    pages = journal._database.rows("PRAGMA page_count")[0][0]
    journal.append(attempt=told("before"))
    journal._database._connection.execute(f"PRAGMA max_page_count={pages}")

    def fill() -> None:
        for number in range(1000):
            journal.save(Snapshot(phase=Phase.PROVING, attempt=attempt(attempt_id=str(number))), told(str(number)))

    with pytest.raises(JournalError, match="full"):
        fill()
    stored = numbers(journal)
    assert stored == list(range(1, len(stored) + 1))
    last = journal.load().attempt
    assert (last.attempt_id if last else "before") == journal.unacknowledged(1000)[-1].attempt.attempt_id  # type: ignore[union-attr]
    journal._database._connection.execute("PRAGMA max_page_count=100000")
    assert journal.append(attempt=told("after")) == len(stored) + 1
    assert numbers(open_journal()) == list(range(1, len(stored) + 2))


def test_a_log_that_was_torn_costs_at_most_its_end(journal: Journal, path: Path) -> None:
    for number in range(20):
        journal.append(attempt=told(str(number)))
    log = path.with_name("journal.db-wal").read_bytes()
    database = path.read_bytes()
    journal.close()
    for length in range(0, len(log), max(1, len(log) // 40)):
        for suffix in ("", "-wal", "-shm"):
            path.with_name(f"journal.db{suffix}").unlink(missing_ok=True)
        path.write_bytes(database)
        path.with_name("journal.db-wal").write_bytes(log[:length] + os.urandom(300))
        again = Journal(path, lambda: NOW)
        stored = numbers(again)
        assert stored == list(range(1, len(stored) + 1))
        assert again.position().next_seq == len(stored) + 1
        again.close()


def test_threads_share_it(journal: Journal) -> None:
    def work(name: str) -> None:
        for number in range(50):
            with journal.transaction():
                journal.append(attempt=told(f"{name}-{number}"))
                journal.chunks.save_bitmap(name, "b", bytes([number]))
            journal.refuse(name)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(journal) == list(range(1, 201))
    assert journal.refused() == {f"t{number}": 50 for number in range(4)}


# Whose it is, and which.


def test_a_second_agent_is_refused(journal: Journal, path: Path, open_journal: Open) -> None:
    with pytest.raises(UserError, match="another agent runs on") as refused:
        Journal(path, lambda: NOW)
    assert refused.value.exit_code == 5
    journal.append(attempt=told())
    assert numbers(open_journal()) == [1]


def test_the_lock_dies_with_its_holder(path: Path, processes: Processes) -> None:
    child = processes.start(
        sys.executable,
        "-c",
        "import sys, time; from pathlib import Path; from device_agent.journal import *; "
        "journal = Journal(Path(sys.argv[1]), time.time); print('open', flush=True); time.sleep(60)",
        path,
    )
    child.wait_for_line("open")
    with pytest.raises(UserError):
        Journal(path, lambda: NOW)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    Journal(path, lambda: NOW).close()


def test_a_newer_schema_is_refused_and_left_alone(journal: Journal, path: Path) -> None:
    journal.close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="newer agent"):
        Journal(path, lambda: NOW)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir() if "damaged" in file.name] == []


def test_a_state_directory_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        Journal(tmp_path / "nowhere" / "journal.db", lambda: NOW)


def test_every_commit_is_synchronous(journal: Journal) -> None:
    assert journal._database.rows("PRAGMA synchronous") == [(2,)]  # FULL
    assert journal._database.rows("PRAGMA journal_mode") == [("wal",)]
