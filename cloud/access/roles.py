"""Roles, and who is asking: what somebody may do is the lower of their own role and of what they show for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

EVERYTHING: Final = "*"
"""In place of a product: all products, and the server itself."""


class Role(StrEnum):
    """What somebody may do with a product; each may what those before it may."""

    VIEWER = "viewer"
    """Look at everything but secrets."""
    OPERATOR = "operator"
    """Move devices, and stop what moves: groups, locks, single-device OTAs, pause, abort, disable, enrolment."""
    RELEASE_MANAGER = "release_manager"
    """Decide what runs: publish firmware, release, raise, promote, roll back, approve, force."""
    ADMIN = "admin"
    """Say who may what, and how the product, or with `*` the server, works."""

    @property
    def rank(self) -> int:
        """0 for the least."""
        return _ORDER.index(self)

    def covers(self, other: Role) -> bool:
        """Whether it may do what the other may."""
        return self.rank >= other.rank


_ORDER: Final = (Role.VIEWER, Role.OPERATOR, Role.RELEASE_MANAGER, Role.ADMIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a token may do at most: a role, for one product or for `*`."""

    role: Role = Role.ADMIN
    product: str = EVERYTHING

    def lower(self, role: Role, product: str) -> Role | None:
        """Return what is left of a role for a product (`*`: the server itself), or None."""
        if self.product not in (EVERYTHING, product):
            return None
        return role if self.role.covers(role) else self.role


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: a person's name and grants (product or `*` to role), and the scope of what they showed.

    `token` names the API token that was shown; it is empty for a console session. `until_ms` is when what they showed
    ends, or what let them into the session; None for never.
    """

    name: str
    grants: Mapping[str, Role] = field(default_factory=dict)
    scope: Scope = field(default_factory=Scope)
    token: str = ""
    until_ms: int | None = None

    def role_for(self, product: str) -> Role | None:
        """Return what they may do with a product; `*` asks for the server itself."""
        granted = [role for name, role in self.grants.items() if name in (EVERYTHING, product)]
        return self.scope.lower(max(granted, key=lambda it: it.rank), product) if granted else None

    def may(self, role: Role, product: str) -> bool:
        """Whether they may do with a product (`*`: with the server itself) what a role may."""
        found = self.role_for(product)
        return found is not None and found.covers(role)

    def may_anywhere(self, role: Role) -> bool:
        """Whether they may do what a role may with some product, or with the server."""
        names = set(self.grants) | ({self.scope.product} if EVERYTHING in self.grants else set())
        return any(self.may(role, name) for name in names)

    @property
    def products(self) -> frozenset[str] | None:
        """The products that they may look at; None for all."""
        if self.may(Role.VIEWER, EVERYTHING):
            return None
        names = set(self.grants) - {EVERYTHING}
        if EVERYTHING in self.grants:
            names.add(self.scope.product)
        return frozenset(name for name in names if self.may(Role.VIEWER, name))
