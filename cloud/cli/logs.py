"""What the server says about its work: lines for people, or JSON, on standard error."""

import logging
import sys
from typing import Any, Final

import structlog

from cloud.config import LogSettings

QUIET: Final = ("uvicorn", "uvicorn.error", "alembic", "aiomqtt", "amqtt", "asyncio", "httpx", "tuf.api")
"""Others' loggers, whose information is not ours."""


def configure_logging(settings: LogSettings) -> None:
    """Send the log to standard error, in the form and from the level that the settings say."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.format == "json":
        render: list[Any] = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain, pad_event_to=0)]
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
