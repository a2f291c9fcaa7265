"""People who speak to the API of an open home with tokens of their own; and a second product beside the first."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from cloud.access.roles import Role
from cloud.api.backend import hash_token
from tests.cloud.homes import Api, OpenHome, hello_of

OTHER = "pump"


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
    headers = {"Authorization": f"Bearer {text}"}
    return httpx.Client(base_url=api.http.base_url, headers=headers, trust_env=False, timeout=60)


def add_product(home: OpenHome, product: str = OTHER) -> None:
    delegation = home.keyring.delegate(product)
    home.intake.create_product(product, ("*",), delegation.targets, delegation.role, by="test")


def join(home: OpenHome, device_id: str, product: str = OTHER) -> None:
    answer = home.store.journal.receive_hello(device_id, hello_of(product=product))
    assert answer.refusal is None, answer
