"""Which devices: what lists are filtered by, and what decisions for many devices are about."""

import time
from typing import Annotated, Final

from pydantic import FailFast, Field

from cloud.api.backend import Backend
from cloud.api.documents import Document
from cloud.attention import Trouble
from cloud.fleet import ANY_REASON, NO_REASON, CertificateStanding, DeviceFilter
from cloud.store.errors import InvalidError
from protocol.identity import MAX_INTEGER
from protocol.phases import Reason, Wait

MAX_LISTED_ATTRIBUTES: Final = 8
MAX_PAGE: Final = 1000
MAX_QUIET_S: Final = 10 * 366 * 86_400
Flag = Annotated[bool, Field(strict=True)]
Name = Annotated[str, Field(max_length=500)]
Pairs = Annotated[list[Name], Field(max_length=MAX_LISTED_ATTRIBUTES), FailFast()]
QuietFor = Annotated[int, Field(ge=0, le=MAX_QUIET_S)]


class Which(Document):
    """Devices: all that is said must be true of each. What each field asks is told at `cloud.fleet.DeviceFilter`.

    An `attribute` is `name=value`; `failed` is a reason, or `any`, or `none` for those that told none.
    """

    product: Name | None = None
    group: Name | None = None
    online: Flag | None = None
    component: Name | None = None
    version: Name | None = None
    pending: Flag | None = None
    text: Name | None = None
    hardware_model: Name | None = None
    attribute: Pairs = Field(default=[])
    held: Flag | None = None
    failed: Name | None = None
    quiet_for_s: Annotated[QuietFor, Field(strict=True)] | None = None
    locked: Flag | None = None
    revoked: Flag | None = None
    decision: Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)] | None = None
    waits: Wait | None = None
    trouble: Trouble | None = None
    certificate: CertificateStanding | None = None
    refused: Flag | None = None

    def said(self) -> dict[str, object]:
        """Return what is asked, without what is not."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value not in (None, [])}


def filter_of(
    server: Backend,
    which: Which,
    *,
    products: frozenset[str] | None,
    after: str | None = None,
    limit: int = MAX_PAGE,
) -> DeviceFilter:
    """Return the store's filter; raises InvalidError for an attribute or a reason that is none."""
    if which.failed is not None and which.failed not in (ANY_REASON, NO_REASON, *Reason):
        known = ", ".join(sorted(Reason))
        raise InvalidError(
            f"{which.failed!r:.80} is no reason of a failure; those are {ANY_REASON}, {NO_REASON}, {known}"
        )
    values = which.model_dump(exclude={"attribute"})
    if which.trouble is Trouble.QUIET:
        usual_s = server.settings.devices.quiet_after_hours * 3600
        values |= {"trouble": None, "quiet_for_s": max(usual_s, which.quiet_for_s or 0)}
    if which.trouble is Trouble.REFUSED:  # the server knows, and the store does not
        values |= {"trouble": None, "among": tuple(sorted(server.refusals.lately(int(time.time() * 1000))))}
    return DeviceFilter(
        **values, attributes=tuple(map(_pair, which.attribute)), products=products, after=after, limit=limit
    )


def _pair(text: str) -> tuple[str, str]:
    name, is_pair, value = text.partition("=")
    if not (is_pair and name):
        raise InvalidError(f"an attribute is looked for as name=value, and {text!r:.80} is none")
    return name, value
