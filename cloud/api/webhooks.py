"""Webhooks: who is told of what happens; a secret is taken or made once, and never shown again."""

import asyncio
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, FailFast, Field

from cloud.api.access import may_see
from cloud.api.backend import MAX_WAIT_S, Actor, Backend, CallerDep, Server
from cloud.api.documents import Document
from cloud.api.naming import find_product
from cloud.api.problems import ApiError
from cloud.store.errors import ConflictError
from cloud.webhooks.letters import check_secret, new_secret
from cloud.webhooks.secret_files import SecretFiles
from cloud.webhooks.values import MAX_KINDS, MAX_URL, DeliveryState, DeliveryView, WebhookDraft, WebhookView

router = APIRouter(tags=["webhooks"])
MAX_SECRET: Final = 200
Flag = Annotated[bool, Field(strict=True)]
Kinds = Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(max_length=MAX_KINDS), FailFast()]


class NewWebhook(Document):
    """A webhook; without a `secret` the server makes one, and tells it in this one answer."""

    name: str
    url: Annotated[str, Field(max_length=MAX_URL)]
    product: str | None = None
    kinds: Kinds = ()
    secret: Annotated[str, Field(max_length=MAX_SECRET)] | None = None
    allow_plain: Flag = False
    allow_private: Flag = False


class WebhookChange(Document):
    """A webhook, on or off."""

    enabled: Flag


class AddedWebhook(BaseModel):
    """A webhook that was added; `secret` is there if the server made it, and nowhere else ever."""

    webhook: WebhookView
    secret: str | None = None


class WebhookPage(BaseModel):
    """A webhook and its last deliveries, newest event first."""

    webhook: WebhookView
    deliveries: tuple[DeliveryView, ...]


@router.get("/webhooks")
def list_webhooks(server: Server, caller: CallerDep) -> tuple[WebhookView, ...]:
    """Return webhooks, by name."""
    return tuple(it for it in server.store.webhooks.webhooks() if may_see(caller, it.product))


@router.post("/webhooks", status_code=HTTPStatus.CREATED)
def add_webhook(server: Server, actor: Actor, body: NewWebhook) -> AddedWebhook:
    """Add a webhook: it is told of what happens from now on."""
    secrets = _secrets(server)
    if body.product is not None:
        find_product(server.store, body.product)
    draft = WebhookDraft(**body.model_dump(exclude={"secret"}))
    secret = new_secret() if body.secret is None else check_secret(body.secret)
    if draft.name in {hook.name for hook in server.store.webhooks.webhooks()}:
        raise ConflictError(f"there is a webhook {draft.name} already; nothing was changed")
    secrets.remove(draft.name)  # of one that was being added or removed when the server died
    secrets.write(draft.name, secret)  # before the row: nothing is ever sent without
    return AddedWebhook(
        webhook=server.store.webhooks.add(draft, by=actor), secret=secret if body.secret is None else None
    )


@router.get("/webhooks/{name}")
def show_webhook(server: Server, name: str, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> WebhookPage:
    """Return a webhook and its last deliveries."""
    hook = server.store.webhooks.webhook(name)
    return WebhookPage(webhook=hook, deliveries=server.store.webhooks.deliveries(name, limit=limit))


@router.patch("/webhooks/{name}")
def change_webhook(server: Server, actor: Actor, name: str, body: WebhookChange) -> WebhookView:
    """Enable or disable a webhook. What happens while it is disabled it is never told."""
    return server.store.webhooks.set_enabled(name, enabled=body.enabled, by=actor)


@router.delete("/webhooks/{name}", status_code=HTTPStatus.NO_CONTENT)
def remove_webhook(server: Server, actor: Actor, name: str) -> None:
    """Remove a webhook, its secret, and what it was still to be told."""
    server.store.webhooks.remove(name, by=actor)
    _secrets(server).remove(name)


@router.post("/webhooks/{name}/test")
async def try_webhook(
    server: Server, actor: Actor, name: str, wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 20
) -> DeliveryView:
    """Tell a webhook of a `webhook.test`, and return what its receiver said at the first try."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    found = await asyncio.to_thread(server.store.webhooks.test, name, by=actor)
    server.changes.bump()  # this answer comes after the delivery that it tells of
    while found.state is DeliveryState.PENDING and not found.tries and (left := deadline - loop.time()) > 0:
        seen = server.changes.revision
        found = await asyncio.to_thread(server.store.webhooks.delivery, name, found.event.number)
        if found.state is DeliveryState.PENDING and not found.tries:
            await server.changes.wait(seen, left)
    return found


def _secrets(server: Backend) -> SecretFiles:
    if server.secrets is None:
        message = "This server keeps no secrets of webhooks. Nothing was changed."
        raise ApiError(HTTPStatus.CONFLICT, "no_secrets", message)
    return server.secrets
