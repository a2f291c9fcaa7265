"""What happened, noted in the transaction in which it did: for timelines, and for webhooks."""

from __future__ import annotations

from typing import Any

from cloud.event_models import EventRow
from cloud.store.engine import Change


def note(change: Change, kind: str, subject: str, product: str, **data: Any) -> None:
    """Note that something happened to `subject` (`release/ID`, `device/ID`, `product/ID`); `data` is JSON values."""
    change.session.add(EventRow(at_ms=change.now_ms, kind=kind, product=product, subject=subject, data=data))
