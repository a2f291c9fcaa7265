"""One decision for many devices of a product: those that are named, or all that a filter finds."""

from typing import Annotated, Final

from fastapi import APIRouter
from pydantic import BaseModel, Field

from cloud.api.backend import Backend, CallerDep, Server
from cloud.api.device_lists import Which, filter_of
from cloud.api.documents import Document, Ids
from cloud.api.naming import find_firmware, find_group, find_product
from cloud.bulk import BulkOrder, BulkOutcome, Deed
from cloud.fleet import DeviceFilter
from cloud.store.errors import ConflictError, InvalidError
from protocol.values import MAX_TEXT, Urgency

router = APIRouter(tags=["devices"])
_TAKES: Final = {
    Deed.ADD_TO_GROUP: ("group",),
    Deed.REMOVE_FROM_GROUP: ("group",),
    Deed.LOCK: ("component", "version"),
    Deed.UNLOCK: ("component",),
    Deed.OTA: ("component", "version"),
    Deed.REVOKE: (),
}
"""What each deed has to be told."""


class BulkChange(Document):
    """A deed on devices of one product: `devices`, or those that `where` finds.

    `count` is how many devices they are: if they are not as many when it is done, nothing is. With `dry_run` nothing is
    changed, `count` may be left out, and what would come of it is answered.
    """

    product: str
    deed: Deed
    devices: Ids = Field(default=[])
    where: Which | None = None
    count: Annotated[int, Field(strict=True, ge=0)] | None = None
    group: str = ""
    component: str = ""
    version: str = ""
    urgency: Urgency = Urgency.IMMEDIATE
    forced: Annotated[bool, Field(strict=True)] = False
    reason: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    dry_run: Annotated[bool, Field(strict=True)] = False


class LeftOut(BaseModel):
    """Devices that it cannot be done to: why, how many, and some of them."""

    why: str
    count: int
    some: tuple[str, ...]


class BulkAnswer(BaseModel):
    """What came of it: of `devices`, `changed` are as was ordered now, and `unchanged` were so before.

    `decision` is its number in the audit, by which devices are found (`GET /devices?decision=`); null if nothing was
    changed.
    """

    decision: int | None
    devices: int
    changed: int
    unchanged: int
    left_out: tuple[LeftOut, ...]


@router.post("/devices/bulk")
def change_devices(server: Server, caller: CallerDep, body: BulkChange) -> BulkAnswer:
    """Do one thing to many devices: to all of them, or to none; or, with `dry_run`, tell what would come of it.

    It is answered when it is done. The same again changes nothing: whoever lost the answer may ask once more.
    """
    find_product(server.store, body.product)
    order, where = _order(server, body), _where(server, body)
    whom = tuple(sorted(set(body.devices))) if where is None else where
    if body.dry_run:
        return _answer(server.store.bulk.forecast(order, whom))
    if body.count is None:
        raise InvalidError("count: say how many devices it is about (`dry_run` tells); nothing was changed")
    chosen = body.where.said() if body.where is not None else None
    return _answer(server.store.bulk.do(order, whom, by=caller.name, count=body.count, chosen=chosen))


def _order(server: Backend, body: BulkChange) -> BulkOrder:
    missing = [name for name in _TAKES[body.deed] if not getattr(body, name)]
    if missing:
        raise InvalidError(f"{' and '.join(missing)}: needed to {body.deed.replace('_', ' ')}; nothing was changed")
    if "group" in _TAKES[body.deed]:
        find_group(server.store, body.product, body.group)
    if "version" in _TAKES[body.deed]:
        find_firmware(server.store, body.product, body.component, body.version)
    return BulkOrder(
        product=body.product,
        deed=body.deed,
        group=body.group,
        component=body.component,
        version=body.version,
        urgency=body.urgency,
        forced=body.forced,
        reason=body.reason,
    )


def _where(server: Backend, body: BulkChange) -> DeviceFilter | None:
    """Return where the devices are found, if they are not named."""
    if bool(body.devices) == (body.where is not None):
        raise InvalidError("name the devices, or say where they are found: one of the two; nothing was changed")
    if body.where is None:
        return None
    if body.where.product not in (None, body.product):
        looked_for = f"{body.where.product!r:.80} is looked for"
        raise ConflictError(f"it is about {body.product}, and {looked_for}; nothing was changed")
    asked = body.where.model_copy(update={"product": body.product})
    return filter_of(server, asked, products=frozenset({body.product}))


def _answer(outcome: BulkOutcome) -> BulkAnswer:
    left_out = tuple(
        LeftOut(why=why, count=count, some=tuple(outcome.examples[why])) for why, count in outcome.left_out.items()
    )
    return BulkAnswer(
        decision=outcome.decision,
        devices=outcome.devices,
        changed=outcome.changed,
        unchanged=outcome.unchanged,
        left_out=left_out,
    )
