"""Whether a caller may call an operation: a pure function of the rule, of who asks, and of what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from cloud.access.roles import EVERYTHING, Caller, Role
from cloud.access.rules import Rule, Subject

_NO_BODY: Final[Mapping[str, Any]] = MappingProxyType({})


def decide(
    rule: Rule | None, caller: Caller, product: str | None, *, own: bool = False, body: Mapping[str, Any] = _NO_BODY
) -> str | None:
    """Return why a caller may not, as the end of a sentence, or None if they may.

    `product` is what the operation is about: `*` the server, None something of no product (a role for any is enough).
    `own`: it is the caller's own.
    """
    if rule is None:
        return "nobody may do this: no rule says who"
    if rule.of is Subject.KNOWN or own:
        return None
    role = rule.role_for(body)
    if product is None:
        return None if caller.may_anywhere(role) else _why(caller, role, "any product", None)
    if caller.may(role, product):
        return None
    what = "the server" if product == EVERYTHING else f"product {product}"
    return _why(caller, role, what, caller.role_for(product))


def _why(caller: Caller, role: Role, what: str, has: Role | None) -> str:
    shown = f" with the token {caller.token}" if caller.token else ""
    there = f"is {_words(has)} there" if has else "has no role there"
    return f"this takes the role {_words(role)} for {what}, and {caller.name}{shown} {there}"


def _words(role: Role) -> str:
    return role.value.replace("_", " ")
