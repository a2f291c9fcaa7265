"""More of a release that exists: change it, make it immediate, release it to another group, make it Live again."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Response

from cloud.access.roles import Role
from cloud.api.documents import Promotion, ReleaseChange, ReleasePage, Rollback
from cloud.api.groups import list_groups
from cloud.api.preflight import promote_release, roll_back
from cloud.api.releases import patch_release, show_release, show_waiting
from cloud.console.forms import Form, RefusedError
from cloud.console.lines import release_line
from cloud.console.release_deeds import OPEN, channel_path, release_path
from cloud.console.reviewing import Question, ask, check_confirmed, check_typed, has_to_type, is_to_wait
from cloud.console.visiting import Visit, Visiting
from cloud.values import MAX_PERCENTAGE, ReleaseView
from protocol.values import Urgency

SHOWN: Final = 100
"""Devices that are named of those that wait."""

router = APIRouter(include_in_schema=False)


# Change it


@router.get("/releases/{release_id}/edit")
def show_edit(visit: Visit, release_id: str) -> Response:
    """Show what can be changed of a release."""
    return _edit(visit, _found(visit, release_id))


@router.post("/releases/{release_id}/edit")
def edit(visit: Visit, release_id: str) -> Response:
    """Change a release for the devices that it has not reached."""
    page = _found(visit, release_id)
    release, form = page.release, visit.form
    try:
        before = {
            "percentage": release.percentage,
            "mandatory": release.mandatory,
            "forced": release.forced,
            "urgency": release.urgency,
            "description": release.description,
        }
        wanted: dict[str, Any] = {
            "percentage": form.number("percentage", release.percentage),
            "mandatory": form.ticked("mandatory"),
            "forced": form.ticked("forced"),
            "urgency": form.text("urgency", release.urgency.value),
            "description": form.text("description"),
        }
        changes: dict[str, Any] = {name: value for name, value in wanted.items() if value != before[name]}
        if not changes:
            return visit.go(release_path(release_id), f"v{release.label} was so already. Nothing was changed.")
        visit.do(
            "patch_release",
            lambda: patch_release(visit.server, visit.name, release_id, ReleaseChange(**changes)),
            body=changes,
            release_id=release_id,
        )
    except RefusedError as error:
        return _edit(visit, page, refused=str(error))
    said = f"v{release.label} is changed: {', '.join(name for name in changes)}."
    return visit.go(release_path(release_id), said, cli=release_line(release, "patch", *_patch_words(changes)))


def _edit(visit: Visiting, page: ReleasePage, *, refused: str = "") -> Response:
    release, form = page.release, visit.form
    by_plan = page.rollout is not None and page.rollout.status in OPEN
    typed = {
        "percentage": form.text("percentage", str(release.percentage)),
        "urgency": form.text("urgency", release.urgency.value),
        "description": form.text("description", release.description),
        "forced": form.ticked("forced") if form.fields else release.forced,
        "mandatory": form.ticked("mandatory") if form.fields else release.mandatory,
    }
    return visit.page(
        "release_edit.html",
        status=HTTPStatus.CONFLICT if refused else HTTPStatus.OK,
        refused=refused,
        release=release,
        crumbs=_crumbs(release),
        by_plan=by_plan,
        typed=typed,
        line=release_line(release, "patch", "--percentage", release.percentage),
        may=visit.may(Role.RELEASE_MANAGER, release.channel.product),
    )


def _patch_words(changes: dict[str, Any]) -> tuple[str, ...]:
    words: list[str] = []
    if "percentage" in changes:
        words += ["--percentage", str(changes["percentage"])]
    if "mandatory" in changes:
        words.append("--mandatory" if changes["mandatory"] else "--optional")
    if "forced" in changes:
        words.append("--force" if changes["forced"] else "--no-force")
    if "urgency" in changes:
        words.append(f"--{changes['urgency']}")
    if "description" in changes:
        words += ["--description", changes["description"]]
    return tuple(words)


# Make it immediate


@router.get("/releases/{release_id}/now")
def show_now(visit: Visit, release_id: str) -> Response:
    """Show who waits for a gradual release, and ask whether they are to take it in real time."""
    return _now(visit, _found(visit, release_id).release)


@router.post("/releases/{release_id}/now")
def release_now(visit: Visit, release_id: str) -> Response:
    """Make a release immediate, if as many wait for it as was shown."""
    release = _found(visit, release_id).release
    if visit.form.text("step") != "now":
        return _now(visit, release)
    try:
        check_typed(visit, visit.form.number("reach", 0) or 0)
        change = ReleaseChange(urgency=Urgency.IMMEDIATE, if_waiting=visit.form.text("waiting"))
        visit.do(
            "patch_release",
            lambda: patch_release(visit.server, visit.name, release_id, change),
            body={"urgency": "immediate"},
            release_id=release_id,
        )
    except RefusedError as error:
        return _now(visit, release, refused=str(error))
    said = f"v{release.label} is immediate: online devices take it in real time."
    return visit.go(release_path(release_id), said, cli=release_line(release, "now", "--yes"))


def _now(visit: Visiting, release: ReleaseView, *, refused: str = "") -> Response:
    """Show who waits, counted now; of a large fleet a page comes first that asks for that."""
    visit.require("show_waiting", release_id=release.release_id)
    may_be = release.enabled and release.urgency is Urgency.GRADUAL
    is_counted = may_be and (bool(refused) or not is_to_wait(visit, release.channel.product))
    waiting = show_waiting(visit.server, release.release_id, limit=SHOWN) if is_counted else None
    return visit.page(
        "release_now.html",
        status=HTTPStatus.CONFLICT if refused else HTTPStatus.OK,
        refused=refused,
        release=release,
        crumbs=_crumbs(release),
        waiting=waiting,
        typed=waiting is not None and has_to_type(visit, waiting.count),
        line=release_line(release, "now", "--yes"),
        may=visit.may(Role.RELEASE_MANAGER, release.channel.product),
    )


# Release it to another group, make it Live again


@router.get("/releases/{release_id}/promote")
def show_promote(visit: Visit, release_id: str) -> Response:
    """Ask to which group what succeeded here is released."""
    return _promote(visit, _found(visit, release_id).release)


@router.post("/releases/{release_id}/promote")
def promote(visit: Visit, release_id: str) -> Response:
    """Show what a promotion would do; or promote, if that is what was confirmed."""
    release = _found(visit, release_id).release
    if visit.form.text("step") == "back":
        return _promote(visit, release)
    try:
        body, said = _promotion(release, visit.form)
        question = _question(
            visit,
            release,
            body,
            f"Promote {release.channel.component} {release.firmware.version} to {body['group']}?",
            "promote",
        )
        refused = ""
        if visit.form.text("step") == "release":
            try:
                promotion = Promotion(**said, plan_hash=check_confirmed(visit))
                made = visit.do(
                    "promote_release",
                    lambda: promote_release(visit.server, visit.name, release_id, promotion),
                    release_id=release_id,
                )
                return _made(visit, made, release_line(release, "promote", *_promote_words(said)))
            except RefusedError as error:
                refused = str(error)
        return ask(visit, question, refused=refused)
    except RefusedError as error:
        return _promote(visit, release, refused=str(error))


@router.get("/releases/{release_id}/rollback")
def show_rollback(visit: Visit, release_id: str) -> Response:
    """Show whom it would reach to make an earlier release Live again."""
    return _review_rollback(visit, _found(visit, release_id).release)


@router.post("/releases/{release_id}/rollback")
def rollback(visit: Visit, release_id: str) -> Response:
    """Make an earlier release Live again, if that is what was confirmed."""
    release = _found(visit, release_id).release
    if visit.form.text("step") != "release":
        return _review_rollback(visit, release)
    try:
        body = Rollback(urgency=Urgency.GRADUAL, plan_hash=check_confirmed(visit))
        made = visit.do(
            "roll_back", lambda: roll_back(visit.server, visit.name, release_id, body), release_id=release_id
        )
        return _made(visit, made, release_line(release, "rollback", "--yes"))
    except RefusedError as error:
        return _review_rollback(visit, release, refused=str(error))


def _review_rollback(visit: Visiting, release: ReleaseView, *, refused: str = "") -> Response:
    try:
        return ask(visit, _rollback_question(visit, release), refused=refused)
    except RefusedError as error:  # it cannot be planned: it succeeded nowhere, or is Live again
        return visit.go(release_path(release.release_id), str(error), kind="error", code=error.code)


def _promote(visit: Visiting, release: ReleaseView, *, refused: str = "") -> Response:
    form, product = visit.form, release.channel.product
    typed = {
        "to": form.text("to", release.channel.group),
        "percentage": form.text("percentage", str(MAX_PERCENTAGE)),
        "urgency": form.text("urgency", release.urgency.value),
        "description": form.text("description", release.description),
        "mandatory": form.ticked("mandatory") if form.fields else release.mandatory,
    }
    return visit.page(
        "release_promote.html",
        status=HTTPStatus.CONFLICT if refused else HTTPStatus.OK,
        refused=refused,
        release=release,
        crumbs=_crumbs(release),
        typed=typed,
        groups=[(it.group, it.group) for it in list_groups(visit.server, visit.caller, product=product)],
        line=release_line(release, "promote", "--to", typed["to"], "--yes"),
        may=visit.may(Role.RELEASE_MANAGER, product),
    )


def _promotion(release: ReleaseView, form: Form) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the release that a promotion would be, and what the promotion says."""
    said = {
        "group": form.text("to"),
        "percentage": form.number("percentage", MAX_PERCENTAGE),
        "mandatory": form.ticked("mandatory"),
        "urgency": form.text("urgency", release.urgency.value),
        "description": form.text("description"),
    }
    return _as_request(release) | said, said


def _promote_words(said: dict[str, Any]) -> tuple[str, ...]:
    words = ["--to", said["group"], "--percentage", str(said["percentage"])]
    words += ["--mandatory" if said["mandatory"] else "--optional", f"--{said['urgency']}"]
    return (*words, "--description", said["description"], "--yes")


def _as_request(release: ReleaseView) -> dict[str, Any]:
    return {
        "product": release.channel.product,
        "group": release.channel.group,
        "component": release.channel.component,
        "version": release.firmware.version,
        "target_range": release.target_range,
        "mandatory": release.mandatory,
    }


def _rollback_question(visit: Visiting, release: ReleaseView) -> Question:
    title = f"Roll {release.channel.component} for {release.channel.group} back to v{release.label}?"
    body = _as_request(release) | {"rollback_to": release.label}
    return _question(visit, release, body, title, "rollback")


def _question(visit: Visiting, release: ReleaseView, body: dict[str, Any], title: str, deed: str) -> Question:
    says = [f"{release.firmware.version} under a new label"]
    says += ["online devices take it at once" if body.get("urgency") == "immediate" else "taken at the next session"]
    if deed == "rollback" and release.target_range != "*":
        says.append(f"on devices that v{release.label} reached, and those that later labels moved on from there")
    return Question(
        title=title,
        crumbs=_crumbs(release),
        action=release_path(release.release_id, deed),
        button="Roll back" if deed == "rollback" else "Promote",
        body=body,
        says=tuple(says),
        plan_line=release_line(release, deed, "--yes"),
        may_release=visit.may(Role.RELEASE_MANAGER, release.channel.product),
        back=channel_path(release.channel) if deed == "rollback" else "",
    )


def _made(visit: Visiting, made: ReleasePage, cli: str) -> Response:
    release = made.release
    said = f"{release.channel} {release.name} is {'Live' if release.live else 'made'}."
    return visit.go(release_path(release.release_id), said, cli=cli)


def _found(visit: Visiting, release_id: str) -> ReleasePage:
    visit.require("show_release", release_id=release_id)
    return show_release(visit.server, release_id, metrics=False)


def _crumbs(release: ReleaseView) -> tuple[tuple[str, str], ...]:
    channel = release.channel
    return (
        ("/products", "Products"),
        ("/products/" + channel.product, channel.product),
        (channel_path(channel), f"{channel.component} for {channel.group}"),
        (release_path(release.release_id), f"v{release.label}"),
    )
