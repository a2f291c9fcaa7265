"""The power goes at any moment: every disk that may be found then leads back to a version that runs.

Real steps, in a child under strace; what may survive of its system calls is replayed (see disk.py).
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from device_agent.slots.files import FilesSlots
from device_agent.slots.ports import SlotError
from tests.device_agent.slots import scenarios
from tests.device_agent.slots.disk import Disk, Model, Tree, parse, write_tree
from tests.device_agent.slots.firmware import COMPONENT, firmware, image, running, update
from tests.device_agent.slots.tracing import trace


@dataclass(frozen=True)
class Promise:
    """What must hold after a power cut, as the marks of scenarios.py say it."""

    versions: frozenset[str | None]
    synced: tuple[str, int] | None = None
    staged: str | None = None
    below: str = ""
    ended: bool = False

    def after(self, mark: str) -> "Promise":
        word, *words = mark.split()
        changes: dict[str, dict[str, Any]] = {
            "may": {"versions": self.versions.union(words)},
            "must": {"versions": frozenset(words)},
            "synced": {"synced": (words[0], int(words[-1])) if word == "synced" else None},
            "staged": {"staged": "".join(words)},
            "free": {"synced": None, "staged": None},
            "in": {"below": "".join(words)},
            "end": {"ended": True},
        }
        return replace(self, **changes[word])


START = {"first": None, "golden": "0.9.0"}


def crashes(scenario: str, directory: Path, model: Model, *bugs: str) -> Iterator[tuple[Promise, Tree]]:
    """Yield each disk that may be found, with what was promised by then."""
    scenarios.PREPARE[scenario](directory)
    disk = Disk(directory, model)
    promise = Promise(frozenset({START.get(scenario, "1.0.0")}))
    for call in parse(trace(scenario, directory, *bugs)):
        said = call.arguments[1] if call.name == "write" else b""
        if isinstance(said, bytes) and said.startswith(b"mark "):
            if scenario != "killed":
                yield from ((promise, tree) for tree in disk.crashes())
            promise = promise.after(said[5:].decode())
            if said.startswith(b"mark must"):
                yield from ((promise, tree) for tree in disk.crashes(promise.below))
            continue
        if call.name in {"fsync", "fdatasync"} and scenario != "killed":
            yield from ((promise, tree) for tree in disk.crashes())
        disk.replay(call)
    assert promise.ended, "the trace was cut short"
    yield from ((promise, tree) for tree in disk.crashes(promise.below))


def violation(directory: Path, promise: Promise, golden: Path | None) -> str | None:
    """Return what is wrong with the slots in a directory after a power cut, if anything is."""
    try:
        slots = FilesSlots(directory, COMPONENT, golden=golden)
        if golden is None:
            _check_found(slots, directory, promise)
        if promise.synced is not None and not promise.staged:
            _check_kept(slots, directory, *promise.synced)
        if promise.staged is not None:
            slots.stage(firmware(promise.staged))
        for _ in range(2):
            slots.revert()
            if (found := running(slots)) not in promise.versions:
                return f"{found} came back, not {set(promise.versions)}"
            if slots.inspect().trial:
                return "the trial did not end"
        update(slots, "4.0.0")
        if running(slots) != "4.0.0":
            return "it could not be updated any more"
    except (AssertionError, SlotError, OSError) as error:
        return f"{type(error).__name__}: {error}"[:300]
    return None


def _check_found(slots: FilesSlots, directory: Path, promise: Promise) -> None:
    """Check what is found before anything is reverted (but where the committed image was damaged beforehand)."""
    found, view = running(slots), slots.inspect()
    assert view.trial or found in promise.versions, f"{found} would run, not {set(promise.versions)}"
    assert found is not None or None in promise.versions, "nothing would run"
    beside = {directory / "a" / "image", directory / "b" / "image"} - {view.running_image}
    assert view.other is None or any(
        path.exists() and path.read_bytes() == image(view.other.version) for path in beside
    ), "the other slot is not what it says"


def _check_kept(slots: FilesSlots, directory: Path, version: str, count: int) -> None:
    target = slots.open_target(firmware(version))
    target.close()
    assert target.kept, "what was downloaded is lost"
    assert (directory / "target").read_bytes()[:count] == image(version)[:count], "what was durable is lost"


def examine(scenario: str, tmp_path: Path, model: Model, *bugs: str, first_only: bool = False) -> tuple[int, list[str]]:
    """Return how many different disks may be found, and what is wrong with them."""
    directory = tmp_path / "slots"
    seen: set[tuple[Promise, tuple[tuple[str, bytes | str | None], ...]]] = set()
    violations: list[str] = []
    for promised, tree in crashes(scenario, directory, model, *bugs):
        # In the strict model a rename between directories may lose both names, and a download with it.
        promise = replace(promised, synced=None, staged=None) if model is Model.STRICT else promised
        key = (promise, tuple(tree.items()))
        if key in seen:
            continue
        seen.add(key)
        found = tmp_path / "found" / "slots"
        write_tree(tree, found)
        golden = scenarios.golden_of(directory)
        wrong = violation(found, promise, golden if golden.exists() else None)
        shutil.rmtree(found)
        if wrong is not None:
            violations.append(wrong)
            if first_only:
                break
    return len(seen), violations


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this process, which only prepares and examines, from waiting for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda _descriptor: None)


@pytest.mark.parametrize("model", Model)
@pytest.mark.parametrize("scenario", scenarios.SCENARIOS)
def test_every_disk_that_a_power_cut_leaves_leads_back_to_a_version_that_runs(
    scenario: str, model: Model, tmp_path: Path
) -> None:
    count, violations = examine(scenario, tmp_path, model)
    assert violations == []
    assert count >= 10, "the model found next to nothing: it does not see what happens"


@pytest.mark.parametrize("bug", scenarios.BUGS)
def test_the_models_see_seeded_bugs(bug: str, tmp_path: Path) -> None:
    scenario = scenarios.SHOWN_BY.get(bug, "update")
    assert any(examine(scenario, tmp_path / model.value, model, bug, first_only=True)[1] for model in Model)
