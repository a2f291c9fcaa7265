"""A device that may enrol at a desk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from device_agent.clock import DeviceClock
from device_agent.identity.enrolling import Applicant, enrol
from device_agent.identity.keys import Keys, OpensslKeys
from device_agent.identity.store import Identity, IdentityStore
from protocol.enrolment import EnrolmentCode
from tests.support.enrolment_desk import PRODUCT, EnrolmentDesk


@dataclass
class Device:
    """A device that may enrol."""

    store: IdentityStore
    desk: EnrolmentDesk
    clock: DeviceClock
    keys: Keys = field(default_factory=OpensslKeys)
    said: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.store.directory.parent / "root.json"

    def enrol(self, code: EnrolmentCode | None = None, *, url: str | None = None, name: str = "pi-1") -> Identity:
        self.root.parent.mkdir(exist_ok=True)
        applicant = Applicant(device_id=name, product=PRODUCT, hardware_model="pi4", root=self.root)
        return enrol(
            applicant,
            code or self.desk.code,
            url or self.desk.url,
            self.store,
            keys=self.keys,
            clock=self.clock,
            say=self.said.append,
        )

    def is_as_it_was(self) -> bool:
        return self.store.load() is None and not self.root.exists()
