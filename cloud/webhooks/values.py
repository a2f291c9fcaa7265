"""Webhooks and deliveries as frozen values, and what may be a webhook at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import SplitResult, urlsplit

from cloud.config import is_loopback
from cloud.happenings import KINDS, EventView
from cloud.store.errors import InvalidError
from cloud.webhooks.addresses import is_public
from protocol.errors import IdentityError
from protocol.identity import check_id

MAX_URL: Final = 2000
MAX_KINDS: Final = 50
_FAMILIES: Final = frozenset(f"{kind.partition('.')[0]}.*" for kind in KINDS)
_URL: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDraft:
    """A webhook that is to be added; checks itself and raises InvalidError.

    `product` None is every product, no `kinds` all kinds (`device.*` is all of devices). `allow_plain` is HTTP beyond
    this machine, `allow_private` an address that is not public: of this machine, of this network.
    """

    name: str
    url: str
    product: str | None = None
    kinds: tuple[str, ...] = ()
    allow_plain: bool = False
    allow_private: bool = False

    def __post_init__(self) -> None:
        try:
            check_id(self.name, "webhook")
        except IdentityError as error:
            raise InvalidError(f"{error}; nothing was changed") from None
        check_url(self.url, allow_plain=self.allow_plain, allow_private=self.allow_private)
        check_kinds(self.kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookView:
    """A webhook; `pending` deliveries wait to be taken, `given_up` were tried in vain until they were too old."""

    name: str
    url: str
    product: str | None
    kinds: tuple[str, ...]
    allow_plain: bool
    allow_private: bool
    enabled: bool
    why_disabled: str
    failing_since_ms: int | None
    created_at_ms: int
    created_by: str
    pending: int = 0
    delivered: int = 0
    given_up: int = 0


class DeliveryState(StrEnum):
    """Where a delivery is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryView:
    """One event on its way to one webhook; `answer` is what the last try came to."""

    webhook: str
    event: EventView
    state: DeliveryState
    tries: int
    due_at_ms: int | None
    delivered_at_ms: int | None
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A delivery to make now, for the `tries + 1`st time."""

    event: EventView
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What one try came to: taken, or to be tried again at `due_at_ms`, or (None) never again."""

    event: int
    taken: bool
    answer: str
    due_at_ms: int | None = None


def check_url(url: str, *, allow_plain: bool, allow_private: bool) -> SplitResult:
    """Return a webhook's URL in its parts; raises InvalidError for one that nothing may be sent to."""
    nothing = "nothing was changed"
    if len(url) > MAX_URL or not _URL.fullmatch(url):
        raise InvalidError(f"a webhook's URL has at most {MAX_URL} characters, all of them ASCII; {nothing}")
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        host = None
        parts = urlsplit("")
    if not host or parts.scheme not in ("https", "http"):
        raise InvalidError(f"{url!r:.100} is not https://HOST[:PORT][/PATH]; {nothing}")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise InvalidError(f"a webhook's URL is shown and logged: no user, password or fragment is in it; {nothing}")
    if parts.scheme == "http" and not (is_loopback(host) or allow_plain):
        raise InvalidError(
            f"{url!r:.100} is not encrypted: everybody on the way could read it. Use https, or say that plain HTTP is "
            f"allowed (--allow-plain); {nothing}"
        )
    if (is_loopback(host) or is_public(host) is False) and not allow_private:
        raise InvalidError(
            f"{host} is an address of this machine or network, not a public one. Say that it is allowed "
            f"(--allow-private) if it is meant; {nothing}"
        )
    return parts


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise InvalidError for kinds of events that there are not."""
    if len(kinds) > MAX_KINDS:
        raise InvalidError(f"a webhook names at most {MAX_KINDS} kinds; nothing was changed")
    for kind in kinds:
        if kind not in KINDS and kind not in _FAMILIES:
            raise InvalidError(
                f"there is no kind of event {kind!r:.60}. There are {', '.join(sorted(KINDS | _FAMILIES))}; "
                "nothing was changed"
            )
