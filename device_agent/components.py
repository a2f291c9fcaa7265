"""One component of the device: its slots and its application, moved together.

What is returned is what was started, hashed from the disk at that moment: never (but by `recorded`) what a record says.
Every method is slow, and called in the agent's worker thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from device_agent.commands import Ran, expand, run
from device_agent.data.keeper import DataError, DataKeeper, Reader
from device_agent.slots.ports import Apply, SlotError, Slots, SlotsView
from device_agent.supervision import ApplicationError, Supervisor
from protocol.phases import Reason
from protocol.values import ComponentState, FirmwareRef

DRAIN_TIMEOUT_S: Final = 60.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One component; `environment` is what its application is told besides what it runs.

    `data` keeps its data safe, if it has any to keep; `drain_command` runs once the application has ended, before the
    data is saved. It may hold `{python}`.
    """

    name: str
    slots: Slots
    application: Supervisor
    environment: Mapping[str, str]
    stop_timeout_s: float
    data: DataKeeper | None = None
    drain_command: tuple[str, ...] = ()
    drain_timeout_s: float = DRAIN_TIMEOUT_S

    def recorded(self) -> ComponentState | None:
        """Return what the slots say is to run: their record, not yet the image that is started."""
        return self.slots.inspect().running

    def adopt(self) -> ComponentState | None:
        """Return what an agent before started and still runs, if it is what is to run; what else runs is ended."""
        view = self.slots.inspect()
        if view.running is None or view.running_image is None:
            return None
        adopted = self.application.adopt(
            view.running_image,
            digest=view.running.digest,
            environment=self._environment(view.running, view.running_image),
            keep_up=not view.trial,
        )
        if adopted and self.data is not None and not view.trial and self.data.owes(view.running.digest):
            _LOG.error("%s: it was started before its data was put back, and is ended", self.name)
            self.stop()
            return None
        return view.running if adopted else None

    def start(self) -> ComponentState | None:
        """Start what is to run, and keep it up; None if there is nothing to start.

        An image that is damaged is not started: the best that is left is. Raises ApplicationError, SlotError and
        DataError.
        """
        view = self.slots.inspect()
        if view.running is None:
            self.slots.revert()
            view = self.slots.inspect()
        try:
            return self._start(view, keep_up=True)
        except ApplicationError as error:
            if error.reason is not Reason.WRONG_BOOT:
                raise
            _LOG.error("%s: %s; starting the best that is left", self.name, error)
            self.slots.revert()
            return self._start(self.slots.inspect(), keep_up=True)

    def stop(self) -> None:
        """End whatever runs."""
        self.application.stop(self.stop_timeout_s)

    def close(self) -> None:
        """End whatever runs, and watch it no longer."""
        self.stop()
        self.application.close()

    def activate(self, attempt_id: str, firmware: FirmwareRef) -> None:
        """Arm one trial of the staged image; if it changes the schema of the data, end what runs, and save the data.

        Raises SlotError, DataError.
        """
        running = self._reader()
        if self.data is not None and self.data.changes(firmware, running):
            self.stop()
            self._drain(firmware)
            self.data.keep(attempt_id, firmware, running)
        self.slots.activate(firmware)

    def start_trial(self, attempt_id: str, firmware: FirmwareRef) -> str:
        """Start the new version on trial, and return its digest; raises ApplicationError, SlotError, DataError."""
        if self.data is not None and self.data.changes(firmware, self._reader()):
            self.data.hand_over(attempt_id)
        if self.slots.apply(firmware) is Apply.REBOOT:
            raise SlotError(Reason.INSTALL_FAILED, "the slots want the device restarted, which this agent does not do")
        started = self._start(self.slots.inspect(), keep_up=False)
        if started is None:
            raise SlotError(Reason.START_FAILED, "there is nothing to start in the slot that was switched to")
        return started.digest

    def find_trial(self, firmware: FirmwareRef) -> str | None:
        """Return the digest of the version on trial if it runs still."""
        found = self.adopt()
        if found is None or found.digest != firmware.digest or not self.application.alive():
            return None
        return found.digest

    def confirm(self, firmware: FirmwareRef) -> None:
        """Make the version that runs the one to start from now on, and to keep up; raises SlotError."""
        self.slots.confirm(firmware)
        running = self._reader()
        if self.data is not None and running is not None:
            self.data.committed(running)
        self.application.keep_up(wanted=True)

    def go_back(self) -> ComponentState | None:
        """End whatever runs, and start the version before; raises SlotError if that could not be made the one to start.

        Then what there is runs on, for a device must do its work. A version before that does not start is no error; it
        is not started over data that could not be put back (DataError).
        """
        self.stop()
        try:
            self.slots.revert()
        except SlotError:
            self._start_anything()
            raise
        return self._start_anything()

    def _start_anything(self) -> ComponentState | None:
        try:
            return self.start()
        except (ApplicationError, SlotError) as error:
            _LOG.error("%s: nothing could be started: %s", self.name, error)
            return None

    def revert_stray_trial(self) -> None:
        """Undo a trial that no attempt knows of; raises SlotError."""
        if self.slots.inspect().trial:
            _LOG.warning("%s: a trial that the journal does not know of is undone", self.name)
            self.slots.revert()

    def _start(self, view: SlotsView, *, keep_up: bool) -> ComponentState | None:
        if view.running is None or view.running_image is None:
            return None
        if self.data is not None and not view.trial:
            self.data.settle(_reader_of(view.running, view))
        digest = self.application.start(
            view.running_image,
            digest=view.running.digest,
            environment=self._environment(view.running, view.running_image),
            keep_up=keep_up,
        )
        return replace(view.running, digest=digest)

    def _reader(self) -> Reader | None:
        """Return what the next start starts, as the data sees it."""
        view = self.slots.inspect()
        return _reader_of(view.running, view) if view.running is not None else None

    def _drain(self, firmware: FirmwareRef) -> None:
        """Have what is not yet in the data directory written there, by its owner's command; raises DataError."""
        if not self.drain_command:
            return
        schema = {"FLEETLIFT_NEW_VERSION": firmware.version, "FLEETLIFT_NEW_DATA_SCHEMA": str(firmware.data_schema)}
        try:
            ran = run(
                expand(self.drain_command),
                self.drain_timeout_s,
                environment={**os.environ, **self.environment, **schema},
            )
        except OSError as error:
            ran = Ran(code=127, output=str(error))
        if not ran.passed:
            how = "took too long" if ran.code is None else f"ended with {ran.code}"
            raise DataError(f"the drain command {how}: {ran.output or 'no output'}; nothing was switched")

    def _environment(self, running: ComponentState, image: Path) -> Mapping[str, str]:
        return {**self.environment, "FLEETLIFT_VERSION": running.version, "FLEETLIFT_IMAGE": str(image)}


def _reader_of(running: ComponentState, view: SlotsView) -> Reader:
    return Reader(digest=running.digest, schema=running.data_schema, reads=view.reads_schemas)


def reason_of(error: Exception) -> Reason | None:
    """Return what an attempt fails of by this error, if it says so: SlotError, ApplicationError and others do."""
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, Reason) else None
