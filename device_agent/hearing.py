"""Hears the broker: each message is decoded strictly, verified, and handed on; a bad one is only counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from device_agent.asks import MetadataFiles
from device_agent.journal_database import JournalError
from device_agent.reports import Reports
from device_agent.session import Session
from device_agent.told import Told, Verify
from protocol.codec import decode
from protocol.down import Ack, Bundle, Metadata
from protocol.errors import FleetliftError
from protocol.topics import BundleTopic, DownTopic, NoticeTopic, Topics

MAX_LOGGED: Final = 1000
_LOG = logging.getLogger(__name__)


class Hears(Protocol):
    """Who does something about it."""

    def told_desired(self) -> None:
        """Hear of a Desired that was accepted."""

    def told_notice(self) -> None:
        """Hear of a notice that was accepted and is news."""

    def told_bundle(self, bundle: Bundle) -> None:
        """Hear of a bundle of the device's product."""


class Hearing:
    """Dispatches messages, in the loop's thread."""

    def __init__(
        self,
        *,
        topics: Topics,
        device_id: str,
        product: str,
        told: Told,
        session: Session,
        reports: Reports,
        files: MetadataFiles,
        verify: Verify,
        hears: Hears,
        refuse: Callable[[str], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._topics = topics
        self._device_id = device_id
        self._product = product
        self._told = told
        self._session = session
        self._reports = reports
        self._files = files
        self._verify = verify
        self._hears = hears
        self._refuse = refuse
        self._monotonic = monotonic
        self._logged: set[tuple[str, str]] = set()

    def message(self, topic_text: str, payload: bytes) -> None:
        """Take a message; one that is refused is counted and dropped."""
        kind = "topic"
        try:
            topic = self._topics.parse(topic_text)
            match topic:
                case DownTopic(device_id, kind) if device_id == self._device_id:
                    self._for_me(kind, payload)
                case NoticeTopic():
                    kind = "notice"
                    self._notice(topic, payload)
                case BundleTopic(product) if product == self._product:
                    kind = "bundle"
                    self._hears.told_bundle(decode(payload, Bundle))
        except JournalError as error:  # nothing is followed that cannot be kept: it is asked for again
            self.refused(kind, error, topic_text)
            self._session.ask_again(self._monotonic())
        except FleetliftError as error:
            self.refused(kind, error, topic_text)

    def refused(self, kind: str, error: Exception, about: str) -> None:
        """Count a refusal, and log the first of its kind and code."""
        code = str(getattr(error, "code", "internal_error"))
        self._refuse(code)
        if (kind, code) not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add((kind, code))
            _LOG.warning("refused (%s), and more of the kind not logged: %.200r: %s", code, about, error)

    def _for_me(self, kind: str, payload: bytes) -> None:
        now = self._monotonic()
        match kind:
            case "desired":
                desired = self._told.accept_desired(payload, self._verify)
                self._session.desired_arrived(desired.session, self._told.missing(), now)
                self._hears.told_desired()
            case "ack":
                ack = decode(payload, Ack)
                self._reports.acknowledged(ack.journal_id, ack.through, now)
            case "meta":
                self._files.answer(decode(payload, Metadata))

    def _notice(self, topic: NoticeTopic, payload: bytes) -> None:
        if self._told.accept_notice(topic, payload, self._verify):
            self._session.notices_changed(self._told.missing(), self._monotonic())
            self._hears.told_notice()
