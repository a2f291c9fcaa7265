"""More of a release that exists: change it, make it immediate, release it to another group, make it Live again."""

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Response

from cloud.access.roles import Role
from cloud.api.documents import Promotion, ReleaseChange, ReleasePage, Rollback
from cloud.api.groups import list_groups
from cloud.api.products import show_product
from cloud.api.releases import patch_release, promote_release, roll_back, show_release
from cloud.console.counts import Counts
from cloud.console.forms import Form, RefusedError
from cloud.console.lines import release_line
from cloud.console.release_deeds import OPEN, channel_path, release_path
from cloud.console.reviewing import Question, ask, check_as_planned, check_typed, has_to_type
from cloud.console.templating import grouped
from cloud.console.visiting import Visit, Visiting
from cloud.progress import Stage
from cloud.values import MAX_PERCENTAGE, ReleaseView
from protocol.values import Urgency

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
            "urgency": release.urgency,
            "description": release.description,
        }
        wanted: dict[str, Any] = {
            "percentage": form.number("percentage", release.percentage),
            "mandatory": form.ticked("mandatory"),
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
    large, waiting = _waiting(visit, release)
    try:
        shown = visit.form.number("reach", 0) or 0
        _check_as_shown(shown, shown if large else waiting)
        check_typed(visit, shown)
        change = ReleaseChange(urgency=Urgency.IMMEDIATE)
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
    counts: Counts = visit.request.app.state.counts
    large, waiting = _waiting(visit, release)
    progress = counts.progress(release, large=large)
    devices = progress.devices if progress else ()
    return visit.page(
        "release_now.html",
        status=HTTPStatus.CONFLICT if refused else HTTPStatus.OK,
        refused=refused,
        release=release,
        crumbs=_crumbs(release),
        progress=progress,
        waiting=waiting,
        waiters=[it for it in devices if it.stage is Stage.WAITING],
        typed=has_to_type(visit, waiting),
        line=release_line(release, "now", "--yes"),
        may=visit.may(Role.RELEASE_MANAGER, release.channel.product),
    )


def _check_as_shown(shown: int, waiting: int) -> None:
    if shown != waiting:
        said = f"{grouped(shown)} devices waited for it, and {grouped(waiting)} do now"
        raise RefusedError(f"{said}. Nothing was changed; look again.")


def _waiting(visit: Visiting, release: ReleaseView) -> tuple[bool, int]:
    counts: Counts = visit.request.app.state.counts
    large = counts.is_large(show_product(visit.server, release.channel.product))
    progress = counts.progress(release, large=large)
    return large, progress.stages.get(Stage.WAITING, 0) if progress else 0


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
                check_as_planned(visit, body)
                made = visit.do(
                    "promote_release",
                    lambda: promote_release(visit.server, visit.name, release_id, Promotion(**said)),
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
    release = _found(visit, release_id).release
    try:
        return ask(visit, _rollback_question(visit, release))
    except RefusedError as error:
        return visit.go(release_path(release_id), str(error), kind="error")


@router.post("/releases/{release_id}/rollback")
def rollback(visit: Visit, release_id: str) -> Response:
    """Make an earlier release Live again, if that is what was confirmed."""
    release = _found(visit, release_id).release
    question = _rollback_question(visit, release)
    try:
        if visit.form.text("step") != "release":
            return ask(visit, question)
        check_as_planned(visit, question.body)
        body = Rollback(urgency=Urgency.GRADUAL)
        made = visit.do(
            "roll_back", lambda: roll_back(visit.server, visit.name, release_id, body), release_id=release_id
        )
        return _made(visit, made, release_line(release, "rollback", "--yes"))
    except RefusedError as error:
        return ask(visit, question, refused=str(error))


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
    return _question(visit, release, _as_request(release), title, "rollback")


def _question(visit: Visiting, release: ReleaseView, body: dict[str, Any], title: str, deed: str) -> Question:
    says = [f"{release.firmware.version} under a new label"]
    says += ["online devices take it at once" if body.get("urgency") == "immediate" else "taken at the next session"]
    back, note = "", ""
    if deed == "rollback":
        back = channel_path(release.channel)
        if release.target_range != "*":
            note = (
                f"The new label reaches whom v{release.label} reached by {release.target_range}, and whom later labels "
                "moved on from there. The latter are not in this forecast."
            )
    return Question(
        title=title,
        crumbs=_crumbs(release),
        action=release_path(release.release_id, deed),
        button="Roll back" if deed == "rollback" else "Promote",
        body=body,
        says=tuple(says),
        plan_line=release_line(release, deed, "--yes"),
        may_release=visit.may(Role.RELEASE_MANAGER, release.channel.product),
        back=back,
        note=note,
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
