"""The agent's log lines: each carries the attempt that is under way, by the ids under which the cloud's log has it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from device_agent.events import Attempt
from protocol.values import Via

FIELDS: Final = ("release_id", "ota_id", "attempt_id")
"""What a line may carry beside its words, in this order."""


def fields_of(attempt: Attempt | None) -> dict[str, str]:
    """Return what log lines carry of an attempt: its id, and that of the release or single-device OTA that wants it."""
    if attempt is None:
        return {}
    source = {} if attempt.via is Via.PIN else {f"{attempt.via.value}_id": attempt.source_id}
    return {**source, "attempt_id": attempt.attempt_id}


class LineFormatter(logging.Formatter):
    """Writes lines for people, or JSON objects with the names that the cloud's log uses; times are UTC.

    `attempt` is asked for the attempt that is under way, from any thread; a line that has an attempt of its own
    (`extra=fields_of(...)`) keeps it.
    """

    def __init__(self, device_id: str, *, as_json: bool = False) -> None:
        super().__init__()
        self._device_id, self._as_json = device_id, as_json
        self.attempt: Callable[[], Attempt | None] = lambda: None

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        own = {name: str(getattr(record, name)) for name in FIELDS if hasattr(record, name)}
        fields = own or fields_of(self.attempt())
        return self._json(record, fields) if self._as_json else self._text(record, fields)

    def _text(self, record: logging.LogRecord, fields: Mapping[str, str]) -> str:
        said = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        line = " ".join([said, *(f"{name}={value}" for name, value in fields.items())])
        return "\n".join([line, *self._traces(record)])

    def _json(self, record: logging.LogRecord, fields: Mapping[str, str]) -> str:
        line = {
            "timestamp": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            "device_id": self._device_id,
            **fields,
        }
        if traces := self._traces(record):
            line["exception"] = "\n".join(traces)
        return json.dumps(line, ensure_ascii=False)

    def _traces(self, record: logging.LogRecord) -> list[str]:
        return [] if not record.exc_info else [self.formatException(record.exc_info)]


def _time(record: logging.LogRecord) -> str:
    """Return the time as RFC 3339 has it, in UTC, so that lines of several machines can be sorted."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
