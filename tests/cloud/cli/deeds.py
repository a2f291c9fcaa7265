"""What several tests of the command do: push a version, be refused, play a device that takes firmware."""

import dataclasses
from typing import Any

from protocol.codec import encode
from protocol.phases import Outcome, Phase, Reason
from protocol.up import AttemptEntry, Entry, Report
from protocol.values import ComponentState, Via
from tests.cloud.cli.offices import TOPICS, Answer, Office
from tests.cloud.homes import hello_of
from tests.support.mqtt import Peer


def push(office: Office, version: str, *more: object, text: str = "", expect: int = 0) -> Answer:
    source = office.application(text or f"print('{version}')\n", name=f"app-{version}")
    return office.call("release", "push", source, "--version", version, "--yes", *more, expect=expect)


def refusal(office: Office, *arguments: object, code: int) -> str:
    """Run a command that must be refused; return what it says, on standard error alone."""
    answer = office.call(*arguments, expect=code)
    assert answer.err
    return answer.err


def take(
    office: Office, peer: Peer, device_id: str, source: str, version: str, *, good: bool = True, via: Via = Via.RELEASE
) -> None:
    """Play a device that takes a firmware."""
    firmware = office.json("firmware", "show", version)
    plain = AttemptEntry(
        attempt_id=f"{device_id}-{source}",
        source_id=source,
        via=via,
        component="app",
        version=version,
        digest=firmware["digest"],
        phase=Phase.DOWNLOADING,
    )
    runs = ComponentState(component="app", version=version, build=0, digest=firmware["digest"])
    state = dataclasses.replace(hello_of().state, seq=50, phase=Phase.COMMITTING, components=(runs,))
    if good:
        last = {"phase": Phase.COMMITTING, "outcome": Outcome.SUCCEEDED, "booted_digest": firmware["digest"]}
    else:
        how = {"outcome": Outcome.ROLLED_BACK, "reason": Reason.HEALTH_FAILED, "detail": "503"}
        last = {"phase": Phase.ROLLING_BACK, **how}
    steps: list[dict[str, Any]] = [{}, {"phase": Phase.INSTALLING}, last]
    for number, step in enumerate(steps, start=1):
        if step is last and good:
            peer.publish(TOPICS.up(device_id, "state"), encode(state))
        entry = Entry(seq=number, at_ms=1, attempt=dataclasses.replace(plain, **step))
        peer.publish(TOPICS.up(device_id, "report"), encode(Report(journal_id=f"j-{device_id}", entries=(entry,))))
