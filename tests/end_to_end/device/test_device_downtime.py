"""D15: the version before does its work while the new one is downloaded; then there is one brief restart."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from tests.support.device_world import Watched, Workshop
from tests.support.images import Image, Images

pytestmark = pytest.mark.broker
LARGE_BYTES = 32 * 1024 * 1024
ASK_EVERY_S = 0.02
LONGEST_RESTART_S = 5.0
"""Far more than it takes; a machine with other work may need it."""


@dataclass
class Caller:
    """Somebody who needs the application, and asks it over and over: (when, the version that answered)."""

    url: str
    answers: list[tuple[float, str | None]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def call(self) -> None:
        with httpx.Client(timeout=2, trust_env=False) as http:
            while not self.over.wait(ASK_EVERY_S):
                try:
                    version = str(http.get(self.url).json()["version"])
                except httpx.TransportError:
                    version = None
                self.answers.append((time.time(), version))

    @contextmanager
    def calling(self) -> Iterator[None]:
        thread = threading.Thread(target=self.call)
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join()

    def heard(self, version: str | None) -> list[float]:
        """When this was the answer (None: when there was none)."""
        return [at for at, answer in self.answers if answer == version]


def test_the_version_before_works_during_the_download_and_there_is_one_brief_restart(
    workshop: Workshop, factory: Image, images: Images
) -> None:
    new = images.thermostat("7.15.0", filler_bytes=LARGE_BYTES)
    device = workshop.device(factory, "--window", "65536")
    device.publish(new)
    caller = Caller(f"http://127.0.0.1:{device.device.health_port}/health")
    with caller.calling():
        device.fleet.json("ota", device.device_id, new.version, "--wait", "--timeout", "60")
        device.expect_success(new)
    began_s, ready_s = download_of(device)
    during = [at for at in caller.heard(factory.version) if began_s < at < ready_s]
    assert len(during) >= 10, f"{len(during)} answers during a download of {ready_s - began_s:.1f} s"
    assert not [at for at in caller.heard(None) if at < ready_s], "it was away before the image was there"
    device.expect_only(factory, new)
    last, first = caller.heard(factory.version)[-1], caller.heard(new.version)[0]
    assert ready_s < first, "the new one answered before it was verified"
    assert last < first < last + LONGEST_RESTART_S
    assert not [at for at in caller.heard(None) if not last < at < first], "it was away more than once"


def download_of(device: Watched) -> tuple[float, float]:
    """When the download of its only attempt began, and when the image was there and verified (seconds since 1970)."""
    (attempt,) = device.fleet.json("device", "history", device.device_id)
    at_ms = {step["phase"]: step["at_ms"] for step in reversed(attempt["steps"])}
    return at_ms["downloading"] / 1000, at_ms["installing"] / 1000
