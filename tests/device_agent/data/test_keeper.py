"""What keeps data and its version together: who may run over what, and what is never removed."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.data import keeper as keeping
from device_agent.data.keeper import DataError, Reader
from device_agent.slots import durable
from protocol.phases import Reason
from tests.device_agent.data.scenarios import (
    ATTEMPT,
    DATA,
    NEW,
    OLD,
    begin,
    firmware_of,
    keeper_of,
    migrate,
    prepare,
)
from tests.device_agent.data.test_power_cuts import contents

GOLDEN = Reader(digest="9" * 64, schema=0)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_version_that_fails_leaves_the_data_as_it_was(tmp_path: Path) -> None:
    prepare(tmp_path)
    keeper = keeper_of(tmp_path)
    begin(keeper)
    migrate(keeper)
    assert keeper.owes(OLD.digest)
    assert not keeper.owes(NEW.digest)
    keeper_of(tmp_path).settle(OLD)
    assert contents(tmp_path / "data") == DATA
    assert names(tmp_path) == ["data", "data.json"]


def test_a_version_that_is_good_keeps_what_it_made_of_the_data(tmp_path: Path) -> None:
    prepare(tmp_path)
    keeper = keeper_of(tmp_path)
    begin(keeper)
    migrate(keeper)
    made = contents(tmp_path / "data")
    keeper.committed(NEW)
    keeper_of(tmp_path).settle(NEW)
    assert contents(tmp_path / "data") == made
    assert names(tmp_path) == ["data", "data.json"]
    assert keeper.changes(firmware_of(OLD), NEW)
    assert not keeper.changes(firmware_of(NEW), NEW)


def test_what_the_old_version_wrote_after_a_snapshot_is_kept(tmp_path: Path) -> None:
    prepare(tmp_path)
    keeper = keeper_of(tmp_path)
    keeper.keep(ATTEMPT, firmware_of(NEW), OLD)
    (tmp_path / "data" / "book").write_bytes(b"page two")  # started again, as after a power cut
    keeper.keep(ATTEMPT, firmware_of(NEW), OLD)
    keeper.hand_over(ATTEMPT)
    migrate(keeper)
    keeper.settle(OLD)
    assert (tmp_path / "data" / "book").read_bytes() == b"page two"


def test_a_trial_that_starts_again_does_not_save_what_the_new_version_made(tmp_path: Path) -> None:
    prepare(tmp_path)
    keeper = keeper_of(tmp_path)
    begin(keeper)
    migrate(keeper)
    begin(keeper_of(tmp_path))
    keeper.settle(OLD)
    assert contents(tmp_path / "data") == DATA


def test_nothing_is_handed_over_without_a_snapshot(tmp_path: Path) -> None:
    prepare(tmp_path)
    with pytest.raises(DataError, match="no snapshot"):
        keeper_of(tmp_path).hand_over(ATTEMPT)
    keeper_of(tmp_path).keep(ATTEMPT, firmware_of(NEW), OLD)
    with pytest.raises(DataError, match="no snapshot"):
        keeper_of(tmp_path).hand_over("another")


def test_a_version_that_cannot_read_the_data_does_not_get_it(tmp_path: Path) -> None:
    prepare(tmp_path)
    unable = firmware_of(replace(NEW, reads=()))
    with pytest.raises(DataError, match="cannot read data of schema 1") as refused:
        keeper_of(tmp_path).keep(ATTEMPT, unable, OLD)
    assert refused.value.reason is Reason.DATA_FAILED
    assert names(tmp_path) == ["data", "data.json"]


def test_the_golden_image_finds_the_data_of_before_if_it_reads_it(tmp_path: Path) -> None:
    prepare(tmp_path)
    keeper = keeper_of(tmp_path)
    begin(keeper)
    migrate(keeper)
    keeper.settle(replace(GOLDEN, reads=(1,)))
    assert contents(tmp_path / "data") == DATA


def test_data_that_the_golden_image_cannot_read_is_set_aside_and_never_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(tmp_path)
    keeper = keeper_of(tmp_path)
    begin(keeper)
    migrate(keeper)
    for number in (1, 2):  # the second time what it wrote itself, for another version came and went
        keeper.settle(GOLDEN)
        assert contents(tmp_path / "data") == {}
        assert contents(tmp_path / f"data.set-aside-{number}") == (DATA if number == 1 else {"own": b"1"})
        (tmp_path / "data" / "own").write_bytes(b"%d" % number)
        keeper.settle(GOLDEN)
        assert contents(tmp_path / "data") == {"own": b"%d" % number}
        keeper.settle(replace(NEW, reads=(0,)))
        if number == 1:
            assert contents(tmp_path / "data") == {"own": b"1"}
    assert "is set aside as" in caplog.text


def test_a_snapshot_of_which_no_record_is_left_is_set_aside(tmp_path: Path) -> None:
    prepare(tmp_path)
    begin(keeper_of(tmp_path))
    (tmp_path / "data.json").write_text("{")
    keeper_of(tmp_path).settle(OLD)
    assert contents(tmp_path / "data.set-aside-1") == DATA == contents(tmp_path / "data")


def test_a_device_without_a_record_takes_the_data_for_that_of_what_runs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "book").write_bytes(b"found")
    keeper = keeper_of(tmp_path)
    assert keeper.changes(firmware_of(NEW), OLD)
    assert not keeper.changes(firmware_of(NEW), None)
    keeper.settle(OLD)
    begin(keeper)
    (tmp_path / "data" / "book").unlink()
    keeper.settle(OLD)
    assert contents(tmp_path / "data") == {"book": b"found"}


def test_data_that_is_not_there_yet_is_nothing(tmp_path: Path) -> None:
    keeper = keeper_of(tmp_path / "of" / "it")
    (tmp_path / "of" / "it").mkdir(parents=True)
    keeper.settle(OLD)
    begin(keeper)
    (keeper.directory / "new").write_bytes(b"new")
    keeper.settle(OLD)
    assert contents(keeper.directory) == {}


@pytest.mark.parametrize("where", ["copy_tree", "size_of", "store"])
def test_data_that_cannot_be_saved_switches_nothing(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(keeping, where, full)
        with pytest.raises(DataError, match="No space left on device; nothing was switched"):
            keeper_of(tmp_path).keep(ATTEMPT, firmware_of(NEW), OLD)
    keeper_of(tmp_path).settle(OLD)
    assert contents(tmp_path / "data") == DATA
    assert names(tmp_path) == ["data", "data.json"]


def test_room_is_looked_for_before_anything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path)
    monkeypatch.setattr(durable, "free_bytes", lambda _where: 1)
    with pytest.raises(DataError, match="and 1 are free; nothing was switched"):
        keeper_of(tmp_path).keep(ATTEMPT, firmware_of(NEW), OLD)
    assert names(tmp_path) == ["data", "data.json"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").symlink_to("elsewhere")
    with pytest.raises(DataError, match="is not a directory"):
        keeper_of(tmp_path).keep(ATTEMPT, firmware_of(NEW), OLD)


def test_data_that_cannot_be_put_back_stays_owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path)
    keeper = keeper_of(tmp_path)
    begin(keeper)
    migrate(keeper)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "move", broken)
        with pytest.raises(DataError, match="could not be put back"):
            keeper.settle(OLD)
    assert keeper.owes(OLD.digest)
    keeper.settle(OLD)
    assert contents(tmp_path / "data") == DATA
