"""Webhooks: who is told of what happens, how that goes, and a test of it."""

from functools import partial
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import anyio.from_thread
from fastapi import APIRouter, Response

from cloud.access.roles import EVERYTHING, Role
from cloud.api.products import list_products
from cloud.api.webhooks import (
    NewWebhook,
    WebhookChange,
    add_webhook,
    change_webhook,
    list_webhooks,
    remove_webhook,
    show_webhook,
    try_webhook,
)
from cloud.console.forms import RefusedError
from cloud.console.lines import line
from cloud.console.visiting import Visit, Visiting
from cloud.happenings import KINDS
from cloud.webhooks.values import DeliveryState, DeliveryView

SHOWN: Final = 50
TEST_WAIT_S: Final = 10.0
FIELDS: Final = ("name", "url", "product", "kinds", "secret")
FLAGS: Final = ("allow_plain", "allow_private")

router = APIRouter(include_in_schema=False)


def webhook_path(name: str, *more: str) -> str:
    """Return the address of a webhook's page, or of one below it."""
    return "/".join(["/settings/webhooks", quote(name, safe=""), *more])


@router.get("/settings/webhooks")
def show_list(visit: Visit) -> Response:
    """Show webhooks, and how they fare."""
    return _list(visit)


@router.post("/settings/webhooks")
def add(visit: Visit) -> Response:
    """Add a webhook; a secret that the server made is shown this once."""
    form = visit.form
    given = {name: form.text(name) for name in (*FIELDS, *FLAGS)}
    product = given["product"]
    kinds = form.words("kinds")
    try:
        body = visit.do(
            "add_webhook",
            lambda: NewWebhook(
                name=given["name"],
                url=given["url"],
                product=product or None,
                kinds=kinds,
                secret=given["secret"] or None,
                allow_plain=form.ticked("allow_plain"),
                allow_private=form.ticked("allow_private"),
            ),
            product=product,
        )
        made = visit.do("add_webhook", lambda: add_webhook(visit.server, visit.name, body), product=product)
    except RefusedError as error:
        return _list(visit, given=given | {"secret": ""}, said=error)
    name = made.webhook.name
    cli = _add_line(name, given["url"], product, kinds, [it for it in FLAGS if form.ticked(it)])
    if made.secret is None:
        return visit.go(webhook_path(name), f"{name} is told of what happens from now on.", cli=cli)
    return visit.page("webhook_secret.html", name=name, secret=made.secret, path_back=webhook_path(name), add_line=cli)


@router.get("/settings/webhooks/{name}")
def show_one(visit: Visit, name: str) -> Response:
    """Show a webhook and its last deliveries."""
    visit.require("show_webhook", name=name)
    page = show_webhook(visit.server, name, limit=SHOWN)
    return visit.page(
        "webhook.html",
        hook=page.webhook,
        deliveries=page.deliveries,
        here=webhook_path(name),
        may_change=visit.may(Role.ADMIN, page.webhook.product or EVERYTHING),
        line=line,
    )


@router.post("/settings/webhooks/{name}/test")
def test(visit: Visit, name: str) -> Response:
    """Tell it of a test, and say what its receiver answered."""
    trial = partial(try_webhook, visit.server, visit.name, name, wait=TEST_WAIT_S)
    cli = line("webhook", "test", name)
    try:
        found: DeliveryView = visit.do("try_webhook", lambda: anyio.from_thread.run(trial), name=name)
    except RefusedError as error:
        return visit.go(webhook_path(name), str(error), kind="error", code=error.code)
    if found.state is DeliveryState.DELIVERED:
        return visit.go(webhook_path(name), f"{name} took the test: {found.answer}.", cli=cli)
    if not found.tries:
        return visit.go(webhook_path(name), f"The test of {name} is on its way; the list tells how it goes.", cli=cli)
    said = f"{name} did not take the test: {found.answer}. It is tried again, unless you disable the webhook."
    return visit.go(webhook_path(name), said, kind="error", cli=cli)


@router.post("/settings/webhooks/{name}/enable")
def enable(visit: Visit, name: str) -> Response:
    """Enable a webhook again."""
    return visit.act(
        "change_webhook",
        lambda: change_webhook(visit.server, visit.name, name, WebhookChange(enabled=True)),
        to=webhook_path(name),
        said=lambda found: f"{name} is told of what happens again; {found.pending} are not delivered yet.",
        cli=line("webhook", "enable", name),
        name=name,
    )


@router.post("/settings/webhooks/{name}/disable")
def disable(visit: Visit, name: str) -> Response:
    """Disable a webhook."""
    return visit.act(
        "change_webhook",
        lambda: change_webhook(visit.server, visit.name, name, WebhookChange(enabled=False)),
        to=webhook_path(name),
        said=f"{name} is not told of anything any more.",
        cli=line("webhook", "disable", name),
        name=name,
    )


@router.post("/settings/webhooks/{name}/remove")
def remove(visit: Visit, name: str) -> Response:
    """Remove a webhook."""
    try:
        visit.do("remove_webhook", lambda: remove_webhook(visit.server, visit.name, name), name=name)
    except RefusedError as error:
        return visit.go(webhook_path(name), str(error), kind="error", code=error.code)
    return visit.go("/settings/webhooks", f"{name} is removed.", cli=line("webhook", "remove", name, "--yes"))


def _list(visit: Visiting, *, given: dict[str, str] | None = None, said: RefusedError | None = None) -> Response:
    visit.require("list_webhooks")
    products = [it.product for it in list_products(visit.server, visit.caller) if visit.may(Role.ADMIN, it.product)]
    everything = [("", "every product")] if visit.may(Role.ADMIN) else []
    return visit.page(
        "webhooks.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if said else HTTPStatus.OK,
        hooks=list_webhooks(visit.server, visit.caller),
        given=given or dict.fromkeys((*FIELDS, *FLAGS), ""),
        said=said,
        products=everything + [(it, it) for it in products],
        kinds=sorted(KINDS),
        path_of=webhook_path,
        add_line=_add_line("NAME", "URL", "", (), ()),
        line=line,
    )


def _add_line(name: str, url: str, product: str, kinds: tuple[str, ...], flags: list[str] | tuple[str, ...]) -> str:
    words = [*(("--product", product) if product else ()), *(word for kind in kinds for word in ("--kind", kind))]
    return line("webhook", "add", name, url, *words, *("--" + it.replace("_", "-") for it in flags))
