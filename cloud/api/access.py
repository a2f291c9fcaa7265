"""Whether a request may be done: who asks, what its operation's rule says, and which products it is about."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from fastapi import Request

from cloud.access.deciding import decide
from cloud.access.roles import EVERYTHING, Caller, Role
from cloud.access.rules import RULES, Body, Rule, Subject
from cloud.api.backend import Backend, CallerDep, backend_of
from cloud.api.middleware import origin_of
from cloud.api.observing import ACTOR
from cloud.api.problems import ApiError
from cloud.provenance import CONSOLE, ORIGIN, Origin
from cloud.store.errors import NotFoundError

_NOTHING: Final[Body] = MappingProxyType({})
_IN_BODY: Final = frozenset({Subject.BODY, Subject.BODY_OR_ALL, Subject.DEVICES, Subject.METADATA})


@dataclass(frozen=True, slots=True)
class About:
    """What a request is about: products (`*`: the server; none: no product), or something of somebody's own."""

    products: frozenset[str] = frozenset()
    owner: str | None = None


async def authorize(request: Request, caller: CallerDep) -> None:
    """Let a request through that its route's rule allows its caller; raises ApiError."""
    rule = RULES.get(request.scope["route"].name)
    body = await _body_of(request) if rule and (rule.of in _IN_BODY or rule.asks) else _NOTHING
    ORIGIN.set(replace(ORIGIN.get() or Origin(), token=caller.token))
    request.scope[ACTOR] = caller.name
    await asyncio.to_thread(check, backend_of(request), rule, caller, request.path_params, body)


def authorize_as(
    request: Request,
    operation: str,
    caller: Caller,
    *,
    body: Body | None = None,
    form: Mapping[str, Sequence[str]] | None = None,
    **path: str,
) -> None:
    """Let somebody who is logged in do an operation of the API by its own rule; raises ApiError, as the API answers.

    `path` are the parameters of the operation's path, and the product where the body names it. `body` is what is sent,
    as far as its rule looks at it; without it what a form says is looked at. What the calling thread or task does from
    here on has the console as its origin.
    """
    if body is None:
        body = {name: texts[-1].strip() for name, texts in (form or {}).items() if texts}
    ORIGIN.set(replace(ORIGIN.get() or origin_of(request.scope), via=CONSOLE, token=caller.token))
    request.scope[ACTOR] = caller.name
    check(backend_of(request), RULES.get(operation), caller, path, body, known=True)


def caller_of_person(server: Backend, name: str) -> Caller:
    """Return a person with all that they may; NotFoundError for one who is not known, or disabled."""
    caller = server.store.people.caller(name)
    if caller is None:
        raise NotFoundError(f"there is no person {name!r:.80} who may log in")
    return caller


def seen_products(caller: Caller, product: str | None) -> frozenset[str] | None:
    """Return of which products a list shows anything, when it is asked for one or for all; None is all there are.

    Raises NotFoundError for one that the caller may not look at, as if it were not there.
    """
    if product is None:
        return caller.products
    if caller.products is None or product in caller.products:
        return frozenset({product})
    raise NotFoundError(f"there is no product {product!r:.80}; nothing was changed")


def permit(server: Backend, caller: Caller, role: Role, device_id: str) -> None:
    """Raise as `check` for a device that a body names and that the caller has no such role for; one may not exist."""
    try:
        product = server.store.devices.product_of(device_id)
    except NotFoundError:
        product = None
    if caller.products is not None and (product is None or caller.role_for(product) is None):
        raise _hidden(f"there is no device {device_id!r:.80}")
    if product is not None and (why := decide(Rule(role, Subject.DEVICE), caller, product)):
        raise _not_allowed(why)


def may_see(caller: Caller, product: str | None) -> bool:
    """Whether a caller may look at what belongs to a product; None belongs to all of them."""
    return caller.products is None or product in caller.products


def check(
    server: Backend, rule: Rule | None, caller: Caller, path: Mapping[str, Any], body: Body, *, known: bool = False
) -> None:
    """Raise ApiError unless a rule lets a caller do it: 404 for what they may not even look at, otherwise 403.

    A body that names no product is refused by whoever reads it next; unless it is `known` to be all right, which then
    takes a role for everything.
    """
    about = About()
    if rule is not None and rule.of in _FINDERS:
        try:
            about = _FINDERS[rule.of](server, path, body)
        except NotFoundError:
            if rule.of is Subject.TOKEN:
                about = About(frozenset({EVERYTHING}))
            elif caller.products is not None:
                raise _hidden(_missing(rule, path, "")) from None
            # who may look at everything is told by the handler, with what it may have meant
        if known and rule.of in _IN_BODY and not about.products:
            about = About(frozenset({EVERYTHING}))
    for it in sorted(about.products):
        if it != EVERYTHING and caller.role_for(it) is None and caller.products is not None:
            raise _hidden(_missing(rule, path, it))
    own = about.owner == caller.name
    products: list[str | None] = [*sorted(about.products)] or [None]
    for product in products:
        if why := decide(rule, caller, product, own=own, body=body):
            raise _not_allowed(why)


def _missing(rule: Rule | None, path: Mapping[str, Any], product: str) -> str:
    """Return what is said of something that is not there: so nobody learns that something of another product is."""
    if rule is None or rule.of not in _NAMES or _NAMES[rule.of][1] not in path:
        return f"there is no product {product!r:.80}"
    what, name = _NAMES[rule.of]
    return f"there is no {what} {path[name]!r:.80}"


def _hidden(sentence: str) -> ApiError:
    message = f"{sentence[0].upper()}{sentence[1:]} that you may look at. Nothing was changed."
    return ApiError(HTTPStatus.NOT_FOUND, "not_found", message)


def _not_allowed(why: str) -> ApiError:
    return ApiError(HTTPStatus.FORBIDDEN, "not_allowed", f"{why[0].upper()}{why[1:]}. Nothing was changed.")


async def _body_of(request: Request) -> Body:
    """Return the JSON object that the handler is going to be given, or nothing: it refuses whatever else came."""
    try:
        body = await request.json()  # kept by the request: what is decided on is what is done
    except (ValueError, RecursionError):
        return _NOTHING
    return body if isinstance(body, dict) else _NOTHING


def _named(body: Body) -> frozenset[str]:
    value = body.get("product")
    return frozenset({value}) if isinstance(value, str) and value else frozenset()


def _of_set(server: Backend, path: Mapping[str, Any], _body: Body) -> About:
    return About(frozenset(member.product for member in server.store.redundancy.find(path["name"]).members))


def _of_devices(_server: Backend, _path: Mapping[str, Any], body: Body) -> About:
    devices = body.get("devices")
    found = (_named(it) for it in devices if isinstance(it, dict)) if isinstance(devices, list) else ()
    return About(frozenset[str]().union(*found))


def _of_metadata(_server: Backend, _path: Mapping[str, Any], body: Body) -> About:
    roles = body.get("roles")
    named = frozenset(map(str, roles)) if isinstance(roles, dict) else frozenset()
    return About(named | ({EVERYTHING} if any(body.get(it) is not None for it in ("root", "targets")) else set()))


def _of_webhook(server: Backend, path: Mapping[str, Any], _body: Body) -> About:
    return About(frozenset({server.store.webhooks.webhook(path["name"]).product or EVERYTHING}))


_NAMES: Final[Mapping[Subject, tuple[str, str]]] = {
    Subject.DEVICE: ("device", "device_id"),
    Subject.RELEASE: ("release", "release_id"),
    Subject.OTA: ("single-device OTA", "ota_id"),
    Subject.WEBHOOK: ("webhook", "name"),
    Subject.ENROLMENT_TOKEN: ("enrolment token named", "name"),
    Subject.SET: ("redundancy set", "name"),
}
"""What the store calls them, and which part of the path names them."""
_FINDERS: Final[Mapping[Subject, Callable[[Backend, Mapping[str, Any], Body], About]]] = {
    Subject.SERVER: lambda _server, _path, _body: About(frozenset({EVERYTHING})),
    Subject.PRODUCT: lambda _server, path, _body: About(frozenset({path["product"]})),
    Subject.BODY: lambda _server, path, body: About(_named(path) or _named(body)),
    Subject.BODY_OR_ALL: lambda _server, path, body: About(_named(path) or _named(body) or frozenset({EVERYTHING})),
    Subject.DEVICES: _of_devices,
    Subject.METADATA: _of_metadata,
    Subject.DEVICE: lambda server, path, _body: About(frozenset({server.store.devices.product_of(path["device_id"])})),
    Subject.RELEASE: lambda server, path, _body: About(
        frozenset({server.store.releases.release(path["release_id"]).channel.product})
    ),
    Subject.OTA: lambda server, path, _body: About(frozenset({server.store.devices.ota(path["ota_id"]).product})),
    Subject.WEBHOOK: _of_webhook,
    Subject.SET: _of_set,
    Subject.ENROLMENT_TOKEN: lambda server, path, _body: About(
        frozenset({server.store.enrolment.token(path["name"]).product})
    ),
    Subject.PERSON: lambda _server, path, _body: About(frozenset({EVERYTHING}), path["name"]),
    Subject.TOKEN: lambda server, path, _body: About(
        frozenset({EVERYTHING}), server.store.tokens.token(path["name"]).person
    ),
}
