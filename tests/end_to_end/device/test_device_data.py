"""D19: data whose schema changes is synced, saved, and put back, byte for byte, when the new version fails."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.device_world import Workshop

pytestmark = pytest.mark.broker
PRODUCT = "data-logger"


class Logger:
    """A watched device whose application keeps a log."""

    def __init__(self, workshop: Workshop, *, prefix: tuple[str, ...] = ()) -> None:
        self.versions = {version: workshop.sample(PRODUCT, version) for version in ("1.0.0", "2.0.0", "2.1.0", "2.2.0")}
        self.device = workshop.enrol(
            self.versions["1.0.0"],
            product=PRODUCT,
            prefix=prefix,
            env={"FLEETLIFT_LOGGER_EVERY_S": "0"},
            updates={"gauge_interval_s": 1.0},
            component={"data_dir": "state/data/app/log"},
        )
        self.device.begin()

    @property
    def log(self) -> Path:
        return self.device.data / "log"

    def tree(self) -> dict[str, tuple[int, bytes]]:
        """Every file of the data: its mode, and its bytes."""
        return {path.name: (path.stat().st_mode, path.read_bytes()) for path in self.log.iterdir()}

    def entries(self) -> list[str]:
        return list(json.loads((self.log / "log.json").read_text())["entries"])

    def health(self) -> dict[str, Any]:
        rows = self.device.fleet.query("SELECT * FROM device_health WHERE device_id = ?", self.device.device_id)
        return rows[0] if rows else {}


@pytest.fixture
def logger(workshop: Workshop) -> Logger:
    logger = Logger(workshop)
    logger.device.tell("/note", text="the first page")
    return logger


def test_a_new_schema_waits_for_synced_data_and_takes_it_over(logger: Logger) -> None:
    device, new = logger.device, logger.versions["2.0.0"]
    with device.listening() as ear:
        device.push(new, "--immediate")
        assert ear.expect("data_sync_wanted")["data_schema"] == 2
    device.expect_success(new)
    assert logger.entries() == ["the first page"]
    assert [path.name for path in logger.log.iterdir()] == ["log.json"]
    assert not (logger.log.parent / ".log.snapshot").exists()
    device.wait_until(
        lambda: [item["data_schema"] for item in device.fleet.query(
            "SELECT data_schema FROM device_component WHERE device_id = ?", device.device_id
        )] == [2],
        "the cloud knows the schema",
    )  # fmt: skip


def test_a_version_that_fails_leaves_the_data_byte_for_byte_as_it_was(logger: Logger) -> None:
    device, bad = logger.device, logger.versions["2.1.0"]
    before = logger.tree()
    device.push(bad, "--immediate")
    device.expect_ends(bad, ("rolled_back", "health_failed"))
    device.expect(logger.versions["1.0.0"])
    assert device.versions() == ["1.0.0", "2.1.0", "1.0.0"]
    assert logger.tree() == before
    assert [path for path in logger.log.parent.iterdir() if path.name.startswith(".log")] == []


def test_an_application_that_says_nothing_is_waited_for_and_a_person_may_say_it(workshop: Workshop) -> None:
    logger = Logger(workshop, prefix=("env", "FLEETLIFT_CONTROL_SOCKET="))
    device, new = logger.device, logger.versions["2.0.0"]
    device.push(new, "--immediate")
    device.expect_pending(new, "data_sync")
    device.command("data-synced")
    device.expect_success(new)


def test_a_device_that_loses_power_in_the_trial_comes_back_to_its_data(logger: Logger) -> None:
    device, bad = logger.device, logger.versions["2.1.0"]
    before = logger.tree()
    device.push(bad, "--immediate")
    device.wait_until(lambda: len(device.starts()) == 2, "the new version is tried")
    device.cut_power()
    device.begin()
    device.expect_ends(bad, ("rolled_back", "health_failed"))
    device.expect(logger.versions["1.0.0"])
    assert logger.tree() == before


def test_a_version_that_cannot_read_the_data_is_refused_by_the_forecast_and_by_the_device(logger: Logger) -> None:
    device, old, new = logger.device, logger.versions["1.0.0"], logger.versions["2.0.0"]
    device.push(new, "--immediate")
    device.expect_success(new)
    page = device.push(old, "--immediate")
    device.expect_pending(old, "data_schema")
    (waiting,) = device.shown()["pending"]
    assert waiting["detail"] == "cannot read data of schema 2, which 2.0.0 keeps"
    assert page["forecast"]["reach"] == 0
    assert page["forecast"]["holds"] == [
        {"device_id": device.device_id, "reason": "data_schema", "detail": f"1.0.0: {waiting['detail']}"}
    ]
    assert device.attempts(old) == []
    assert logger.entries() == ["the first page"]


def test_crashes_and_gauges_arrive_in_the_cloud(logger: Logger) -> None:
    device, crashing = logger.device, logger.versions["2.2.0"]
    device.wait_until(lambda: json.loads(logger.health().get("gauges", "{}")) == {"log-entries": 1}, "the gauge")
    device.push(crashing, "--immediate")
    device.expect_ends(crashing, ("succeeded", None))
    device.wait_until(
        lambda: logger.health()["digest"] == crashing.digest and logger.health()["crashes"] >= 2, "two crashes"
    )
