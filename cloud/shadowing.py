"""Which releases a channel's notice carries, and which a rollback reaches: what follows from releases alone."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.down import NoticeRelease
from protocol.errors import FleetliftError
from protocol.identity import Installed, VersionRange
from protocol.manifest import ANY_HARDWARE
from protocol.values import MAX_RELEASES, FirmwareRef


class TooManyReleasesError(FleetliftError):
    """A channel has more enabled releases that may still reach somebody than one notice can carry."""


def notice_releases(releases: Sequence[NoticeRelease]) -> tuple[NoticeRelease, ...]:
    """Return those of a channel's enabled releases that a notice must carry, newest label first.

    Left out is a release *old* that a newer one *new* shadows: whenever *old* applies to a device, *new* does too.
    As the first release that applies decides, *old* then never decides, and `select` gives every device the same
    decision without it. A release applies if its firmware admits the hardware, and the device either runs that
    firmware or is covered by the percentage and in the target range (rule 3 of `protocol.selection`). So *new*
    shadows *old* if it admits all hardware that *old* admits, its percentage is 100 (it covers every bucket), its terms
    keep nobody out at any time, and

    - its target range is `*`: then every admitted device is in it; or
    - both state the same range, and their firmware is the same: they apply by running it, or by the range, alike; or
    - both state the same range, and *old*'s firmware is itself in it, whatever else is installed: a device to which
      *old* applies because it is in the range is in *new*'s; one that runs *old*'s firmware has its version and build,
      and is in the range too. (That a digest comes with the version and build that were signed with it is taken as
      given here, and nowhere else.)

    The last case keeps parallel lines (`1.x`, `2.x`) short. Raises TooManyReleasesError when more than MAX_RELEASES
    remain.
    """
    newest_first = sorted(releases, key=lambda release: -release.label)
    kept: list[NoticeRelease] = []
    for release in newest_first:
        if not any(_shadows(newer, release) for newer in kept):
            kept.append(release)
    if len(kept) > MAX_RELEASES:
        raise TooManyReleasesError(
            f"{len(kept)} enabled releases of this channel may still reach somebody, and a notice carries "
            f"{MAX_RELEASES}; disable old ones, or release to 100 % without a target range"
        )
    return tuple(kept)


def rollback_range(earlier: NoticeRelease, later: Sequence[NoticeRelease]) -> str:
    """Return the target range by which a rollback reaches whom `earlier` reached, wherever they went from there.

    That is `earlier`'s own range, and the version of each later release of the channel (labels ascending) that moved
    such devices on: one of the same range, or of a range that one of the versions so far is in. A parallel line of
    other versions is left alone.
    """
    component = earlier.firmware.component
    if _is_every_version(earlier.target_range):
        return "*"
    text, ranges, versions = earlier.target_range, {earlier.target_range}, [_signed(earlier.firmware)]
    for release in later:
        target = VersionRange.parse(release.target_range)
        moved_on = release.target_range in ranges or any(target.matches(component, {component: it}) for it in versions)
        if moved_on:
            ranges.add(release.target_range)
            versions.append(_signed(release.firmware))
            if not VersionRange.parse(text).matches(component, {component: versions[-1]}):
                text += f" || ={release.firmware.version}"
    return text


def _shadows(new: NoticeRelease, old: NoticeRelease) -> bool:
    if new.percentage < 100 or not new.terms.for_all or not _admits_all(new.firmware, old.firmware):
        return False
    if _is_every_version(new.target_range):
        return True
    if new.target_range.split() != old.target_range.split():
        return False
    return new.firmware.digest == old.firmware.digest or _in_own_range(old)


def _admits_all(new: FirmwareRef, old: FirmwareRef) -> bool:
    return ANY_HARDWARE in new.hardware_models or set(old.hardware_models) <= set(new.hardware_models)


def _is_every_version(target_range: str) -> bool:
    alternatives = VersionRange.parse(target_range).alternatives
    return any(all(comparator.operand == "*" for comparator in alternative) for alternative in alternatives)


def _in_own_range(release: NoticeRelease) -> bool:
    """Tell whether whoever runs the release's firmware is in its range: a range fails for a component not given."""
    installed = {release.firmware.component: _signed(release.firmware)}
    return VersionRange.parse(release.target_range).matches(release.firmware.component, installed)


def _signed(firmware: FirmwareRef) -> Installed:
    return Installed(version=firmware.version, build=firmware.build)
