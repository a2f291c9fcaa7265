"""Where spans of a trace begin and end, without knowing who keeps them: nothing is kept unless a tracer is there.

`cloud.tracing` is the one that speaks OpenTelemetry; it is imported only where the settings ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Protocol

Value = str | int | float | bool


class Kind(StrEnum):
    """What a span is, as OpenTelemetry tells them apart."""

    SERVER = "server"
    CONSUMER = "consumer"
    PRODUCER = "producer"
    INTERNAL = "internal"


class Span(Protocol):
    """Something that takes time, while it does."""

    def rename(self, name: str) -> None:
        """Give it another name: one that is known only now."""

    def note(self, **attributes: Value) -> None:
        """Say more of it; `__` in a name stands for a dot."""

    def fail(self, why: str) -> None:
        """Say that it failed."""


class Tracer(Protocol):
    """Who keeps spans."""

    def span(
        self, name: str, kind: Kind, parent: Mapping[str, str] | None, attributes: Mapping[str, Value]
    ) -> AbstractContextManager[Span]:
        """Keep a span from here to the end of the block, below the one around it.

        `parent` are headers that may name one elsewhere (W3C Trace Context: `traceparent`, `tracestate`).
        """


class _Unkept:
    def rename(self, name: str) -> None: ...

    def note(self, **attributes: Value) -> None: ...

    def fail(self, why: str) -> None: ...


_UNKEPT = _Unkept()
TRACER: ContextVar[Tracer | None] = ContextVar("fleetlift_tracer", default=None)
"""Who keeps the spans of what this task and its threads do; None: nobody."""


@contextmanager
def span(
    name: str, kind: Kind = Kind.INTERNAL, *, parent: Mapping[str, str] | None = None, **attributes: Value
) -> Iterator[Span]:
    """Have a span kept, if anybody keeps them; `__` in an attribute's name stands for a dot."""
    tracer = TRACER.get()
    if tracer is None:
        yield _UNKEPT
        return
    with tracer.span(name, kind, parent, attributes) as kept:
        yield kept
