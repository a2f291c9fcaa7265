"""What the server says about its work: lines for people, or JSON, on standard error.

A line has the same fields under the same names wherever it comes from: `device_id`, `release_id` and `label`,
`attempt_id`, `ota_id`, and `request_id`, the id of the request that is being served.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from cloud.config import LogSettings
from cloud.provenance import ORIGIN

QUIET: Final = ("uvicorn", "uvicorn.error", "alembic", "aiomqtt", "amqtt", "asyncio", "httpx", "tuf.api")
"""Others' loggers, whose information is not ours."""
_OF_SEVERAL_LINES: Final = frozenset({"exception", "stack"})


def configure_logging(settings: LogSettings) -> None:
    """Send the log to standard error, in the form and from the level that the settings say."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.contextvars.merge_contextvars,
        _add_request,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.format == "json":
        render: list[Any] = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        render = [
            _keep_to_a_line,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain, pad_event_to=0),
        ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _add_request(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the id of the request that is being served, where one is."""
    origin = ORIGIN.get()
    if origin is not None and origin.request:
        event.setdefault("request_id", origin.request)
    return event


def _keep_to_a_line(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what would end a line: no text of a device or a caller is to look like a line of its own."""
    for name, value in event.items():
        if isinstance(value, str) and name not in _OF_SEVERAL_LINES and not value.isprintable():
            event[name] = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value)
    return event
