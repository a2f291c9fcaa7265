"""Counts of large fleets: nobody waits for them, and everybody hears when they are there."""

import queue
import threading

import pytest

from cloud import sparing
from cloud.console import counts
from cloud.sparing import CALM_S, Sparing
from protocol.identity import EVERYONE
from tests.cloud.console.releasing import CHANNEL, fleet, path_of, release, stat
from tests.cloud.console.visits import reading
from tests.cloud.homes import Api


class Work:
    """Something that takes until it is let."""

    def __init__(self) -> None:
        self.told: queue.Queue[None] = queue.Queue()
        self.let = threading.Semaphore(0)
        self.now_s = 0.0
        self.made = 0
        self.glances = Sparing(self._make, told=lambda: self.told.put(None), clock=lambda: self.now_s)

    def _make(self, key: str) -> str:
        assert self.let.acquire(timeout=30)
        if key == "broken":
            raise ValueError("cannot be counted")
        self.made += 1
        self.now_s += 1
        return f"{key} {self.made}"

    def finish(self) -> None:
        self.let.release()
        self.told.get(timeout=30)


def test_the_first_glance_sees_nothing_and_the_next_what_was_counted() -> None:
    work = Work()
    assert work.glances.glance("one") is None
    assert work.glances.glance("one") is None, "it is being counted, once for all who ask"
    work.finish()
    assert work.glances.glance("one") == "one 1"
    assert work.told.empty()


def test_what_is_old_for_what_it_took_is_counted_anew_while_the_old_is_shown() -> None:
    work = Work()
    work.glances.glance("one")
    work.finish()
    work.now_s += CALM_S + 1
    assert work.glances.glance("one") == "one 1", "it took a second, so it is kept for twenty"
    work.now_s += 30
    assert work.glances.glance("one") == "one 1"
    work.finish()
    assert work.glances.glance("one") == "one 2"


def test_what_could_not_be_counted_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    assert work.glances.glance("broken") is None
    work.let.release()
    work.glances.glance("one")
    work.finish()  # one at a time: the broken one is over
    assert "broken could not be counted" in caplog.text
    assert work.glances.glance("broken") is None
    work.let.release()


def test_the_pages_of_a_large_fleet_do_not_wait(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MANY", 2)
    devices = fleet(api, 4)
    made = release(api, "1.1.0", plan={"phases": [{"percentage": 100, "soak_s": 60}]})
    devices[0].take("1.1.0", made["release_id"])
    with sparing.ONE_AT_A_TIME, reading(api) as ann:  # so nothing is counted meanwhile
        page = ann.get(path_of(made))
        assert "being counted" in page.text
        assert "running" in page.text, "what was decided is told at once"
    with reading(api, "ben") as ann:
        api("POST", f"{path_of(made)}/pause", {})
        for _ in range(200):
            seen = api.backend.changes.revision
            page = ann.get(path_of(made))
            if "eing counted" not in page.text:
                break
            api("GET", f"/releases/{made['release_id']}/progress", params={"seen": seen, "wait": 1})
        assert stat(page, "Installs") == "1"
        assert page.one(".waits").get_text(strip=True).startswith("Paused.")
        assert EVERYONE in ann.get(CHANNEL).text
