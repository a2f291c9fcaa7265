"""What a webhook gets: a CloudEvents 1.0 document in structured mode, signed as Standard Webhooks 1.0.0 say.

CloudEvents 1.0.2, JSON format (content mode structured); Standard Webhooks: `webhook-id` is the same at each try,
`webhook-timestamp` is the time of the try in whole seconds, `webhook-signature` is `v1,` and the base64 of the
HMAC-SHA256 over `id.timestamp.body`.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook

from cloud.happenings import EventView
from cloud.store.errors import InvalidError

TYPE_PREFIX: Final = "io.fleetlift."
CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what secrets begin with
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64
NEW_SECRET_BYTES: Final = 32


def new_secret() -> str:
    """Return a fresh secret, as Standard Webhooks write one: `whsec_` and base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def check_secret(text: str) -> str:
    """Return a secret; raises InvalidError for what is none, without quoting it."""
    try:
        size = len(base64.b64decode(text.removeprefix(SECRET_PREFIX).encode(), validate=True))
    except (binascii.Error, UnicodeEncodeError):
        size = 0
    if not text.startswith(SECRET_PREFIX) or not MIN_SECRET_BYTES <= size <= MAX_SECRET_BYTES:
        raise InvalidError(
            f"a webhook's secret is {SECRET_PREFIX} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64; "
            "nothing was changed"
        )
    return text


def body_of(event: EventView, source: str) -> bytes:
    """Return an event's document, the same at each try; `source` is the address of this cloud."""
    document = {
        "specversion": "1.0",
        "id": str(event.number),
        "source": source,
        "type": TYPE_PREFIX + event.kind,
        "subject": event.subject,
        "time": datetime.fromtimestamp(event.at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "datacontenttype": "application/json",
        "product": event.product,
        "data": dict(event.data),
    }
    if not event.product:
        del document["product"]  # an attribute of CloudEvents is never empty
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def headers_of(event: EventView, body: bytes, secret: str, now_s: float) -> Mapping[str, str]:
    """Return the headers of one try at `now_s`, in seconds since 1970."""
    message_id, sent_at = f"event_{event.at_ms}_{event.number}", datetime.fromtimestamp(int(now_s), UTC)
    return {
        "content-type": CONTENT_TYPE,
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now_s)),
        "webhook-signature": Webhook(secret).sign(message_id, sent_at, body.decode()),
    }
