"""What `fleetlift serve` lets others see of it: its loops' counters, and traces where the settings ask for them."""

import importlib.metadata
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from cloud.config import Home, Settings
from cloud.link import Link
from cloud.service import Service
from cloud.spans import Tracer
from cloud.streams import Streams
from protocol.errors import UserError


@contextmanager
def tracing(home: Home, settings: Settings) -> Iterator[Tracer | None]:
    """Keep traces for as long as the block lasts, if there is a collector; raises UserError where that cannot be."""
    wanted = settings.tracing
    if wanted.endpoint is None:
        yield None
        return
    ca_file = home.storage_path(wanted.ca_file) if wanted.ca_file else None
    if ca_file is not None and not ca_file.is_file():
        raise UserError(f"[tracing] ca_file: there is no file {ca_file}. Nothing was started.")
    try:
        make: Any = pkgutil.resolve_name("cloud.tracing:Tracing")  # only here: OpenTelemetry takes a while to import
    except ModuleNotFoundError as error:
        raise UserError(
            f"[tracing] endpoint is set, and {error.name} is not installed. Nothing was started. Install it with "
            "pip install 'fleetlift[cloud,tracing]', or take [tracing] out of the settings."
        ) from None
    tracer = make(
        wanted.endpoint,
        version=importlib.metadata.version("fleetlift"),
        sampled_percent=wanted.sampled_percent,
        ca_file=None if ca_file is None else str(ca_file),
    )
    try:
        yield tracer
    finally:
        tracer.close()


def counters(service: Service, link: Link, streams: Streams) -> Mapping[str, Mapping[str, int]]:
    """Return what the loops have counted and how they stand, by what it is and its kind."""
    sent = asdict(streams.counts())
    refused = {f"chunks_{kind}": count for kind, count in sent.pop("refused").items()}
    refused |= {f"{kind}_{code}": count for (kind, code), count in link.refused().items()}
    counted = service.counts()
    return {
        **counted,
        "received": link.received(),
        "refused": {**counted["refused"], **refused},
        "waiting": {"messages": link.waiting, "chunks": sent.pop("waiting_chunks")},
        "streams": sent,
        "connected": {"control": int(link.is_connected), "streams": int(streams.is_connected)},
    }
