"""Plans and terms of releases as operators send them: exactly what is known, and nothing besides."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from cloud.guard.policy import Policy
from cloud.store.errors import InvalidError
from protocol.codec import structure, to_plain
from protocol.errors import ProtocolError
from protocol.schedule import Terms

T = TypeVar("T")
SET_BY_OPERATORS: Final = frozenset({"not_before_ms", "deadline_ms", "windows", "attention", "optional", "base_first"})
_PLAN: Final = "plan"
_NOTHING: Final = "nothing was changed"


def terms_of(said: Mapping[str, Any] | None) -> Terms:
    """Return the terms that a request states; raises InvalidError."""
    if unknown := sorted(set(said or {}) - SET_BY_OPERATORS):
        raise InvalidError(f"terms: {unknown[0]!r:.60} is not among {', '.join(sorted(SET_BY_OPERATORS))}; {_NOTHING}")
    return _structured(said or {}, Terms, "terms")


def policy_of(plan: Mapping[str, Any] | None, terms: Terms) -> Policy | None:
    """Return the plan that a request states, under its terms, or None without one; raises InvalidError."""
    if plan is None:
        return None
    if "terms" in plan:
        raise InvalidError(f"plan: the terms of a release stand beside its plan, as `terms`; {_NOTHING}")
    return replace(_structured(plan, Policy, _PLAN), terms=terms)


def _structured(said: Mapping[str, Any], kind: type[T], name: str) -> T:
    try:
        found = structure(dict(said), kind)
    except ProtocolError as error:
        raise InvalidError(f"{name}: {error}; {_NOTHING}") from None
    if unknown := _unknown(said, to_plain(found)):
        raise InvalidError(f"{name}: {unknown!r:.60} is not known; {_NOTHING}")
    return found


def _unknown(said: Any, known: Any) -> str | None:
    """Return the first field that was said and not taken, or None; a null is no field."""
    if isinstance(said, Mapping) and isinstance(known, Mapping):
        for name, value in said.items():
            if value is not None and name not in known:
                return str(name)
            if (found := _unknown(value, known.get(name))) is not None:
                return found
    elif isinstance(said, Sequence) and isinstance(known, Sequence) and not isinstance(said, str):
        return next((found for pair in zip(said, known, strict=False) if (found := _unknown(*pair)) is not None), None)
    return None
