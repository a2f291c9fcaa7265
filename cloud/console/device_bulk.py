"""One decision for many devices: whom it is about, what it would do, and the deed, held to the number shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Response

from cloud.access.roles import Role
from cloud.api.bulk import BulkAnswer, BulkChange, change_devices
from cloud.api.firmware import list_firmware
from cloud.api.groups import list_groups
from cloud.api.products import list_products
from cloud.bulk import Deed
from cloud.console.devices import Asked
from cloud.console.forms import RefusedError
from cloud.console.lines import line
from cloud.console.templating import grouped
from cloud.console.visiting import Visit, Visiting
from protocol.identity import EVERYONE

NAMED: Final = 12
"""The devices that the page names."""
PARTS: Final[Mapping[Deed, tuple[str, ...]]] = {
    Deed.ADD_TO_GROUP: ("group",),
    Deed.REMOVE_FROM_GROUP: ("group",),
    Deed.LOCK: ("component", "version"),
    Deed.UNLOCK: ("component",),
    Deed.OTA: ("component", "version"),
    Deed.REVOKE: (),
}
TITLES: Final = {
    Deed.ADD_TO_GROUP: "Add devices to a group",
    Deed.REMOVE_FROM_GROUP: "Take devices out of a group",
    Deed.LOCK: "Lock devices to a version",
    Deed.UNLOCK: "Unlock devices",
    Deed.OTA: "Update devices",
    Deed.REVOKE: "Revoke devices",
}
MEANING: Final = {
    Deed.ADD_TO_GROUP: "They follow the releases of their first group, by rank, that has one for them.",
    Deed.REMOVE_FROM_GROUP: "They follow the releases of the groups that they are still in.",
    Deed.LOCK: "Releases pass a locked device by until it is unlocked.",
    Deed.UNLOCK: "They follow the releases of their groups again.",
    Deed.OTA: "Each gets a single-device OTA. A release that is made later, and reaches it, takes it along again.",
    Deed.REVOKE: "They are shut out, with their certificates and tokens, until each of them is enrolled again.",
}
COMMANDS: Final = {
    Deed.ADD_TO_GROUP: "add",
    Deed.REMOVE_FROM_GROUP: "remove",
    Deed.LOCK: "lock",
    Deed.UNLOCK: "unlock",
    Deed.OTA: "ota",
    Deed.REVOKE: "revoke",
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done to whom, as the address or the form says it."""

    deed: Deed
    asked: Asked
    everything: bool
    devices: tuple[str, ...]
    product: str
    said: Mapping[str, str]

    @property
    def missing(self) -> tuple[str, ...]:
        """Return what is still to be chosen."""
        return tuple(name for name in PARTS[self.deed] if not self.said.get(name))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Return who it is about, as fields of a form."""
        devices = [("device", f"{self.product}/{it}") for it in self.devices]
        return [
            ("deed", self.deed.value),
            ("over", "all" if self.everything else "ticked"),
            *self.asked.pairs,
            *devices,
        ]

    def body(self, **more: object) -> dict[str, Any]:
        """Return it as the API takes it."""
        chosen: dict[str, Any] = {"devices": list(self.devices)}
        if self.everything:
            chosen = {"where": {**self.asked.values, "product": self.product}}
        parts = {name: self.said[name] for name in PARTS[self.deed]}
        if self.deed is Deed.OTA:
            parts |= {"urgency": self.said.get("urgency") or "immediate"}
            more = {"forced": bool(self.said.get("forced")), **more}
        if self.deed is Deed.REVOKE:
            parts |= {"reason": self.said.get("reason", "")}
        return {"product": self.product, "deed": self.deed.value, **chosen, **parts, **more}

    def line(self, count: int) -> str:
        """Return the command that does the same."""
        main = {Deed.LOCK: "version", Deed.OTA: "version"}.get(self.deed, "group")
        words: list[object] = ["device", "bulk", COMMANDS[self.deed]]
        words += [self.said[main]] if main in PARTS[self.deed] else []
        if self.everything:
            words += Asked({**self.asked.values, "product": self.product}).options
            words += [] if set(self.asked.values) - {"product"} else ["--all"]
        else:
            words += ["--product", self.product, *(word for it in self.devices for word in ("--device", it))]
        words += ["--of", self.said["component"]] if "component" in PARTS[self.deed] else []
        if self.deed is Deed.OTA:
            words += ["--gradual"] if self.said.get("urgency") == "gradual" else []
            words += ["--force"] if self.said.get("forced") else []
        if self.deed is Deed.REVOKE and self.said.get("reason"):
            words += ["--reason", self.said["reason"]]
        return line(*words, "--count", count, "--yes")


@router.get("/devices/_bulk")
def show_bulk(visit: Visit) -> Response:
    """Show what a decision for many devices would do; nothing is done."""
    query = visit.request.query_params
    fields = {name: (query.getlist(name)) for name in query}
    return _page(visit, fields)


@router.post("/devices/_bulk")
def do_bulk(visit: Visit) -> Response:
    """Do it, if the devices are as many as were shown."""
    fields = {name: list(texts) for name, texts in visit.form.fields.items()}
    try:
        order = _order(visit, fields)
        count = _count(visit)
        body = order.body(count=count)
        made = visit.do(
            "change_devices",
            lambda: change_devices(visit.server, visit.caller, BulkChange.model_validate(body)),
            body=body,
        )
    except RefusedError as error:
        return _page(visit, fields, refused=str(error))
    there = order.asked if made.decision is None else Asked({"product": order.product, "decision": made.decision})
    return visit.go(there.address(), _done(order, made), cli=order.line(count))


def _page(visit: Visiting, fields: Mapping[str, list[str]], refused: str = "") -> Response:
    try:
        order = _order(visit, fields)
        visit.require("change_devices", body={"product": order.product})
        firmware = list_firmware(visit.server, visit.caller, order.product)
        would = None
        if not order.missing:
            body = order.body(dry_run=True)
            would = visit.do(
                "change_devices",
                lambda: change_devices(visit.server, visit.caller, BulkChange.model_validate(body)),
                body=body,
            )
    except RefusedError as error:
        said = str(error) if str(error) == refused or not refused else f"{refused} {error}"
        return visit.page("device_bulk.html", status=HTTPStatus.CONFLICT, order=None, refused=said, back=_back(fields))
    groups = list_groups(visit.server, visit.caller, order.product)
    component = order.said.get("component") or next((it.component for it in firmware), "")
    return visit.page(
        "device_bulk.html",
        status=HTTPStatus.CONFLICT if refused else HTTPStatus.OK,
        order=order,
        title=TITLES[order.deed],
        meaning=MEANING[order.deed],
        parts=PARTS[order.deed],
        would=would,
        refused=refused,
        back=order.asked.address(),
        ask_above=visit.server.settings.console.confirm_above,
        named=NAMED,
        groups=[it for it in groups if it.group != EVERYONE and it.query is None],
        components=list(dict.fromkeys(it.component for it in firmware)),
        versions=[it.version for it in firmware if it.component == component and it.published],
        may_force=visit.may(Role.RELEASE_MANAGER, order.product),
        typed=visit.form.text("typed"),
        cli=order.line(would.devices) if would else "",
    )


def _count(visit: Visiting) -> int:
    """Return how many devices were shown; raises RefusedError if they are many, and something else was typed."""
    count = visit.form.number("count") or 0
    if count > visit.server.settings.console.confirm_above and visit.form.text("typed") != str(count):
        typed = visit.form.text("typed")[:20] or "nothing"
        raise RefusedError(f"It is about {grouped(count)} devices, and {typed} was typed. Nothing was changed.")
    return count


def _order(visit: Visiting, fields: Mapping[str, list[str]]) -> Order:
    last = {name: texts[-1] for name, texts in fields.items() if texts}
    if last.get("deed") not in set(Deed):
        raise RefusedError("That is nothing that can be done to devices. Choose again in the list.")
    deed = Deed(last["deed"])
    names = {*PARTS[deed], "urgency", "forced", "reason"}
    said = {name: last.get(f"set_{name}", "").strip() for name in names}
    asked = Asked.of(last, fields.get("attribute", []))
    everything = last.get("over") == "all"
    ticked = sorted({it for it in fields.get("device", []) if it.count("/") == 1})
    products = {it.partition("/")[0] for it in ticked}
    if everything:
        there = [it.product for it in list_products(visit.server, visit.caller)]
        products = {asked.values["product"]} if "product" in asked.values else set(there)
    elif not ticked:
        raise RefusedError("No device is ticked. Go back, and tick the devices, or choose all that were found.")
    if len(products) != 1:
        names_of = ", ".join(sorted(products)) or "none"
        raise RefusedError(f"This is done for one product at a time, and here are {names_of}. Filter by one of them.")
    devices = () if everything else tuple(it.partition("/")[2] for it in ticked)
    return Order(deed, asked, everything, devices, products.pop(), said)


def _back(fields: Mapping[str, list[str]]) -> str:
    try:
        last = {name: texts[-1] for name, texts in fields.items() if texts}
        return Asked.of(last, fields.get("attribute", [])).address()
    except RefusedError:
        return "/devices"


def _done(order: Order, made: BulkAnswer) -> str:
    what = {
        Deed.ADD_TO_GROUP: f"came into group {order.said.get('group')}",
        Deed.REMOVE_FROM_GROUP: f"left group {order.said.get('group')}",
        Deed.LOCK: f"locked to {order.said.get('component')} {order.said.get('version')}",
        Deed.UNLOCK: f"unlocked for {order.said.get('component')}",
        Deed.OTA: f"to run {order.said.get('component')} {order.said.get('version')}",
        Deed.REVOKE: "revoked",
    }[order.deed]
    is_state = order.deed in (Deed.ADD_TO_GROUP, Deed.REMOVE_FROM_GROUP)
    one = made.changed == 1
    said = [f"{grouped(made.changed)} device{'' if one else 's'} {'' if is_state else 'is ' if one else 'are '}{what}."]
    if made.unchanged:
        said.append(f"{grouped(made.unchanged)} {'was' if made.unchanged == 1 else 'were'} so already.")
    said += [f"{grouped(it.count)} left out: {it.why}." for it in made.left_out]
    return " ".join(said)
