"""Rows of what happened, and of the webhooks that are told of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index
from sqlmodel import Field

from cloud.models import BigNumber, Row


class EventRow(Row, table=True):
    """Something that happened, for timelines and webhooks: `subject` is `release/ID`, `device/ID`, `product/ID`.

    `source` is the release (`release/ID`) that it came of.
    """

    __tablename__ = "event"
    __table_args__ = (Index(None, "subject", "number"), Index(None, "source", "number"))
    number: int | None = Field(default=None, sa_column=Column(BigNumber, primary_key=True))
    at_ms: int = Field(sa_type=BigInteger)
    kind: str
    product: str
    subject: str
    source: str | None = None
    data: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class WebhookRow(Row, table=True):
    """Where events are sent; what they are signed with is in a file. `product` null is every product, no kinds all.

    `allow_plain` is HTTP beyond this machine, `allow_private` an address that only this network knows.
    `failing_since_ms` is when the first of the tries was that have failed ever since.
    """

    __tablename__ = "webhook"
    name: str = Field(primary_key=True)
    url: str
    product: str | None = Field(default=None, foreign_key="product.id")
    kinds: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    allow_plain: bool = False
    allow_private: bool = False
    enabled: bool = True
    why_disabled: str = ""
    failing_since_ms: int | None = Field(default=None, sa_type=BigInteger)
    created_at_ms: int = Field(sa_type=BigInteger)
    created_by: str


class DeliveryRow(Row, table=True):
    """One event on its way to one webhook; `due_at_ms` is null once it was taken, or given up."""

    __tablename__ = "delivery"
    webhook: str = Field(primary_key=True, foreign_key="webhook.name")
    event: int = Field(primary_key=True, foreign_key="event.number", sa_type=BigInteger)
    tries: int = 0
    due_at_ms: int | None = Field(default=None, index=True, sa_type=BigInteger)
    delivered_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    answer: str = ""
