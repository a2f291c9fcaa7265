"""A release: how far it is, what its gates know, what became of its devices, and the words that steer it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter, Response

from cloud.access.roles import Role
from cloud.api.documents import ReleaseChange, ReleasePage
from cloud.api.needs import show_needs as ask_needs
from cloud.api.products import show_product
from cloud.api.releases import patch_release, show_release
from cloud.api.rollouts import (
    RolloutPage,
    Saying,
    abort_rollout,
    advance_rollout,
    approve_rollout,
    pause_release,
    resume_release,
    retry_release,
)
from cloud.api.timelines import Timeline, show_release_timeline
from cloud.console.counts import Counts
from cloud.console.lines import release_line
from cloud.console.release_deeds import channel_path, deeds_of, release_path
from cloud.console.release_words import gates_of, phases_of, terms_of
from cloud.console.visiting import Visit, Visiting
from cloud.progress import Rollout, Stage
from cloud.values import ReleaseView

MOMENTS: Final = 60
STAGES: Final = tuple(it.value for it in Stage)
_BAD: Final = frozenset(
    {"rollout.gate", "rollout.aborted", "rollout.stratum_stopped", "device.rolled_back", "device.failed"}
    | {"device.success_taken_back", "release.disabled"}
)
_GOOD: Final = frozenset({"rollout.completed", "device.updated", "rollout.approved"})
_WARN: Final = frozenset({"rollout.paused", "device.quiet"})

router = APIRouter(include_in_schema=False)


@router.get("/releases/{release_id}")
async def show_one(visit: Visit, release_id: str) -> Response:
    """Show a release."""
    await asyncio.to_thread(visit.require, "show_release", release_id=release_id)
    timeline = await show_release_timeline(visit.server, release_id, limit=MOMENTS)
    return await asyncio.to_thread(_page, visit, "release.html", release_id, timeline)


@router.get("/releases/{release_id}/standing")
def show_standing(visit: Visit, release_id: str) -> Response:
    """Show how far it is, alone."""
    visit.require("show_release", release_id=release_id)
    return visit.page("release_standing.html", **_context(visit, release_id))


@router.get("/releases/{release_id}/timeline")
async def show_timeline(visit: Visit, release_id: str) -> Response:
    """Show what happened to it, alone."""
    await asyncio.to_thread(visit.require, "show_release_timeline", release_id=release_id)
    timeline = await show_release_timeline(visit.server, release_id, limit=MOMENTS)
    return visit.page("release_timeline.html", release_id=release_id, moments=_moments(timeline))


@router.get("/releases/{release_id}/needs")
def show_needs(visit: Visit, release_id: str) -> Response:
    """Show which devices of its group need something else first."""
    visit.require("show_needs", release_id=release_id)
    page = show_release(visit.server, release_id, metrics=False)
    return visit.page(
        "release_needs.html",
        release=page.release,
        needs=ask_needs(visit.server, release_id),
        line=release_line(page.release, "needs"),
        channel=channel_path(page.release.channel),
    )


@router.post("/releases/{release_id}/{deed}")
def steer(visit: Visit, release_id: str, deed: str) -> Response:
    """Do one of the things that take no more than a word."""
    visit.require("show_release", release_id=release_id)
    before = show_release(visit.server, release_id, metrics=False).release
    back = channel_path(before.channel) if visit.form.text("back") == "channel" else release_path(release_id)
    if deed in ("enable", "disable"):
        change = ReleaseChange(enabled=deed == "enable")
        return visit.act(
            "patch_release",
            lambda: patch_release(visit.server, visit.name, release_id, change),
            to=back,
            said=f"v{before.label} is {deed}d.",
            cli=release_line(before, deed),
            body=change.model_dump(exclude_unset=True),
            release_id=release_id,
        )
    if deed not in _WORDS:
        return visit.go(back, f"There is nothing called {deed!r:.40} to do. Nothing was changed.", kind="error")
    operation, said, options = _WORDS[deed]
    why = visit.form.text("why")
    more = (*options, *(("--why", why) if why and deed in ("pause", "abort") else ()))
    return visit.act(
        operation,
        lambda: _DEEDS[deed](visit, release_id, why),
        to=back,
        said=f"v{before.label} {said}.",
        cli=release_line(before, deed, *more),
        release_id=release_id,
    )


_WORDS: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "pause": ("pause_release", "is paused: nobody further takes it", ()),
    "resume": ("resume_release", "goes on", ()),
    "retry": ("retry_release", "is tried again by the devices that failed", ()),
    "abort": ("abort_rollout", "is aborted: its devices return to the release before", ("--yes",)),
    "advance": ("advance_rollout", "is in its next phase", ("--yes",)),
    "approve": ("approve_rollout", "is approved by you", ()),
}
_DEEDS: Final[Mapping[str, Callable[[Visiting, str, str], RolloutPage | ReleasePage]]] = {
    "pause": lambda visit, release_id, why: pause_release(visit.server, visit.name, release_id, Saying(why=why)),
    "resume": lambda visit, release_id, _: resume_release(visit.server, visit.name, release_id),
    "retry": lambda visit, release_id, _: retry_release(visit.server, visit.name, release_id),
    "abort": lambda visit, release_id, why: abort_rollout(visit.server, visit.name, release_id, Saying(why=why)),
    "advance": lambda visit, release_id, _: advance_rollout(visit.server, visit.name, release_id),
    "approve": lambda visit, release_id, _: approve_rollout(visit.server, visit.name, release_id),
}


def _page(visit: Visiting, template: str, release_id: str, timeline: Timeline) -> Response:
    return visit.page(template, release_id=release_id, moments=_moments(timeline), **_context(visit, release_id))


def _context(visit: Visiting, release_id: str) -> dict[str, Any]:
    counts: Counts = visit.request.app.state.counts
    page = show_release(visit.server, release_id, metrics=False)
    release = page.release
    product = release.channel.product
    large = counts.is_large(show_product(visit.server, product))
    progress = counts.progress(release, large=large)
    rollout = _as_it_is(counts.rollout(release, large=large), page) if page.rollout else None
    deeds = deeds_of(release, page.rollout, lambda role: visit.may(role, product), visit.name)
    return {
        "release": release,
        "brief": page.rollout,
        "channel": channel_path(release.channel),
        "deeds": deeds,
        "progress": progress,
        "stages": {it: progress.stages.get(Stage(it), 0) for it in STAGES} if progress else {},
        "rollout": rollout,
        "phases": phases_of(rollout) if rollout else (),
        "gates": gates_of(rollout) if rollout else (),
        "terms": terms_of(release.terms),
        "status_line": release_line(release, "rollout" if page.rollout else "show"),
        "timeline_line": release_line(release, "timeline"),
        "needs_line": release_line(release, "needs"),
        "may_operate": visit.may(Role.OPERATOR, product),
        "references": _referenced(release),
    }


def _as_it_is(counted: RolloutPage | None, page: ReleasePage) -> RolloutPage | None:
    """Return a plan's page with the status and phase of now: what was counted may be older than a decision."""
    now: Rollout | None = page.rollout
    if counted is None or now is None or (counted.status, counted.phase) == (now.status, now.phase):
        return counted
    return counted.model_copy(
        update={"status": now.status, "phase": now.phase, "why": now.why, "waits_for": "being counted anew"}
    )


def _moments(timeline: Timeline) -> list[tuple[str, Any]]:
    """Return what happened, newest first, each with its colour."""
    found = []
    for moment in reversed(timeline.moments):
        kind = "bad" if moment.kind in _BAD else "good" if moment.kind in _GOOD else ""
        kind = "warn" if moment.kind in _WARN else kind or ("busy" if moment.kind.startswith("rollout.") else "")
        found.append((kind, replace(moment, actor=moment.actor or "")))
    return found


def _referenced(release: ReleaseView) -> str:
    return f"v{release.references_label}" if release.references_label else ""
