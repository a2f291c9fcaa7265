"""The power goes at any moment of a refresh: what was refreshed is remembered, and what was not is fetched again.

Real refreshes, in a child under strace; what may survive of its system calls is replayed (slots/disk.py).
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.trust import DeviceTrust, TrustError
from protocol.codec import encode
from protocol.down import Bundle
from tests.device_agent.slots.disk import CALLS, Disk, Model, Tree, parse, write_tree
from tests.support.brokers import missing_service
from tests.support.repository import NOW_S, Repository
from tests.support.simulated_device import no_fsync

PROGRAM = """
import os, pathlib, sys
from device_agent import metadata
from device_agent.trust import DeviceTrust
from protocol.codec import decode
from protocol.down import Bundle
inputs, directory, now_s, *options = sys.argv[1:]
inputs = pathlib.Path(inputs)
if options == ["unsynced"]:
    def write(path, data, durably=metadata.write_durably):
        durably(path, data) if path.name not in ("timestamp.json", "snapshot.json") else path.write_bytes(data)
    metadata.write_durably = write
def ask(name):
    path = inputs / name
    return path.read_bytes() if path.exists() else None
root = (inputs / "1.root.json").read_bytes()
trust = DeviceTrust(pathlib.Path(directory), root, "thermostat", ask=ask, now=lambda: float(now_s))
for stage in ("a", "b", "c"):
    assert trust.offer_bundle(decode((inputs / f"{stage}.bundle").read_bytes(), Bundle))
    trust.refresh()
    os.write(1, f"mark {stage}".encode())
"""


class History:
    """A repository of three stages, the second with another root and other online keys, as files for the child."""

    def __init__(self, inputs: Path) -> None:
        self.inputs = inputs
        self.repository = Repository("thermostat")
        self.bundles: dict[str, Bundle] = {}
        self.served: dict[str, dict[str, bytes]] = {}
        inputs.mkdir()
        for stage in "abc":
            if stage == "b":
                self.repository.rotate_online_key()
            self.repository.publish()
            self.bundles[stage] = self.repository.bundle()
            self.served[stage] = dict(self.repository.files)
            (inputs / f"{stage}.bundle").write_bytes(encode(self.bundles[stage]))
        for name, content in self.repository.files.items():
            (inputs / name).write_bytes(content)

    def crashes(self, state: Path, model: Model, *options: str) -> Iterator[tuple[str, Tree]]:
        """Yield each disk that may be found, with the last stage that was told to be refreshed."""
        strace = shutil.which("strace")
        if strace is None:
            missing_service("strace is not installed")
        state.mkdir()
        disk, output, done = Disk(state, model), state.with_name("trace"), ""
        tracing = [strace, "-f", "--seccomp-bpf", "-qq", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o"]
        command = [sys.executable, "-c", PROGRAM, str(self.inputs), str(state / "metadata"), str(NOW_S), *options]
        subprocess.run([*tracing, str(output), *command], check=True, cwd=Path(__file__).parents[3])
        for call in parse(output.read_text(encoding="ascii")):
            said = call.arguments[1] if call.name == "write" else b""
            if call.name in {"fsync", "rename"} or (isinstance(said, bytes) and said.startswith(b"mark ")):
                yield from ((done, tree) for tree in disk.crashes())
            if isinstance(said, bytes) and said.startswith(b"mark "):
                done = said[5:].decode()
                yield from ((done, tree) for tree in disk.crashes())
            else:
                disk.replay(call)
        assert done == "c", "the trace was cut short"

    def violation(self, directory: Path, done: str) -> str | None:
        """Return what is wrong with a device that finds these files, if anything is."""
        for stage in "abc"[: "abc".find(done)] if done else "":
            trust = self._trust(directory, stage)
            trust.offer_bundle(self.bundles[stage])
            try:
                trust.refresh()
            except TrustError:
                continue
            return f"{stage} is taken again after {done}"
        trust = self._trust(directory, "c")
        trust.offer_bundle(self.bundles["c"])
        try:
            trust.refresh()
        except TrustError as error:
            return f"after {done or 'nothing'} the newest is refused: {error}"
        return None if trust.root_version == 2 else "the new root is not followed"

    def _trust(self, directory: Path, stage: str) -> DeviceTrust:
        bootstrap = self.repository.bootstrap
        return DeviceTrust(directory, bootstrap, "thermostat", ask=self.served[stage].get, now=lambda: NOW_S)


@pytest.fixture(autouse=True)
def _fast_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_fsync)  # of those who look at what is left; the child is another process


def violations(history: History, place: Path, model: Model, *options: str, since: str = "") -> Iterator[str | None]:
    """Yield for each different disk that may be found (since a stage was done) what is wrong with it, or None."""
    seen = set[str]()
    for done, tree in history.crashes(place / "state", model, *options):
        name = hashlib.sha256(repr((done, sorted(tree.items()))).encode()).hexdigest()
        if done >= since and name not in seen:
            seen.add(name)
            write_tree(tree, place / name)
            yield history.violation(place / name / "metadata", done)
            shutil.rmtree(place / name)


@pytest.mark.parametrize("model", Model)
def test_what_was_refreshed_is_remembered_whenever_the_power_goes(tmp_path: Path, model: Model) -> None:
    found = list(violations(History(tmp_path / "inputs"), tmp_path, model))
    assert set(found) == {None}
    assert len(found) > 50


def test_the_model_sees_files_that_were_not_synced(tmp_path: Path) -> None:
    found = violations(History(tmp_path / "inputs"), tmp_path, Model.JOURNALING, "unsynced", since="c")
    assert any(wrong is not None and "taken again" in wrong for wrong in found)
