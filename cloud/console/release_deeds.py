"""What can be done with a release as it stands, by whoever looks at it: one list for cards, pages and their forms."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from cloud.access.roles import Role
from cloud.console.lines import line, release_line, where
from cloud.progress import Rollout
from cloud.values import ChannelKey, ReleaseView
from protocol.values import Urgency

OPEN: Final = frozenset({"awaiting_approval", "scheduled", "running", "paused", "stopped_by_gate"})
_TRIED: Final = frozenset({"running", "paused", "completed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something to do: a page of its own (`href`), or a question with a button; `why` asks for a reason."""

    name: str
    label: str
    line: str = ""
    href: str = ""
    question: str = ""
    kind: str = ""
    why: bool = False


def release_path(release_id: str, *more: str) -> str:
    """Return the address of a release's page, or of one below it."""
    return "/".join(["/releases", quote(release_id, safe=""), *more])


def channel_path(channel: ChannelKey, *more: str) -> str:
    """Return the address of a channel's page, or of one below it."""
    parts = (channel.product, channel.component, channel.group)
    return "/".join(["/products", *(quote(part, safe="") for part in parts), *more])


def deeds_of(release: ReleaseView, rollout: Rollout | None, may: Callable[[Role], bool], name: str) -> tuple[Deed, ...]:
    """Return what somebody of this name may do with a release now."""
    status = rollout.status if rollout else ""
    found: list[Deed] = []
    if may(Role.RELEASE_MANAGER):
        found += _deciding(release, rollout, name)
    if may(Role.OPERATOR):
        found += _stopping(release, status)
    if may(Role.RELEASE_MANAGER):
        found += _again(release, status)
    return tuple(found)


def _deciding(release: ReleaseView, rollout: Rollout | None, name: str) -> list[Deed]:
    found = []
    if rollout and rollout.status == "awaiting_approval" and name != release.created_by:
        found.append(
            Deed(
                name="approve",
                label="Approve",
                kind="main",
                line=release_line(release, "approve"),
                question="Agree that it goes to its devices. The audit log keeps that it was you.",
            )
        )
    if rollout and rollout.status == "running" and rollout.phase < rollout.phases:
        found.append(
            Deed(
                name="advance",
                label="Advance",
                line=release_line(release, "advance", "--yes"),
                question=f"Open phase {rollout.phase + 1} of {rollout.phases} now, whatever the open one waits for?",
            )
        )
    if release.enabled and release.urgency is Urgency.GRADUAL:
        found.append(
            Deed(
                name="now",
                label="Release now",
                line=release_line(release, "now", "--yes"),
                href=release_path(release.release_id, "now"),
            )
        )
    return found


def _stopping(release: ReleaseView, status: str) -> list[Deed]:
    found = []
    if status in ("running", "scheduled"):
        said = "Nobody further takes it. Who has it keeps it, and who is before the restart with it lets it be."
        found.append(Deed(name="pause", label="Pause", line=release_line(release, "pause"), question=said, why=True))
    if status in ("paused", "stopped_by_gate"):
        said = "Go on where it was. What stopped it does not count again."
        found.append(Deed(name="resume", label="Resume", line=release_line(release, "resume"), question=said))
    if status in _TRIED and release.enabled:
        said = "The devices that failed at it so far try once more."
        found.append(Deed(name="retry", label="Retry", line=release_line(release, "retry"), question=said))
    if status in OPEN:
        said = "End it for good: it is disabled, and its devices return to the release before."
        words = release_line(release, "abort", "--yes")
        found.append(Deed(name="abort", label="Abort", line=words, question=said, kind="danger", why=True))
    elif release.enabled:
        said = "Its devices return to the enabled release before, where there is one. It can be enabled again."
        words = release_line(release, "disable")
        found.append(Deed(name="disable", label="Disable", line=words, question=said, kind="danger"))
    return found


def _again(release: ReleaseView, status: str) -> list[Deed]:
    found = []
    if not release.enabled and not status:  # what went by a plan is released again, or resumed
        said = "It counts again: devices that it is for take it, if no newer label reaches them."
        found.append(Deed(name="enable", label="Enable", line=release_line(release, "enable"), question=said))
    if release.enabled:
        href = release_path(release.release_id, "edit")
        words = release_line(release, "patch", "--percentage", release.percentage)
        found.append(Deed(name="edit", label="Edit", href=href, line=words))
    href = release_path(release.release_id, "promote")
    words = release_line(release, "promote", "--to", release.channel.group, "--yes")
    found.append(Deed(name="promote", label="Promote", href=href, line=words))
    if release.live:
        href, words = channel_path(release.channel, "rollback"), line("release", "list", *where(release.channel))
        found.append(Deed(name="rollback", label="Roll back", href=href, line=words))
    else:
        href, words = release_path(release.release_id, "rollback"), release_line(release, "rollback", "--yes")
        found.append(Deed(name="rollback", label="Roll back to this", href=href, line=words))
    return found
