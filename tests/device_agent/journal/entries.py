"""What is written to journals here."""

from protocol.phases import Phase
from protocol.up import AttemptEntry
from tests.support.updates import attempt

NOW = 1_800_000_000.5


def told(attempt_id: str = "a1", phase: Phase = Phase.DOWNLOADING) -> AttemptEntry:
    taken = attempt(attempt_id=attempt_id)
    return AttemptEntry(
        attempt_id=attempt_id,
        source_id=taken.source_id,
        via=taken.via,
        component="app",
        version="1.1.0",
        digest=taken.firmware.digest,
        phase=phase,
    )
