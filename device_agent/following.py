"""Follows the newer root that a bundle stands on: one look at a time, and few where only the broker says there is one.

The worker that looks also fetches and goes back, so a broker must not be able to keep it busy. A look that found a
newer root may be followed by another at once; after one that did not, there is a pause.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from device_agent.loop import Loop, Worker
from protocol.errors import FleetliftError

LOOK_AGAIN_S: Final = 60.0
_LOG = logging.getLogger(__name__)


class Roots(Protocol):
    """What is trusted (`trust.DeviceTrust`)."""

    @property
    def root_version(self) -> int:
        """The version of the root metadata that is trusted."""

    @property
    def is_behind(self) -> bool:
        """Whether the last bundle stands on a newer root."""

    def refresh(self) -> None:
        """Bring everything up to date; blocking. Raises TrustError."""


class RootFollower:
    """`look` is for the loop's thread; `on_followed` is called there when a newer root is trusted."""

    def __init__(self, roots: Roots, loop: Loop, worker: Worker, on_followed: Callable[[], None]) -> None:
        self._roots = roots
        self._loop = loop
        self._worker = worker
        self._on_followed = on_followed
        self._busy = False

    def look(self) -> None:
        """Look for a newer root if there is said to be one, now or when that is due."""
        if not self._busy and self._roots.is_behind:
            self._busy = True
            self._worker.submit(self._refresh)

    def _refresh(self) -> None:
        before = self._roots.root_version
        try:
            self._roots.refresh()
        except FleetliftError as error:
            _LOG.warning("the newer root is not trusted: %s", error)
        followed = self._roots.root_version > before
        self._loop.post(lambda: self._looked(followed=followed))

    def _looked(self, *, followed: bool) -> None:
        if followed:
            self._on_followed()
            self._look_again()
        else:
            self._loop.after("root", LOOK_AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        self._busy = False
        self.look()
