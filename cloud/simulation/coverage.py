"""Which places of a kind a release reaches: `protocol.selection` in one step for devices that differ by place alone.

`select` is asked about every device by the device; a rehearsal of a million devices asks it about whole kinds. The two
agree for every release, kind, place and time: a test holds them against each other.
"""

from __future__ import annotations

from cloud.simulation.fleets import Kind
from protocol.down import NoticeRelease
from protocol.schedule import PER_CENT, PLACES


def covered_below(release: NoticeRelease, kind: Kind, now_ms: int) -> int:
    """Return the number below which all places of a kind are covered by the release's terms, 0 for none of them."""
    terms = release.terms
    if terms.paused or now_ms < terms.not_before_ms:
        return 0
    if any(stratum.contains(kind.hardware_model, kind.version) for stratum in terms.stopped):
        return 0
    if any(group in kind.groups for group in terms.canaries):
        return PLACES
    if terms.ramp is not None:
        return terms.ramp.covered(release.percentage, now_ms)
    return release.percentage * PER_CENT
