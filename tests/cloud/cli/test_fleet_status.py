"""`fleetlift status`: the fleet as a whole, for people and for programs."""

import time

import pytest

from cloud.cli.fleet_status import _metadata_lines
from cloud.cli.initialise import database_url
from cloud.config import Home, load_settings
from cloud.store.store import Store
from tests.cloud.cli.deeds import push, refusal, take
from tests.cloud.cli.offices import Office
from tests.cloud.homes import PRODUCT
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def busy(office: Office) -> Office:
    """An office with a release that one of two devices went back from."""
    assert "No device has joined yet" in office.call("status").out
    push(office, "1.1.0")
    (made,) = office.json("release", "list")
    source = made["release"]["release_id"]
    with office.device("status-1") as good, office.device("status-2") as bad:
        take(office, good, "status-1", source, "1.1.0")
        take(office, bad, "status-2", source, "1.1.0", good=False)
        wait_until(
            lambda: office.json("status")["products"][0]["failures"] == {"health_failed": 1}, what="the second report"
        )
    return office


def test_what_fails_and_who_needs_somebody(busy: Office) -> None:
    said = busy.call("status").out
    assert "1 device failed at the newest attempt: health failed" in said
    assert f"1 device of {PRODUCT}: rolled back\n  status-2: app 1.1.0: health failed (503), ended " in said
    page = busy.json("status")
    assert page["products"][0]["devices"] == 2
    (need,) = page["needs"]
    assert (need["trouble"], need["count"], need["devices"][0]["device_id"]) == ("rolled_back", 1, "status-2")
    assert page["metadata"] == []
    assert busy.call("status", "-o", "name").out == "status-2\n"


def test_metadata_that_is_due_is_told_with_what_renews_it() -> None:
    due = {
        "role": "pump",
        "version": 3,
        "expires_at_ms": 1000,
        "has_expired": True,
        "why": "So.",
        "command": "fleetlift it",
    }
    first, second = _metadata_lines([due])
    assert first.startswith("signed metadata of pump, version 3, has expired: 1970-01-01")
    assert second == "  So. `fleetlift it`"


def test_what_is_under_way(busy: Office) -> None:
    assert busy.json("status")["running"] == []
    assert "No release is under way." in busy.call("status").out
    push(busy, "1.2.0")
    (running,) = busy.json("status")["running"]
    assert running["release"]["firmware"]["version"] == "1.2.0"
    assert f"{PRODUCT}/everyone/app  v2" in busy.call("status").out
    (of_product,) = busy.json("status", "--product", PRODUCT)["running"]
    assert of_product["release"]["release_id"] == running["release"]["release_id"]
    assert "there is no product" in refusal(busy, "status", "--product", "toaster", code=1).lower()


def test_how_it_was(busy: Office) -> None:
    assert "No sample was taken" in busy.call("status", "--over", "1d").out
    home = Home(busy.home)
    with Store.open(database_url(home, load_settings(home.settings_file)), time.time) as store:
        assert store.samples.take() == 1  # the server takes the next one in ten minutes
    assert "DEVICES  ONLINE" in busy.call("status", "--over", "1d").out
    page = busy.json("status", "--over", "1d", "--component", "app")
    assert {it["version"]: it["points"][-1]["devices"] for it in page["series"]} == {"1.0.0": 1, "1.1.0": 1}
    assert "1.0.0  1.1.0" in busy.call("status", "--over", "1d", "--component", "app").out
    assert "a time is as 90s" in refusal(busy, "status", "--over", "long", code=2)
