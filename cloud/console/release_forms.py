"""The form that makes a release: filled in as far as it can be, its channel locked, and confirmed by a plan."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from cloud.access.roles import Role
from cloud.api.documents import NewRelease, ReleasePage
from cloud.api.firmware import list_firmware
from cloud.api.groups import list_groups
from cloud.api.preflight import release_by_plan
from cloud.api.products import show_product
from cloud.api.releases import list_releases
from cloud.console.forms import RefusedError
from cloud.console.lines import line, where
from cloud.console.release_deeds import channel_path, release_path
from cloud.console.release_fields import ROWS, Asked, defaults, read
from cloud.console.reviewing import Question, ask, check_confirmed
from cloud.console.templating import size
from cloud.console.visiting import Visit, Visiting
from cloud.values import ChannelKey, FirmwareView
from protocol.errors import UserError

router = APIRouter(include_in_schema=False)


@router.get("/products/{product}/{component}/{group}/release")
def show_form(visit: Visit, product: str, component: str, group: str) -> Response:
    """Show the form of a channel's next release."""
    visit.require("show_product", product=product)
    return _form(visit, ChannelKey(product, group, component))


@router.post("/products/{product}/{component}/{group}/release")
def take_form(visit: Visit, product: str, component: str, group: str) -> Response:
    """Show what the release would do; or make it, if that is what was confirmed and the world is as it was shown."""
    visit.require("plan_release", product=product)
    key, step = ChannelKey(product, group, component), visit.form.text("step")
    if step == "back":
        return _form(visit, key)
    try:
        asked = read(key, visit.form)
    except (RefusedError, UserError) as error:
        return _form(visit, key, refused=str(error))
    refused = ""
    if step == "release":
        try:
            return _release(visit, key, asked)
        except RefusedError as error:
            refused = str(error)
    try:
        return ask(visit, _question(visit, key, asked), refused=refused)
    except RefusedError as error:
        return _form(visit, key, refused=str(error))


def _release(visit: Visiting, key: ChannelKey, asked: Asked) -> Response:
    visit.require("release_by_plan", product=key.product)
    plan_hash = check_confirmed(visit)
    made = visit.do(
        "release_by_plan",
        lambda: release_by_plan(visit.server, visit.name, plan_hash, NewRelease(**asked.body)),
        product=key.product,
    )
    said = f"{key} v{made.release.label} is released."
    cli = asked.line("push", "--plan", plan_hash, "--yes")
    return visit.go(release_path(made.release.release_id), said, cli=cli)


def _question(visit: Visiting, key: ChannelKey, asked: Asked) -> Question:
    body = asked.body
    says = [
        f"{body['percentage']} % of {key.group}" if "plan" not in body else f"By a plan, to {key.group}",
        "online devices take it at once" if body["urgency"] == "immediate" else "taken at the next session",
    ]
    says += [name for name in ("mandatory", "forced") if body[name]]
    if body["target_range"] != "*":
        says.append(f"on devices that run {body['target_range']}")
    is_now = body["urgency"] == "immediate"
    return Question(
        title=f"Release {key.component} {body['version']} to {key.group}?",
        crumbs=_crumbs(key),
        action=channel_path(key, "release"),
        button="Release now" if is_now else "Release",
        body=body,
        says=tuple(says),
        plan_line=asked.line("plan", "--devices"),
        may_release=visit.may(Role.RELEASE_MANAGER, key.product),
        tells_same=True,
    )


def _form(visit: Visiting, key: ChannelKey, *, refused: str = "") -> Response:
    server, caller = visit.server, visit.caller
    product = show_product(server, key.product)
    pages = list_releases(server, caller, product=key.product, group=key.group, component=key.component, metrics=False)
    firmware = [
        it for it in list_firmware(server, caller, product=key.product, component=key.component) if it.published
    ]
    floor = product.floors.get(key.component, 0)
    there = [it for it in firmware if it.seq >= floor]
    live = next((page.release for page in pages if page.release.live), None)
    chosen = _chosen(visit.asked("version"), there)
    typed: dict[str, str] = defaults(chosen.version if chosen else "", chosen, live, product)
    if visit.form.fields:
        typed = dict.fromkeys(typed, "") | {name: texts[-1] for name, texts in visit.form.fields.items()}
    groups = [it.group for it in list_groups(server, caller, product=key.product)]
    return visit.page(
        "release_form.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if refused else HTTPStatus.OK,
        refused=refused[:1].upper() + refused[1:],
        key=key,
        crumbs=_crumbs(key),
        action=channel_path(key, "release"),
        product=product,
        live=live,
        next_label=max((page.release.label for page in pages), default=0) + 1,
        typed=_Typed(typed),
        versions=[(it.version, _version_words(it, pages)) for it in there],
        below=len(firmware) - len(there),
        phases=[("", "nobody"), ("percentage", "a percentage"), *((it, f"group {it}") for it in groups)],
        ROWS=ROWS,
        push_line=line("release", "push", "IMAGE", *where(key), "--version", "VERSION"),
        may_plan=visit.may(Role.OPERATOR, key.product),
        may_release=visit.may(Role.RELEASE_MANAGER, key.product),
        confirm_above=server.settings.console.confirm_above,
    )


class _Typed(dict[str, str]):
    """What stands in the fields; nothing in those that nobody filled in."""

    def __missing__(self, name: str) -> str:
        return ""


def _chosen(version: str, there: list[FirmwareView]) -> FirmwareView | None:
    return next((it for it in there if it.version == version), there[0] if there else None)


def _version_words(firmware: FirmwareView, pages: tuple[ReleasePage, ...]) -> str:
    labels = [f"v{page.release.label}" for page in pages if page.release.firmware.version == firmware.version]
    known = f", released here as {', '.join(labels[:3])}" if labels else ""
    return f"{firmware.version}, build {firmware.build}, {size(firmware.size_bytes)}{known}"


def _crumbs(key: ChannelKey) -> tuple[tuple[str, str], ...]:
    return (
        ("/products", "Products"),
        ("/products/" + key.product, key.product),
        (channel_path(key), f"{key.component} for {key.group}"),
    )
