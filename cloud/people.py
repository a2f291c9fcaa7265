"""People and console sessions as frozen values that leave the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloud.access.roles import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonView:
    """Somebody who decides; `grants` maps a product, or `*`, to their role. Without a password: a service account."""

    name: str
    grants: Mapping[str, Role]
    has_password: bool
    disabled_at_ms: int | None
    created_at_ms: int
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """A person who is logged in to the console; forms carry `csrf`."""

    person: str
    csrf: str
    address: str
    created_at_ms: int
    seen_at_ms: int
    expires_at_ms: int
    until_ms: int | None
    """When what let them in ends; None for a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedCode:
    """Whose a code for one login was, and when the token ends that it was made with; None for never."""

    person: str
    until_ms: int | None
