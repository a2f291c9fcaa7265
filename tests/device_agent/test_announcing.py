"""Events of steps are published once the status knows of them."""

from collections.abc import Mapping
from typing import Any

from device_agent.announcing import Announcer
from device_agent.events import DownloadCleared, Downloaded, Snapshot, Taken, Verified
from device_agent.machine import step
from tests.support.updates import attempt


def test_a_step_is_told_when_the_status_is_the_newest() -> None:
    published: list[Mapping[str, Any]] = []
    announcer = Announcer(published.append, enabled=True)
    before = Snapshot()
    for event in (Taken(attempt(forced=True)), DownloadCleared(), Downloaded(1000), Verified()):
        after, _ = step(before, event)
        announcer.stepped(before, after)
        before = after
    assert published == []
    announcer.pending([])
    told = {"component": "app", "version": "1.1.0"}
    assert published == [{"event": "forced", **told}, {"event": "update_ready", **told}]
    announcer.pending([])
    assert len(published) == 2
