"""A journal in a file, opened as often as a test wants."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_agent.journal import Journal
from tests.device_agent.journal.entries import NOW

Open = Callable[[], Journal]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def open_journal(path: Path) -> Iterator[Open]:
    """Opens the journal, after closing the one that was opened before."""
    opened: list[Journal] = []

    def reopen() -> Journal:
        while opened:
            opened.pop().close()
        opened.append(Journal(path, lambda: NOW))
        return opened[0]

    yield reopen
    for journal in opened:
        journal.close()


@pytest.fixture
def journal(open_journal: Open) -> Journal:
    return open_journal()
