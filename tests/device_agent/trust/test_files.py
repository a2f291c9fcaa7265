"""A device's metadata files: private, whole after a power cut, and not missed when they are damaged."""

import inspect
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tuf.ngclient.updater import Updater

from device_agent.trust import Distrust
from protocol.phases import Reason
from protocol.signing import NOTICE_TYPE, pae
from tests.device_agent.trust.device import PATH, Device
from tests.support.brokers import missing_service
from tests.support.repository import NOW_S, Repository, digest_of


def test_a_disk_that_does_not_store(device: Device, directory: Path) -> None:
    (directory / "timestamp.json").mkdir(parents=True)
    assert device.refuses(Distrust.STORAGE_FAILED).reason is Reason.STORAGE_FAILED
    assert not list(directory.glob("tmp*"))
    (directory / "timestamp.json").rmdir()
    device.update()


GARBAGE = [b"", b"null", b"{}", b"[]", b"\xff\xfe", b'{"signed": {}}', b"[" * 100_000, b"1" * 5000, bytes(2000)]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_damaged_files_cost_a_refresh_and_no_more(device: Device, directory: Path, garbage: bytes) -> None:
    device.repository.rotate_root()
    device.repository.publish()
    device.trust.refresh()
    for path in [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]:
        path.write_bytes(garbage)
    device.restart()
    device.trust.refresh()
    assert device.trust.root_version == 2
    assert device.trust.signed_firmware(PATH).length == 9


def test_lost_files_lose_the_memory_of_versions_which_is_why_floors_are_kept_elsewhere(
    device: Device, directory: Path
) -> None:
    old = dict(device.repository.files)
    device.repository.raise_floor("thermostat", {"app": 9})
    device.repository.publish()
    device.update()
    kept_in_the_journal = dict(device.trust.floors())
    shutil.rmtree(directory)
    device.ask = old.get
    device.restart()
    device.trust.refresh()
    assert device.trust.floors() == {"app": 2}
    assert device.trust.signed_firmware(PATH).manifest.seq < kept_in_the_journal["app"]


def test_a_stored_root_is_believed_only_if_the_one_before_signed_it(device: Device, directory: Path) -> None:
    device.update()
    mallory = Repository("thermostat")
    mallory.publish_root()
    (directory / "root_history" / "2.root.json").write_bytes(mallory.files["2.root.json"])
    device.restart()
    assert device.trust.root_version == 1
    device.update()
    assert device.trust.root_version == 1


def test_files_are_private(repository: Repository, directory: Path) -> None:
    (directory / "root_history").mkdir(parents=True, mode=0o755)
    device = Device(directory, repository)
    device.repository.rotate_root()
    device.repository.publish()
    device.update()
    paths = [path for path in directory.rglob("*") if not path.is_symlink()]
    assert {path.name for path in paths} >= {"timestamp.json", "thermostat.json", "2.root.json", "clock.json"}
    for path in (directory, *paths):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert not list(directory.rglob("tmp*"))


def test_the_private_parts_of_python_tuf_that_are_overridden_are_there() -> None:
    assert list(inspect.signature(Updater._persist_file).parameters) == ["self", "filename", "data"]
    assert list(inspect.signature(Updater._update_root_symlink).parameters) == ["self"]
    source = inspect.getsource(Updater)
    # Every way to the disk goes through the two, and nothing else of python-tuf writes metadata.
    assert source.count("self._persist_file(") == 2
    assert source.count("self._update_root_symlink(") == 2
    assert source.count("os.replace(") == source.count("os.symlink(") == 1


def run_offline(
    directory: Path, repository: Repository, *prefix: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Refresh from a bundle in a process of its own, and say what is signed."""
    inputs = directory.parent / "inputs"
    inputs.mkdir(parents=True)
    (inputs / "root.json").write_bytes(repository.bootstrap)
    for name, text in repository.bundle().files.items():
        (inputs / name).write_text(text)
    message = pae(NOTICE_TYPE, b"{}")
    signed = repository.sign_message(message)[0]
    program = f"""
import pathlib, sys
{before}
from device_agent.trust import DeviceTrust, TrustError
from protocol.down import Bundle
from protocol.signing import Signature, pae
inputs = pathlib.Path({str(inputs)!r})
def ask(name):
    raise TimeoutError(name)
trust = DeviceTrust(
    pathlib.Path({str(directory)!r}), (inputs / "root.json").read_bytes(), "thermostat", ask=ask, now=lambda: {NOW_S!r}
)
files = {{path.name: path.read_text() for path in inputs.iterdir() if path.name != "root.json"}}
assert trust.offer_bundle(Bundle(product="thermostat", root_version=1, files=files))
trust.refresh()
print(trust.signed_firmware({PATH!r}).sha256)
message = pae({NOTICE_TYPE!r}, b"{{}}")
trust.verify(message, [Signature(keyid={signed.keyid!r}, sig={signed.sig!r})])
try:
    trust.verify(message + b" ", [Signature(keyid={signed.keyid!r}, sig={signed.sig!r})])
except TrustError as error:
    print(error.code)
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("cryptography", "nacl")))
"""
    command = [*prefix, sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])


def test_it_works_without_compiled_cryptography(directory: Path, repository: Repository) -> None:
    blocked = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("cryptography", "nacl"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""
    said = run_offline(directory, repository, before=blocked).stdout.split("\n")
    assert said[:3] == [digest_of(b"the image"), "bad_signature", "[]"]


def test_a_power_cut_leaves_whole_files(directory: Path, repository: Repository) -> None:
    strace = shutil.which("strace")
    if strace is None:
        missing_service("strace is not installed")
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,symlink,symlinkat,mkdir,mkdirat"
    run = run_offline(directory, repository, strace, "-f", "-y", "-e", calls, "-e", "signal=none")
    trace = [line for line in run.stderr.splitlines() if str(directory.parent) in line and line.endswith("= 0")]
    renamed = made_directories = 0
    for number, line in enumerate(trace):
        if (made := re.search(r'mkdir\w*\([^"]*"([^"]+)"', line)) and made[1].startswith(str(directory)):
            made_directories += 1
            assert any("fsync(" in later and f"<{Path(made[1]).parent}>" in later for later in trace[number:]), line
        if (made := re.search(r'rename\w*\([^"]*"([^"]+)",[^"]*"([^"]+)"', line)) is None:
            continue
        source, target = made.groups()
        renamed += 1
        if not target.endswith("/root.json"):  # the link has no contents of its own
            assert any("fsync(" in earlier and f"<{source}>" in earlier for earlier in trace[:number]), line
        assert any("fsync(" in later and f"<{Path(target).parent}>" in later for later in trace[number + 1 :]), line
    assert renamed == 7  # root and its link, timestamp, snapshot, targets, the product's role, the clock
    assert made_directories == 2


def test_a_second_refresh_writes_nothing_that_is_there(directory: Path, device: Device) -> None:
    device.update()
    before = {path: path.lstat().st_mtime_ns for path in directory.rglob("*") if not path.is_dir()}
    device.update()
    assert {path: path.lstat().st_mtime_ns for path in directory.rglob("*") if not path.is_dir()} == before
