"""D8, D9: somebody at the device is asked, by its application or a command: consent, deferral, decline, deadline."""

import json
import time
from pathlib import Path

import pytest

from tests.support.device_world import Watched, Workshop
from tests.support.images import Image, Images

pytestmark = pytest.mark.broker
MINUTE_MS = 60_000


@pytest.fixture
def new(images: Images) -> Image:
    return images.thermostat("1.1.0")


@pytest.fixture
def device(workshop: Workshop, factory: Image) -> Watched:
    """A device as it left the factory; its agent does not run yet."""
    return workshop.enrol(factory)


def release(device: Watched, image: Image, *words: str) -> None:
    """Release an image to a device whose agent does not run: it hears of nothing else."""
    device.push(image, "--immediate", *words)


def asked(device: Watched) -> dict[str, object] | None:
    """What the living application shows of a question."""
    found: dict[str, object] | None = device.application().get("attention")
    return found


def expect_question(device: Watched, image: Image) -> None:
    device.wait_until(lambda: (asked(device) or {}).get("version") == image.version, "the application asks")


def test_what_asks_for_attention_is_installed_when_somebody_consents(
    device: Watched, factory: Image, new: Image
) -> None:
    release(device, new, "--attention")
    device.begin()
    device.expect_pending(new, "consent")
    expect_question(device, new)
    device.check()
    device.expect_only(factory)
    with device.listening() as ear:
        assert ear.expect("attention_required")["optional"] is False, "who comes late is told"
        assert ear.updates.attention is not None
        assert "waits for your answer" in device.command("status")
        assert f"app {new.version} may be installed" in device.command("consent")
        assert ear.expect("update_installed")["version"] == new.version
    device.expect_success(new)
    device.expect_only(factory, new)


def test_consent_through_the_application_outlasts_a_power_cut(
    device: Watched, factory: Image, new: Image, tmp_path: Path
) -> None:
    release(device, new, "--attention")
    work = tmp_path / "work"
    work.touch()
    device.begin()
    expect_question(device, new)
    while_working = ("sh", "-c", f"while [ -e {work} ]; do sleep 0.05; done")
    holder = device.begin_command("hold", "--why", "working", "--scope", "restart", "--", *while_working)
    device.wait_until(lambda: device.shown()["availability"]["holds"], "it is held")
    device.tell("/updates/consent")
    device.expect_pending(new, "held")
    device.cut_power()
    work.unlink()
    holder.wait()
    device.begin()
    device.expect_success(new)
    device.expect_only_started(*(factory,) * (len(device.starts()) - 1), new)
    assert device.ends(new) == [("succeeded", None)]


def test_what_is_deferred_asks_again_and_a_deadline_ends_it(device: Watched, factory: Image, new: Image) -> None:
    earliest = time.time() + 25
    release(device, new, "--attention", "--deadline", "25s")
    device.begin()
    expect_question(device, new)
    assert "it asks again in 3 s" in device.command("defer", "3s")
    with device.listening() as ear:
        deferred_at = time.time()
        assert ear.expect("attention_required")["version"] == new.version
        assert time.time() - deferred_at < 15
        device.tell("/updates/defer", seconds=3600)
        assert "is deferred" in device.command("status")
        device.expect_only(factory)
        ear.expect("restarting")
    assert time.time() >= earliest
    device.expect_success(new)


def test_what_is_optional_may_be_declined_and_taken_after_all(device: Watched, factory: Image, new: Image) -> None:
    release(device, new, "--attention", "--optional")
    device.begin()
    expect_question(device, new)
    assert "is declined" in device.command("decline")
    device.expect_pending(new, "declined")
    device.end()
    device.begin()
    device.check()
    device.expect_pending(new, "declined")
    device.expect_only(factory, factory)
    assert asked(device) is None
    row = json.loads(device.fleet.row(device.device)["state"])
    assert len(row["declined"]) == 1
    told = device.command("why")
    assert "should run, and is blocked (declined)" in told
    assert "waits now: declined" in told
    device.command("consent")
    device.expect_ends(new, ("cancelled", "withdrawn"), ("succeeded", None))
    device.expect_only(factory, factory, new)


def test_what_is_not_optional_cannot_be_declined(device: Watched, factory: Image, new: Image) -> None:
    release(device, new, "--attention")
    device.begin()
    expect_question(device, new)
    assert "is not optional" in device.command("decline", expect=1)
    device.expect_pending(new, "consent")
    device.expect_only(factory)


def test_a_maintenance_window_is_by_the_device_s_own_clock(workshop: Workshop, factory: Image, new: Image) -> None:
    tokyo, here = (workshop.enrol(factory, env={}) for _ in range(2))
    begins, ends = (time.strftime("%H:%M", time.gmtime(time.time() + 60 * minutes)) for minutes in (-10, 50))
    for device, timezone in ((tokyo, "Asia/Tokyo"), (here, "UTC")):
        text = device.config.read_text(encoding="utf-8")
        device.config.write_text(text.replace("[device]\n", f'[device]\ntimezone = "{timezone}"\n'), encoding="utf-8")
        release(device, new, "--window", f"{begins}-{ends}")
        device.begin()
    here.expect_success(new)
    tokyo.expect_pending(new, "window")
    assert tokyo.fleet.row(tokyo.device)["timezone"] == "Asia/Tokyo"
    assert tokyo.phase() == "installing", "downloaded, and waiting"
    (decision,) = json.loads(tokyo.command("why", "app", "-o", "json"))
    assert (decision["verdict"], decision["waits"]["why"]) == ("take", "window")
    wait_ms = decision["waits"]["until_ms"] - round(time.time() * 1000)
    assert 13 * 60 * MINUTE_MS < wait_ms < 15 * 60 * MINUTE_MS, "nine hours behind Tokyo's own ten minutes ago"
    tokyo.expect_only(factory)
