"""The agent's loop: hears the broker, the applications and the clock, decides, drives the machine, and tells.

Order of a start: the journal is open; each component's stray trial is undone and its application, if it outlived the
agent, adopted; the attempt goes on where it was; then the applications, each as soon as `starting` finds that it waits
for nothing, and the link at the same time.

Whatever one input makes fail is logged, counted as `internal_error`, and the loop goes on. After each input the runner
settles: it decides if it is to, heeds what applications say now, starts what waits for nothing, and tells what changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from device_agent.admission import Trigger, Willingness
from device_agent.announcing import Announcer
from device_agent.asks import MetadataFiles
from device_agent.availability import Gatekeeper
from device_agent.components import Component
from device_agent.config import AgentSettings
from device_agent.consent import Consents
from device_agent.contact import AGENT_VERSION, BundleTaker, Contact, Link
from device_agent.data.syncing import DataSync
from device_agent.deciding import Decider
from device_agent.desk import Desk
from device_agent.driver import Driver
from device_agent.effects import Effects
from device_agent.events import Attempt, Snapshot
from device_agent.following import RootFollower
from device_agent.journal import Journal
from device_agent.launching import Launcher
from device_agent.log_limit import LogLimit
from device_agent.loop import Loop, Worker
from device_agent.runner_ports import Control, Fetches
from device_agent.standing import Standing
from device_agent.starting import Starting
from device_agent.supervision import Exit
from device_agent.trial import Trial
from device_agent.vitals import Vitals
from protocol.down import Bundle
from protocol.errors import UserError
from protocol.facts import DeviceFacts
from protocol.phases import Phase, Wait
from protocol.values import ComponentState

_STARTED_BY_EFFECTS: Final = frozenset({Phase.RESTARTING, Phase.PROVING, Phase.ROLLING_BACK})
_LOG = logging.getLogger(__name__)


class Runner:
    """One device's agent. `stop` is for any thread, `contact` has what the link calls; the rest is the loop's."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        journal: Journal,
        link: Link,
        gatekeeper: Gatekeeper,
        desk: Desk,
        consents: Consents,
        control: Control,
        trust: BundleTaker,
        files: MetadataFiles,
        fetching: Fetches,
        components: Mapping[str, Component],
        loop: Loop,
        worker: Worker,
        prober: Worker,
        now: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._link = link
        self._gatekeeper = gatekeeper
        self._desk = desk
        self._consents = consents
        self._control = control
        self._trust = trust
        self._files = files
        self._fetching = fetching
        self._components = components
        self._loop = loop
        self._worker = worker
        self._prober = prober
        self._limited = LogLimit(_LOG)
        self._resumed = False
        self._running: dict[str, ComponentState] = {}
        self._standing: Standing | None = None
        self._willingness: Willingness | None = None
        self._starting = Starting(began_s=loop.monotonic(), news_wait_s=settings.updates.startup_wait_s)
        self._launcher = Launcher(components, self._starting, loop, worker, self._runs)
        self._announcer = Announcer(control.publish, enabled=gatekeeper.enabled)
        self._trial = Trial(loop, prober)
        self._data_sync = DataSync(settings.components)
        self._vitals = Vitals(journal, components, every_s=settings.updates.gauge_interval_s)
        self._roots = RootFollower(trust, loop, worker, lambda: self.contact.check(Trigger.SESSION_START))
        self.contact = Contact(
            settings,
            link=link,
            journal=journal,
            root=trust,
            files=files,
            loop=loop,
            hears=self,
            on_chunk=fetching.on_chunk,
        )
        self._driver = Driver(journal, loop, self._make_effects().performers(), self._stepped)
        self._decider = self._make_decider(now)
        self._listen()

    def _make_effects(self) -> Effects:
        return Effects(
            components=self._components,
            settings=self._settings.components,
            fetching=self._fetching,
            trial=self._trial,
            loop=self._loop,
            worker=self._worker,
            facts=self._facts,
            clear_gate=self._clear_gate,
            runs=self._runs,
        )

    def _make_decider(self, now: Callable[[], float]) -> Decider:
        return Decider(
            told=self.contact.told,
            memory=self._journal,
            driver=self._driver,
            loop=self._loop,
            components=tuple(self._components),
            policy=self._settings.updates.install,
            facts=self._facts,
            willingness=self._gatekeeper.willingness,
            starting=lambda name: name in self._starting.names,
            received_bytes=self._fetching.received_bytes,
            answers=self._consents,
            data_sync=lambda attempt, scope: self._data_sync.waiting(attempt, scope, self._facts()),
            timezone=self._settings.timezone,
            now=now,
        )

    def _listen(self) -> None:
        """Have everybody call the loop."""
        loop = self._loop
        loop.settle, loop.failed = self._settle, self._failed
        self._gatekeeper.changed = lambda: loop.post(_nothing)  # and the loop settles
        self._consents.changed = lambda: loop.post(lambda: self._decider.decide(Trigger.NOTICE))
        self._desk.on_check = lambda: self.contact.check(Trigger.CHECK)
        self._desk.on_confirm = self._trial.confirmed
        self._desk.on_ready = self._decider.ready
        self._desk.on_data_synced = self._data_synced
        self._desk.on_gauge = self._vitals.gauge
        self._vitals.changed = lambda: loop.post(_nothing)
        self._desk.decisions = self._decider.explained
        for name, component in self._components.items():
            component.application.exited(lambda ended, name=name: self._application_ended(name, ended))  # type: ignore[misc]

    def attempt(self) -> Attempt | None:
        """Return the attempt that is under way; from any thread, for log lines."""
        return self._driver.snapshot.attempt

    def run(self) -> None:
        """Run until stopped, and end everything but what is in the journal; raises UserError."""
        try:
            self.begin()
            self._loop.run()
        finally:
            self._end()

    def stop(self) -> None:
        """Have `run` end."""
        self._loop.stop()

    def begin(self) -> None:
        """Do what a start does (see the head of this file); returns at once. Raises UserError."""
        attempt, phase = self._driver.snapshot.attempt, self._driver.snapshot.phase
        busy = attempt.firmware.component if attempt else None
        if busy is not None and busy not in self._components:
            raise UserError(
                f"an update of {busy} is under way, and the settings have no [components.{busy}]: "
                "nothing was changed. Put it back until the update has ended"
            )
        names = [name for name in self._components if name != busy or phase not in _STARTED_BY_EFFECTS]
        self._control.start()
        committing = busy if phase is Phase.COMMITTING else None
        self._launcher.look_around(names, committing=committing, then=self._resume)
        self.contact.start()

    def _resume(self) -> None:
        self._resumed = True
        attempt = self._driver.snapshot.attempt
        if attempt is not None:
            self._driver.resume(self._fetching.received_bytes(attempt.firmware))

    def _end(self) -> None:
        self._trial.end()
        self._fetching.stop()
        self._files.close()
        self._link.stop()
        self._control.stop()
        self._prober.stop(timeout_s=1.0)
        for component in self._components.values():
            self._worker.submit(component.close)
        self._worker.stop(timeout_s=60.0)
        self._journal.close()

    # What the contact hears.

    def session_began(self) -> None:
        """Go on with what needs the link."""
        self._starting.progressed(self._loop.monotonic())
        self._fetching.link_up()

    def session_ended(self) -> None:
        """Wait with what needs the link."""
        self._fetching.link_down()

    def broker_answered(self, at_s: float) -> None:
        """Note that the broker is reached."""
        self._trial.broker_answered(at_s)

    def told_desired(self) -> None:
        """Follow a Desired, unless a decision follows anyway."""
        self.contact.follow_groups()
        if not self.contact.awaits_decision:
            self._decider.decide(Trigger.NOTICE)

    def told_notice(self) -> None:
        """Follow a notice, unless a decision follows anyway."""
        if not self.contact.awaits_decision:
            self._decider.decide(Trigger.NOTICE)

    def told_bundle(self, bundle: Bundle) -> None:
        """Take a bundle. If it stands on a newer root, so may the signatures that were not good yet."""
        if self._trust.offer_bundle(bundle):
            self._roots.look()

    # What applications and the machine do.

    def _application_ended(self, name: str, ended: Exit) -> None:
        """Hear, in its supervisor's thread, that an application ended by itself."""
        at_s = self._loop.monotonic()
        self._loop.post(lambda: self._ended(name, ended, at_s))

    def _ended(self, name: str, ended: Exit, at_s: float) -> None:
        self._trial.application_ended(name, ended.detail, at_s)
        snapshot, state = self._driver.snapshot, self._running.get(name)
        its_update = snapshot.attempt is not None and snapshot.attempt.firmware.component == name
        tried = snapshot.attempt.firmware.digest if snapshot.attempt is not None and its_update else None
        self._vitals.ended(name, state.digest if state else tried, ended)
        if its_update and snapshot.phase in _STARTED_BY_EFFECTS:
            return
        at_next_start = its_update and snapshot.waiting is not None and snapshot.waiting.why is Wait.NEXT_START
        if at_next_start:
            # This is the start that the update waits for: it goes first, and the restart that was due is taken back.
            self._components[name].application.keep_up(wanted=False)
        elif ended.restart_in_s is not None:
            self._data_sync.started(name)
        if at_next_start or ended.restart_in_s is None:
            self._starting.names.add(name)
            self._decider.clear_gate()

    def _stepped(self, before: Snapshot, after: Snapshot) -> None:
        self._announcer.stepped(before, after)
        self.contact.entries_added()
        if after.phase is Phase.PROVING:  # also one that is judged anew: the broker may have answered before
            self.contact.provoke()
        if before.attempt is not None and after.attempt is None:
            if before.attempt.firmware.component not in self._running:
                self._starting.names.add(before.attempt.firmware.component)  # what was gone back to did not start
            self._fetching.stop()
            self._loop.post(lambda: self._decider.decide(Trigger.NOTICE))

    def _runs(self, name: str, state: ComponentState | None) -> None:
        """Note what a component runs now; what was not brought about by an update is told as found."""
        recorded = self._starting.recorded.pop(name, None)
        if recorded is not None and recorded != state:  # what was decided stood on it
            self._loop.post(lambda: self._decider.decide(Trigger.NOTICE))
        if state is None:
            self._running.pop(name, None)
            return
        self._starting.names.discard(name)
        self._running[name] = state
        self._data_sync.started(name)
        self._vitals.runs(name, state.digest)
        snapshot = self._driver.snapshot
        on_trial = snapshot.attempt is not None and snapshot.attempt.firmware.component == name
        if on_trial and snapshot.phase in _STARTED_BY_EFFECTS | {Phase.COMMITTING}:
            return
        if self._journal.installed().get(name) != state:
            with self._journal.transaction():
                self._journal.append(installed=state)
                self._journal.keep_installed(state)
            self.contact.entries_added()

    def _data_synced(self, synced: bool) -> None:
        self._data_sync.said(self._driver.snapshot.attempt, synced=synced)
        self._decider.clear_gate()

    def _clear_gate(self) -> None:
        self._decider.clear_gate()

    def _facts(self) -> DeviceFacts:
        return DeviceFacts(
            device_id=self._settings.device_id,
            hardware_model=self._settings.hardware_model,
            agent_version=AGENT_VERSION,
            components={**self._starting.recorded, **self._running},
            failed=self._journal.failed(),
            floors=self._journal.floors(),
            declined=frozenset(self._consents.declined),
        )

    # After each input.

    def _settle(self) -> None:
        if not self._resumed:
            return
        trigger = self.contact.take_trigger()
        if trigger is not None:
            self._starting.decided = True
            self._decider.decide(trigger)
        self._heed()
        self._launch()
        self.contact.send_due(self._stand())

    def _heed(self) -> None:
        """Act on a change of what applications and holders say."""
        willingness = self._gatekeeper.willingness()
        before, self._willingness = self._willingness, willingness
        self._loop.at("gatekeeper", self._gatekeeper.next_change(), _nothing)
        if willingness == before:
            return
        self._announcer.enabled(willingness.enabled)
        if before is not None:
            enabled = willingness.enabled and not before.enabled
            self._decider.decide(Trigger.ENABLED if enabled else Trigger.NOTICE)
        self._decider.clear_gate()

    def _launch(self) -> None:
        """Start the applications that wait for nothing."""
        now = self._loop.monotonic()
        waiting = self._launcher.waiting()
        self._loop.at("launch", self._starting.next_deadline(now) if waiting else None, _nothing)
        for name in waiting:
            if not self._starting.waits(
                name,
                self._driver.snapshot,
                mandatory_known=self._decider.forecast_mandatory(name),
                in_grace=self._gatekeeper.in_grace,
                now=now,
            ):
                self._launcher.launch(name)

    def _stand(self) -> Standing:
        """Return how the device stands, having told the applications what changed."""
        standing = Standing(
            session=self.contact.session,
            snapshot=self._driver.snapshot,
            components=tuple(self._running[name] for name in sorted(self._running)),
            availability=self._gatekeeper.report(),
            pending=self._decider.pending(),
            progress=self._fetching.progress,
            failed=self._journal.reported_failed(),
            refused=self._journal.refused(),
            questions=self._decider.questions(),
            declined=self._consents.declined,
            health=self._vitals.report(self._running, self._loop.monotonic()),
        )
        self._loop.at("vitals", self._vitals.next_due(), _nothing)
        before, self._standing = self._standing, standing
        if standing != before:
            if standing.progress != (before.progress if before else None):
                self._starting.progressed(self._loop.monotonic())
            self._desk.standing, self._consents.questions = standing.status(), standing.questions
            self._announcer.pending([wanted for wanted, _ in standing.pending], standing.questions)
        return standing

    def _failed(self, error: Exception) -> None:
        self._limited.tell_failure(error, "something that was not thought of; the agent goes on")
        self._journal.refuse("internal_error")


def _nothing() -> None:
    pass  # the loop settles after it
