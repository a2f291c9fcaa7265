"""The power goes at any moment: on every disk that may be found then, a version runs over its own data, or the next.

Real steps, in a child under strace; what may survive of its system calls is replayed (see tests of the slots).
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from device_agent.data import keeper as keeping
from device_agent.data.keeper import DataError
from tests.device_agent.data import scenarios
from tests.device_agent.data.scenarios import ATTEMPT, DATA, LATER, NEW, OLD, begin, firmware_of, keeper_of, migrate
from tests.device_agent.slots.disk import Disk, Model, Tree, parse, write_tree
from tests.device_agent.slots.tracing import trace


def contents(directory: Path) -> Mapping[str, bytes]:
    """What is in the data, but what the application itself had not finished writing."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".new")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def crashes(scenario: str, directory: Path, model: Model, *bugs: str) -> Iterator[tuple[str, Tree]]:
    """Yield each disk that may be found, with what was promised by then."""
    scenarios.prepare(directory)
    disk, promise = Disk(directory, model), "old"
    for call in parse(trace(scenario, directory, *bugs, scenarios=scenarios.__name__)):
        said = call.arguments[1] if call.name == "write" else b""
        if isinstance(said, bytes) and said.startswith(b"mark "):
            yield from ((promise, tree) for tree in disk.crashes())
            promise = said[5:].decode()
            continue
        if call.name in {"fsync", "fdatasync"}:
            yield from ((promise, tree) for tree in disk.crashes())
        disk.replay(call)
    assert promise == "end", "the trace was cut short"


def violation(directory: Path, promise: str) -> str | None:
    """Return what is wrong with the data in a directory after a power cut, if anything is."""
    keeper = keeper_of(directory)
    try:
        if promise == "new":
            before = contents(keeper.directory)
            keeper.settle(NEW)
            assert contents(keeper.directory) == before, "the new version's data was touched"
        else:
            may = [LATER] if promise == "later" else [DATA, LATER]
            for _ in range(2):
                keeper.settle(OLD)
                assert contents(keeper.directory) in may, "the old version's data is not as it left it"
            begin(keeper)
            migrate(keeper)
            keeper.settle(OLD)
            assert contents(keeper.directory) in may, "a next attempt does not lead back"
        assert sorted(path.name for path in directory.iterdir()) == ["data", "data.json"], "something was left"
    except (AssertionError, DataError, OSError) as error:
        return f"{promise}: {type(error).__name__}: {error}"[:300]
    return None


def resumed(directory: Path) -> str | None:
    """Return what is wrong if the attempt goes on after a power cut, and fails then."""
    keeper = keeper_of(directory)
    try:
        keeper.keep(ATTEMPT, firmware_of(NEW), OLD)
        keeper.hand_over(ATTEMPT)
        migrate(keeper)
        keeper.settle(OLD)
        assert contents(keeper.directory) in (DATA, LATER)
    except (AssertionError, DataError, OSError) as error:
        return f"resumed: {type(error).__name__}: {error}"[:300]
    return None


def examine(scenario: str, tmp_path: Path, model: Model, *bugs: str, first_only: bool = False) -> tuple[int, list[str]]:
    """Return how many different disks may be found, and what is wrong with them."""
    seen: set[tuple[str, tuple[tuple[str, bytes | str | None], ...]]] = set()
    violations: list[str] = []
    for promise, tree in crashes(scenario, tmp_path / "disk", model, *bugs):
        key = (promise, tuple(tree.items()))
        if key in seen:
            continue
        seen.add(key)
        for check in [lambda place, promise=promise: violation(place, promise)] + [resumed] * (promise == "old"):
            found = tmp_path / "found"
            write_tree(tree, found)
            wrong = check(found)
            shutil.rmtree(found)
            violations += [wrong] if wrong else []
        if violations and first_only:
            break
    return len(seen), violations


@pytest.fixture(autouse=True)
def _fast_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this process, which only prepares and examines, from waiting for the disk, and from a million lines."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(keeping._LOG, "disabled", True)


@pytest.mark.parametrize("model", Model)
@pytest.mark.parametrize("scenario", scenarios.SCENARIOS)
def test_every_disk_that_a_power_cut_leaves_has_a_version_with_its_own_data(
    scenario: str, model: Model, tmp_path: Path
) -> None:
    count, violations = examine(scenario, tmp_path, model)
    assert violations == []
    assert count >= 10, "the model found next to nothing: it does not see what happens"


@pytest.mark.parametrize("bug", scenarios.BUGS)
def test_the_models_see_seeded_bugs(bug: str, tmp_path: Path) -> None:
    assert any(examine("fall_back", tmp_path / model.value, model, bug, first_only=True)[1] for model in Model)
