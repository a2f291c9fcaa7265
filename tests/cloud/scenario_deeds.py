"""What happens in a story: deeds of devices, and of people to releases, each a method named by its word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cloud.store.rollouts import Rollouts
from cloud.store.unplanned import Unplanned
from cloud.values import ChannelKey, ReleasePatch
from device_agent.admission import Said, Trigger, Willingness
from protocol.phases import Outcome, Phase, Reason
from protocol.up import AttemptEntry, Report
from protocol.values import Urgency, Via
from tests.cloud.scenario_devices import PRODUCT, Actor, Mishap
from tests.cloud.scenario_plans import seconds
from tests.cloud.scenario_world import ANN, World, installed


class DeviceDeeds:
    """What devices do, and what is done to them where they are; `world` hears of it at once."""

    def __init__(self, world: World) -> None:
        self.world = world

    def do(self, device_id: str, word: str, *rest: str) -> None:
        deed: Callable[..., None] = getattr(self, "_" + word.replace("-", "_"))
        deed(self.world.actors[device_id], *rest)

    def _fails(self, actor: Actor, reason: str) -> None:
        actor.mishaps[""] = Mishap(Reason(reason))

    def _works(self, actor: Actor) -> None:
        actor.mishaps.pop("")

    def _dies(self, actor: Actor) -> None:
        actor.dead = True
        self.world.part(actor)

    def _goes(self, actor: Actor) -> None:
        self.world.part(actor)

    def _returns(self, actor: Actor) -> None:
        actor.dead = False
        self.world.greet(actor)
        actor.wakes_s = 0.0

    def _holds(self, actor: Actor, owner: str) -> None:
        actor.hold(owner)
        self._told(actor)

    def _releases(self, actor: Actor) -> None:
        actor.willingness = replace(actor.willingness, holds=())
        self._told(actor)

    def _disables(self, actor: Actor) -> None:
        actor.willingness = Willingness(enabled=False)
        self._told(actor)

    def _enables(self, actor: Actor) -> None:
        actor.willingness = Willingness()
        actor.trigger = Trigger.ENABLED
        self._told(actor)

    def _checks(self, actor: Actor) -> None:
        actor.trigger, actor.wakes_s = Trigger.CHECK, 0.0

    def _consents(self, actor: Actor, label: str) -> None:
        self._answers(actor, label, Said.CONSENTED)

    def _declines(self, actor: Actor, label: str) -> None:
        self._answers(actor, label, Said.DECLINED)

    def _defers(self, actor: Actor, label: str, until: str) -> None:
        self._answers(actor, label, Said.DEFERRED, seconds(until))

    def _answers(self, actor: Actor, label: str, said: Said, for_s: int = 0) -> None:
        release, now_ms = self.world.release_of(label), round(1000 * (self.world.clock() + actor.clock_s))
        actor.answer(release.release_id, release.firmware.digest, said, now_ms, now_ms + 1000 * for_s)
        self._told(actor)

    def _joins(self, actor: Actor, group: str) -> None:
        self.world.group(group)
        self.world.store.catalog.add_to_group(PRODUCT, group, [actor.device_id], by=ANN)

    def _leaves(self, actor: Actor, group: str) -> None:
        self.world.store.catalog.remove_from_group(PRODUCT, group, [actor.device_id], by=ANN)

    def _flips_back(self, actor: Actor, version: str) -> None:
        """It runs something else, and no attempt explains it."""
        actor.components["app"] = installed(self.world.firmware(version))
        self._told(actor)

    def _lies(self, actor: Actor, label: str) -> None:
        """It says that it succeeded, and that another digest booted."""
        release = self.world.release_of(label)
        actor.tries += 1
        actor.journal(
            AttemptEntry(
                attempt_id=f"{actor.device_id}-{actor.tries}",
                source_id=release.release_id,
                via=Via.RELEASE,
                component="app",
                version=release.firmware.version,
                digest=release.firmware.digest,
                phase=Phase.COMMITTING,
                outcome=Outcome.SUCCEEDED,
                booted_digest=actor.components["app"].digest,
                order=release.order,
            )
        )
        self.world.say(actor)

    def _repeats(self, actor: Actor) -> None:
        """It says once more what it said last: the acknowledgement was lost."""
        for _ in range(3):
            said = Report(journal_id=actor.journal_id, entries=tuple(actor.sent))
            self.world.store.journal.receive_report(actor.device_id, said)

    def _forgets(self, actor: Actor) -> None:
        """Its journal is lost: it numbers from the beginning, and comes back."""
        actor.journal_id, actor.next_seq, actor.unsent, actor.session = actor.journal_id + "x", 1, [], 0
        actor.trying, actor.failed = None, {}
        self.world.greet(actor)

    def _clock(self, actor: Actor, offset: str) -> None:
        actor.clock_s = seconds(offset[1:]) * (-1 if offset[0] == "-" else 1)
        actor.wakes_s = 0.0

    def _crashes(self, actor: Actor, times: str) -> None:
        actor.crashes += int(times)
        self._told(actor)

    def _gauge(self, actor: Actor, name: str, value: str) -> None:
        actor.gauges[name] = int(value)
        self._told(actor)

    def _told(self, actor: Actor) -> None:
        actor.wakes_s = 0.0
        self.world.say(actor)


class ReleaseDeeds:
    """What people do to a release."""

    def __init__(self, world: World) -> None:
        self.world = world

    def do(self, label: str, word: str, *rest: str) -> None:
        deed: Callable[..., Any] = getattr(self, "_" + word.replace("-", "_"))
        deed(self.world.releases[label], *rest)

    def _pauses(self, release_id: str) -> None:
        self._steered(release_id).pause(release_id, by=ANN)

    def _resumes(self, release_id: str) -> None:
        self._steered(release_id).resume(release_id, by=ANN)

    def _aborts(self, release_id: str) -> None:
        self.world.store.rollouts.abort(release_id, by=ANN)

    def _retries(self, release_id: str) -> None:
        self._steered(release_id).retry(release_id, by=ANN)

    def _steered(self, release_id: str) -> Rollouts | Unplanned:
        store = self.world.store
        return store.rollouts if store.rollouts.has_plan(release_id) else store.unplanned

    def _advances(self, release_id: str) -> None:
        self.world.store.rollouts.advance(release_id, by=ANN)

    def _approved(self, release_id: str, by: str) -> None:
        self.world.store.rollouts.approve(release_id, by=by)

    def _disabled(self, release_id: str) -> None:
        self.world.store.releases.patch(release_id, ReleasePatch(enabled=False), by=ANN)

    def _enabled(self, release_id: str) -> None:
        self.world.store.releases.patch(release_id, ReleasePatch(enabled=True), by=ANN)

    def _percentage(self, release_id: str, percentage: str) -> None:
        self.world.store.releases.patch(release_id, ReleasePatch(percentage=int(percentage)), by=ANN)

    def _rolls_back_to(self, release_id: str, label: str) -> None:
        channel = self.world.store.releases.release(release_id).channel
        number = self.world.release_of(label).label
        made = self.world.store.releases.rollback(channel, number, by=ANN, urgency=Urgency.IMMEDIATE)
        self.world.releases[f"v{made.label}"] = made.release_id

    def _promoted(self, release_id: str, group: str) -> None:
        self.world.group(group)
        made = self.world.store.releases.promote(release_id, group, by=ANN)
        self.world.releases[f"{group}/v{made.label}"] = made.release_id


def channel_of(group: str, component: str) -> ChannelKey:
    return ChannelKey(PRODUCT, group, component)
