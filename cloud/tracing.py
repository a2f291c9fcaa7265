"""Spans for OpenTelemetry, sent by OTLP over HTTP: imported only where `[tracing]` names a collector.

Names and attributes follow OpenTelemetry's semantic conventions for HTTP and messaging where they have a word. What
cannot be delivered is dropped: a collector that is away costs memory for a few thousand spans and nothing else.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cloud.spans import Kind, Span, Value

TRACES_PATH: Final = "/v1/traces"
_KINDS: Final = {
    Kind.SERVER: trace.SpanKind.SERVER,
    Kind.CONSUMER: trace.SpanKind.CONSUMER,
    Kind.PRODUCER: trace.SpanKind.PRODUCER,
    Kind.INTERNAL: trace.SpanKind.INTERNAL,
}
_PARENTS: Final = TraceContextTextMapPropagator()


class Tracing:
    """Keeps spans and sends them in batches, from a thread of its own; `close` sends what is left."""

    def __init__(self, endpoint: str, *, version: str, sampled_percent: int, ca_file: str | None = None) -> None:
        """Take the collector's address, as OpenTelemetry has it: `/v1/traces` is added where it is not there."""
        address = endpoint.rstrip("/")
        exporter = OTLPSpanExporter(
            endpoint=address if address.endswith(TRACES_PATH) else f"{address}{TRACES_PATH}", certificate_file=ca_file
        )
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "fleetlift", "service.version": version}),
            sampler=ParentBased(TraceIdRatioBased(sampled_percent / 100)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("fleetlift", version)

    @contextmanager
    def span(
        self, name: str, kind: Kind, parent: Mapping[str, str] | None, attributes: Mapping[str, Value]
    ) -> Iterator[Span]:
        """Keep a span; an error that leaves it is its own, too."""
        context = _PARENTS.extract(parent) if parent else None
        with self._tracer.start_as_current_span(name, context, _KINDS[kind], _named(attributes)) as kept:
            yield _Kept(kept)

    def close(self) -> None:
        """Send what is left, for a few seconds at most, and end."""
        self._provider.shutdown()


class _Kept:
    def __init__(self, kept: trace.Span) -> None:
        self._kept = kept

    def rename(self, name: str) -> None:
        self._kept.update_name(name)

    def note(self, **attributes: Value) -> None:
        self._kept.set_attributes(_named(attributes))

    def fail(self, why: str) -> None:
        self._kept.set_status(Status(StatusCode.ERROR, why))


def _named(attributes: Mapping[str, Value]) -> dict[str, Value]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
