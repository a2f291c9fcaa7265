"""D14, D20: with no whole version left a device runs its golden image, over data that this can read, and loses none."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.device.test_device_data import Logger
from tests.support.device_world import Workshop
from tests.support.images import Image

pytestmark = pytest.mark.broker
PAGE = "the first page"


@pytest.fixture
def logger(workshop: Workshop) -> Logger:
    """A device that left the factory with 1.0.0, which is its golden image, too; it keeps data of schema 1."""
    logger = Logger(workshop)
    logger.device.tell("/note", text=PAGE)
    return logger


def ruin(logger: Logger) -> None:
    """Cut the power, and have the flash wear out under both slots; the golden image is the base system's."""
    logger.device.cut_power()
    images = sorted(logger.device.slots.glob("[ab]/image"))
    assert len(images) == 2, "both slots have a version"
    for image in images:
        wear_out(image)


def wear_out(image: Path) -> None:
    """Turn a bit as a worn flash does: no date tells of it."""
    before, content = image.stat(), bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))


def expect_golden_was_copied(logger: Logger, golden: Image) -> None:
    logger.device.agent.wait_for_line(f"the golden image {golden.version} is copied into slot")


def set_aside(logger: Logger) -> list[str]:
    return sorted(path.name for path in logger.log.parent.iterdir() if path.name.startswith((".log", "log.")))


def test_data_that_the_golden_image_cannot_read_is_set_aside_and_the_cloud_brings_the_device_back(
    logger: Logger,
) -> None:
    device, golden, new = logger.device, logger.versions["1.0.0"], logger.versions["2.0.0"]
    device.push(new, "--immediate")
    device.expect_success(new)
    newest = logger.tree()
    assert list(newest) == ["log.json"]
    ruin(logger)
    device.begin()
    expect_golden_was_copied(logger, golden)
    device.agent.wait_for_line("log is set aside as ")
    # It runs, is reached, and has nothing; so the cloud, which still wants the new version there, brings it again.
    device.expect_ends(new, ("succeeded", None), ("succeeded", None))
    device.expect_only(golden, new, golden, new)
    assert logger.tree() == {}, "it begins with nothing"
    assert set_aside(logger) == ["log.set-aside-1"]
    aside = logger.log.with_name("log.set-aside-1")
    assert {path.name: (path.stat().st_mode, path.read_bytes()) for path in aside.iterdir()} == newest
    assert json.loads((aside / "log.json").read_text())["entries"] == [PAGE]


def test_data_that_the_golden_image_reads_is_kept(logger: Logger) -> None:
    device, old, new = logger.device, logger.versions["1.0.0"], logger.versions["2.0.0"]
    device.push(new, "--immediate")
    device.expect_success(new)
    kept = logger.tree()
    give_golden(logger, new)
    ruin(logger)
    device.begin()
    expect_golden_was_copied(logger, new)
    device.expect_only(old, new, new)
    assert logger.tree() == kept
    assert set_aside(logger) == []
    device.tell("/note", text="the second page")
    assert logger.entries() == [PAGE, "the second page"]


def test_ruined_in_a_trial_it_comes_back_to_the_data_from_before_it(logger: Logger) -> None:
    device, golden, bad = logger.device, logger.versions["1.0.0"], logger.versions["2.1.0"]
    before = logger.tree()
    device.push(bad, "--immediate")
    device.wait_until((logger.log / "log.json").exists, "the new version has the data")
    ruin(logger)
    assert logger.tree() != before
    device.begin()
    expect_golden_was_copied(logger, golden)
    device.expect_only(golden, bad, golden)
    device.wait_until(lambda: device.ends(bad)[0][0] == "rolled_back", "its attempt is over")
    assert logger.tree() == before
    assert set_aside(logger) == []


def give_golden(logger: Logger, image: Image) -> None:
    """Have the base system come with another golden image from now on."""
    directory = logger.device.device.directory / "golden"
    shutil.copyfile(image.path, directory / "image")
    described = json.loads(image.path.with_name(f"{image.path.name}.json").read_text())
    record = json.loads((directory / "slot.json").read_text())
    record |= {"version": image.version, "build": image.build, "digest": image.digest, "size_bytes": image.size_bytes}
    record |= {name: described[name] for name in ("data_schema", "reads_schemas")}
    (directory / "slot.json").write_text(json.dumps(record))
