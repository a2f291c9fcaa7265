"""Which applications are still to be started, and for what they wait first: pure, but for its set of names.

An application starts at once, unless (in this order, each for its own component)

1. the update under way starts or ends it itself (the trial, and the way back);
2. what is verified is installed right now, because nothing runs yet (and holders get their grace for it);
3. a mandatory update that may be installed now is being fetched, or is known and not yet taken, or news are waited
   for at the start: as long as it gets on, or until the time is up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from device_agent.events import Snapshot
from protocol.phases import Phase
from protocol.values import ComponentState

MANDATORY_WAIT_S: Final = 15.0
"""How long without a sign of progress a known mandatory update keeps an application from starting."""
_STARTED_BY_EFFECTS: Final = frozenset({Phase.RESTARTING, Phase.PROVING, Phase.ROLLING_BACK})


@dataclass(slots=True, kw_only=True)
class Starting:
    """The start of the agent, as its applications see it; times are seconds of a clock that only goes forward."""

    began_s: float
    news_wait_s: float
    names: set[str] = field(default_factory=set)
    recorded: dict[str, ComponentState] = field(default_factory=dict)
    """What the slots say of those that did not run yet since the agent's start: decisions count on it until they do."""
    decided: bool = False
    """The cloud answered, and a decision was made on it."""
    _progressed_s: float = field(default=float("-inf"), init=False)

    def progressed(self, now: float) -> None:
        """Hear that the download got on, or the link came up."""
        self._progressed_s = now

    def waits(self, name: str, snapshot: Snapshot, *, mandatory_known: bool, in_grace: bool, now: float) -> bool:
        """Tell whether an application that is to be started waits."""
        attempt = snapshot.attempt
        if attempt is not None and attempt.firmware.component == name:
            if snapshot.phase in _STARTED_BY_EFFECTS:
                return True
            if snapshot.phase is Phase.INSTALLING:
                return snapshot.waiting is None or in_grace
            if snapshot.phase in (Phase.DOWNLOADING, Phase.VERIFYING) and attempt.mandatory:
                return mandatory_known and snapshot.waiting is None and now < self._mandatory_deadline()
            return False
        if self.decided:
            return False
        return now < self.began_s + self.news_wait_s or (mandatory_known and now < self._mandatory_deadline())

    def next_deadline(self, now: float) -> float | None:
        """Return when the answer changes by itself."""
        times = (self.began_s + self.news_wait_s, self._mandatory_deadline())
        return min((due for due in times if due > now), default=None)

    def _mandatory_deadline(self) -> float:
        return max(self.began_s, self._progressed_s) + MANDATORY_WAIT_S
