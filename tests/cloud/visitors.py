"""People who speak to the API of an open home with tokens of their own; and a second product beside the first."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx
from fastapi.routing import iter_route_contexts

from cloud.access.roles import Role
from cloud.api.app import create_app
from cloud.api.backend import hash_token
from cloud.tls import no_authority
from tests.cloud.homes import MODEL, Api, OpenHome, hello_of

OTHER = "pump"
NO_CONNECTION = httpx.Limits(max_keepalive_connections=0)


@dataclass(frozen=True)
class Route:
    """A route of the API: its method, its operation's name, its path."""

    method: str
    name: str
    path: str


def routes_of(api: Api) -> list[Route]:
    """Return every route of the API."""
    contexts = list(iter_route_contexts(create_app(api.backend).routes))
    found = [
        Route(method, str(it.name), str(it.path)) for it in contexts for method in it.methods or () if method != "HEAD"
    ]
    assert len(found) > 80
    return [it for it in found if it.name != "openapi"]


def visitor(api: Api, name: str, grants: Mapping[str, Role], **scope: Any) -> Api:
    """Make a person with a token of the same name known; return the API as they reach it."""
    api.home.store.people.add(name, grants, by="test")
    return token_of(api, name, name, **scope)


def token_of(api: Api, name: str, person: str, **scope: Any) -> Api:
    """Give a person a token; return the API as they reach it with that."""
    text = secrets.token_urlsafe(16)
    api.home.store.tokens.add(name, hash_token(text), person=person, by="test", **scope)
    return replace(api, http=client(api, text))


def client(api: Api, text: str) -> httpx.Client:
    """Return a client that leaves no connection open, so that nobody has to close it."""
    headers = {"Authorization": f"Bearer {text}"}
    return httpx.Client(
        base_url=api.http.base_url,
        headers=headers,
        trust_env=False,
        timeout=60,
        verify=no_authority(),
        limits=NO_CONNECTION,
    )


def add_product(home: OpenHome, product: str = OTHER) -> None:
    delegation = home.keyring.delegate(product)
    home.intake.create_product(product, (MODEL,), delegation.targets, delegation.role, by="test")


def join(home: OpenHome, device_id: str, product: str = OTHER) -> None:
    answer = home.store.journal.receive_hello(device_id, hello_of(product=product))
    assert answer.refusal is None, answer
