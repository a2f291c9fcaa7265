"""Whatever a power cut leaves of a device's metadata, what was retired stays retired, and the device finds back.

Each file is damaged in each way, alone and with each other file; then somebody replays all that was good once, and then
the cloud is heard again. What is remembered elsewhere, the floors in the journal, must hold when nothing else does.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from device_agent.journal import Journal
from device_agent.journal_database import JournalError
from device_agent.trust import DeviceTrust, Distrust, TrustError
from device_agent.vetting import RefusedFirmwareError, vetted
from protocol.down import Bundle
from protocol.facts import DeviceFacts
from protocol.phases import Reason
from tests.device_agent.trust.device import PATH, Device
from tests.support.repository import NOW_S, Repository, firmware_ref
from tests.support.simulated_device import no_fsync

NEW_PATH = "thermostat/app/2.0.0"
FACTS = DeviceFacts(device_id="dev-1", hardware_model="pi4", agent_version="0.1.0")
FILES = (
    *("timestamp.json", "snapshot.json", "targets.json", "thermostat.json", "clock.json"),
    *("root_history/1.root.json", "root_history/2.root.json"),
)


@dataclass(frozen=True)
class Past:
    """A repository whose first firmware was retired, a device's files before and after that, and its journal."""

    repository: Repository
    replayed: Bundle
    replayed_files: dict[str, bytes]
    before: Path
    after: Path
    journal: Journal

    def trust(self, directory: Path, ask: Callable[[str], bytes | None]) -> DeviceTrust:
        return DeviceTrust(
            directory,
            self.repository.bootstrap,
            "thermostat",
            ask=ask,
            now=lambda: NOW_S,
            keep_floors=self.journal.raise_floors,
        )

    def would_take(self, trust: DeviceTrust, path: str) -> bool:
        """Tell whether the device would download this firmware, which signed metadata may or may not offer."""
        try:
            trust.refresh()
            signed = trust.signed_firmware(path)
            vetted(firmware_ref(signed.manifest), signed, FACTS, self.journal.floors())
        except TrustError:
            return False
        except RefusedFirmwareError as error:
            if error.reason is not Reason.BELOW_FLOOR:
                raise
            return False
        return True


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    place = tmp_path_factory.mktemp("past")
    repository = Repository("thermostat", "pump")
    repository.add_firmware(b"the image", seq=3)
    repository.raise_floor("thermostat", {"app": 2})
    repository.publish()
    journal = Journal(place / "journal.db", lambda: NOW_S)
    made = Past(repository, repository.bundle(), dict(repository.files), place / "before", place / "after", journal)
    trust = made.trust(made.after, repository.ask)
    assert made.would_take(trust, PATH)
    shutil.copytree(made.after, made.before, symlinks=True)
    repository.rotate_online_key()
    repository.add_firmware(b"the next image", version="2.0.0", seq=9)
    repository.raise_floor("thermostat", {"app": 9})
    repository.publish()
    trust.offer_bundle(repository.bundle())
    assert made.would_take(trust, NEW_PATH)
    assert not made.would_take(trust, PATH)
    yield made
    journal.close()


def _empty(path: Path, _old: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path, _old: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path: Path, _old: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b":") + len(content) // 3] ^= 1
    path.write_bytes(content)


def _gone(path: Path, _old: Path) -> None:
    path.unlink()


def _older(path: Path, old: Path) -> None:
    path.unlink()
    if old.exists():
        shutil.copy(old, path)


def _unreadable(path: Path, _old: Path) -> None:
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a regular file that answers each read with EIO, also to root


DAMAGES = (_empty, _truncated, _flipped, _gone, _older, _unreadable)
HARM = tuple(itertools.product(FILES, DAMAGES))
PAIRS = [pair for pair in itertools.combinations(HARM, 2) if pair[0][0] != pair[1][0]]


def survives(past: Past, directory: Path, *harm: tuple[str, Callable[[Path, Path], None]]) -> None:
    """Damage a device's files, replay the past to it, and let it hear the cloud again."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(past.after, directory, symlinks=True)
    for name, damage in harm:
        damage(directory / name, past.before / name)
    replayer = past.trust(directory, past.replayed_files.get)
    replayer.offer_bundle(past.replayed)
    assert not past.would_take(replayer, PATH)
    trust = past.trust(directory, past.repository.ask)
    trust.offer_bundle(past.repository.bundle())
    assert past.would_take(trust, NEW_PATH)
    assert (trust.root_version, trust.floors()) == (2, {"app": 9})
    assert not past.would_take(trust, PATH)


@pytest.fixture
def _fast_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_fsync)


@pytest.mark.usefixtures("_fast_disks")
def test_one_file_damaged(past: Past, directory: Path) -> None:
    for harm in (*HARM, ("root.json", _gone)):
        survives(past, directory, harm)


@pytest.mark.usefixtures("_fast_disks")
@pytest.mark.parametrize("first", FILES)
def test_two_files_damaged(past: Past, directory: Path, first: str) -> None:
    for pair in PAIRS:
        if pair[0][0] == first:
            survives(past, directory, *pair)


@pytest.mark.usefixtures("_fast_disks")
def test_all_files_damaged(past: Past, directory: Path) -> None:
    for damage in DAMAGES:
        survives(past, directory, *((name, damage) for name in FILES))


def test_without_the_floors_the_replay_would_be_taken(past: Past, directory: Path) -> None:
    """The memory of versions is lost with the files: the test above could fail."""
    forgetful = DeviceTrust(
        directory, past.repository.bootstrap, "thermostat", ask=past.replayed_files.get, now=lambda: NOW_S
    )
    forgetful.offer_bundle(past.replayed)
    forgetful.refresh()
    assert forgetful.signed_firmware(PATH).manifest.seq < past.journal.floors()["app"]


def test_floors_are_kept_when_they_are_verified_and_not_when_somebody_needs_them(
    repository: Repository, directory: Path
) -> None:
    kept: list[dict[str, int]] = []
    aside: list[Callable[[], None]] = []
    trust = DeviceTrust(
        directory,
        repository.bootstrap,
        "thermostat",
        ask=repository.ask,
        now=lambda: NOW_S,
        keep_floors=lambda floors: kept.append(dict(floors)),
        aside=aside.append,
    )
    trust.offer_bundle(repository.bundle())
    assert kept == []
    aside.pop()()
    assert kept == [{"app": 2}]


def test_what_cannot_be_remembered_is_not_taken(device: Device) -> None:
    def full(_floors: object) -> None:
        raise JournalError("the disk is full")

    device.trust = DeviceTrust(
        device.directory,
        device.repository.bootstrap,
        "thermostat",
        ask=device.repository.ask,
        now=lambda: NOW_S,
        keep_floors=full,
    )
    device.refuses(Distrust.STORAGE_FAILED)
    assert device.trust.floors() == {}
    device.refuses(Distrust.STORAGE_FAILED, lambda: device.trust.signed_firmware(PATH))
