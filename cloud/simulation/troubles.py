"""What a made-up release does to devices: fails in its proof, fails later, or is the last that is heard of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cloud.simulation.durations import parse_share
from cloud.simulation.fleets import Kind
from protocol.errors import UserError
from protocol.schedule import Stratum


@dataclass(frozen=True, slots=True, kw_only=True)
class Troubles:
    """The chances of a release, each of 1, and how long after its installation it shows.

    `fails` is the chance of a failure, and `fails_of` that of devices of a stratum: the narrowest one counts. A failure
    shows at once, so that the device falls back, or (`fails_after_s`, a mean of exponential times) when the device has
    kept the release: then it says no more than that its application crashes. `silent` is the chance that a device that
    installs the release is never heard again.
    """

    fails: float = 0.0
    fails_of: Mapping[Stratum, float] = field(default_factory=dict)
    fails_after_s: float = 0.0
    silent: float = 0.0

    def chance_for(self, kind: Kind) -> float:
        """Return the chance of a failure of one kind."""
        fitting = [it for it in self.fails_of if it.contains(kind.hardware_model, kind.version)]
        narrowest = max(fitting, key=_narrowness, default=None)
        return self.fails if narrowest is None else self.fails_of[narrowest]

    @property
    def any(self) -> bool:
        """Whether it does anything to anybody."""
        return bool(self.fails or self.silent or any(self.fails_of.values()))


def _narrowness(stratum: Stratum) -> int:
    return (stratum.hardware_model is not None) + (stratum.from_version is not None)


def parse_fails(texts: Sequence[str]) -> tuple[float, dict[Stratum, float]]:
    """Return what `15%`, `pi3=40%`, `pi3@1.0.0=60%` and `@1.0.0=5%` say of failures; raises UserError."""
    everywhere, strata = 0.0, {}
    for text in texts:
        who, _, share = text.rpartition("=")
        if not who:
            everywhere = parse_share(share)
            continue
        model, _, version = who.partition("@")
        strata[Stratum(hardware_model=model or None, from_version=version or None)] = parse_share(share)
    return everywhere, strata


def check_strata(strata: Mapping[Stratum, float], kinds: Sequence[Kind]) -> None:
    """Raise UserError for a stratum that no device of the fleet is in: its failures would never be seen."""
    for stratum in strata:
        if not any(stratum.contains(kind.hardware_model, kind.version) for kind in kinds):
            raise UserError(
                f"no device of this fleet is {stratum}: say how many are, with --hardware MODEL=SHARE or "
                "--from VERSION=SHARE. Nothing was simulated."
            )
