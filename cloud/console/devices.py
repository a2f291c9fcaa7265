"""The devices: found by whatever they are, a page at a time; and one decision for many of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from cloud.access.roles import Role
from cloud.api.devices import list_devices
from cloud.api.documents import DevicePage
from cloud.api.firmware import list_firmware
from cloud.api.groups import list_groups
from cloud.api.products import list_products
from cloud.attention import Trouble
from cloud.console.forms import RefusedError
from cloud.console.lines import line
from cloud.console.visiting import Visit, Visiting
from cloud.fleet import ANY_REASON, NO_REASON, CertificateStanding
from protocol.identity import EVERYONE
from protocol.phases import Reason, Wait

SHOWN: Final = 50
KINDS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "trouble": (
        (Trouble.TAKEN_BACK, "a success that was taken back"),
        (Trouble.FAILED, "failed"),
        (Trouble.ROLLED_BACK, "rolled back"),
        (Trouble.REFUSED, "its messages are refused"),
        (Trouble.CERTIFICATE, "its certificate ends"),
        (Trouble.BLOCKED, "what it is to take is blocked"),
        (Trouble.QUIET, "quiet"),
        (Trouble.HELD, "held back for long"),
        (Trouble.TURN, "waits for its turn"),
    ),
    "waits": tuple((it.value, it.value.replace("_", " ")) for it in Wait),
    "certificate": (
        (CertificateStanding.NONE, "none"),
        (CertificateStanding.GOOD, "good"),
        (CertificateStanding.EXPIRES_SOON, "expires soon"),
        (CertificateStanding.EXPIRED, "expired"),
        (CertificateStanding.REVOKED, "revoked"),
    ),
}
"""What is one of a few: each with its words."""
TEXTS: Final = ("text", "product", "group", "component", "version", "hardware_model", "failed")
FLAGS: Final[Mapping[str, tuple[str, str]]] = {
    "online": ("online", "offline"),
    "pending": ("something waits", "nothing waits"),
    "held": ("held back", "not held back"),
    "locked": ("locked", "not locked"),
    "revoked": ("revoked", "not revoked"),
    "refused": ("refused what it was sent", "refused nothing"),
}
"""What is asked with yes or no: the words for each."""
_ASKED: Final = {"trouble": "trouble", "waits": "waits for", "certificate": "certificate"}
NUMBERS: Final[Mapping[str, str]] = {"quiet_for_s": "a number of seconds", "decision": "a number in the audit"}
MORE: Final = frozenset(
    {
        *("component", "pending", "held", "quiet_for_s", "hardware_model", "attribute", "locked", "revoked", "refused"),
        *("waits", "certificate"),
    }
)
"""What is asked in the second part of the form."""
QUIET: Final = ((3600, "an hour"), (86_400, "a day"), (3 * 86_400, "3 days"), (7 * 86_400, "a week"))
OPTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "online": ("--online", "--offline"),
    "pending": ("--pending", "--nothing-pending"),
    "held": ("--held", "--not-held"),
    "locked": ("--locked", "--not-locked"),
    "revoked": ("--revoked", "--not-revoked"),
    "refused": ("--refused", "--not-refused"),
}
REASONS: Final = tuple(
    (it.value, it.value.replace("_", " ")) for it in Reason if it not in (Reason.SUPERSEDED, Reason.WITHDRAWN)
)

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a list of devices is filtered by, as its address says it: names as the API has them."""

    values: Mapping[str, Any]

    @classmethod
    def of(cls, said: Mapping[str, str], attributes: Sequence[str]) -> "Asked":
        """Return what an address or a form asks for; raises RefusedError for what is not to be understood."""
        values: dict[str, Any] = {name: said[name].strip() for name in TEXTS if said.get(name, "").strip()}
        for name in FLAGS:
            if text := said.get(name, "").strip():
                if text not in ("true", "false"):
                    raise RefusedError(f"{name}: true or false is expected, not {text[:40]!r}.")
                values[name] = text == "true"
        for name, what in NUMBERS.items():
            if number := said.get(name, "").strip():
                if not (number.isascii() and number.isdecimal() and len(number) < 10):
                    raise RefusedError(f"{name}: {what} is expected, not {number[:40]!r}.")
                values[name] = int(number)
        for name, known in KINDS.items():
            if text := said.get(name, "").strip():
                if text not in (there := [value for value, _ in known]):
                    raise RefusedError(f"{name}: one of {', '.join(there)} is expected, not {text[:40]!r}.")
                values[name] = text
        if pairs := [it.strip() for it in attributes if it.strip()]:
            values["attribute"] = pairs
        return cls(values)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Return it as fields of an address or a form."""
        found = []
        for name, value in self.values.items():
            if name == "attribute":
                found += [(name, it) for it in value]
            else:
                found.append((name, str(value).lower() if isinstance(value, bool) else str(value)))
        return found

    def address(self, path: str = "/devices", **more: object) -> str:
        """Return the address of this list."""
        added = [(name, str(value)) for name, value in more.items() if value]
        query = urlencode([*self.pairs, *added])
        return f"{path}?{query}" if query else path

    def without(self, name: str, value: str) -> str:
        """Return the address of the list without one of what is asked."""
        return Asked.of(*_divided([it for it in self.pairs if it != (name, value)])).address()

    @property
    def words(self) -> list[tuple[str, str, str]]:
        """Return each part as its name, its value and words for it."""
        return [(name, value, _words(name, value)) for name, value in self.pairs]

    @property
    def options(self) -> list[str]:
        """Return it as options of the command line."""
        found = []
        for name, value in self.pairs:
            if name in OPTIONS:
                found.append(OPTIONS[name][0 if value == "true" else 1])
            elif name == "quiet_for_s":
                found += ["--quiet-for", f"{value}s"]
            else:
                found += [f"--{name.replace('_', '-')}", value]
        return found


Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """What a filter can be chosen from, each with its words: of the product that is asked for, or of all."""

    products: Pairs
    groups: Pairs
    models: Pairs
    components: Pairs
    versions: Pairs

    @classmethod
    def there(cls, visit: Visiting, product: str | None) -> "Choices":
        """Return what there is."""
        products = list_products(visit.server, visit.caller)
        chosen = product if product in {it.product for it in products} else None
        firmware = list_firmware(visit.server, visit.caller, chosen)
        return cls(
            products=_named(it.product for it in products),
            groups=_named(it.group for it in list_groups(visit.server, visit.caller, chosen)),
            models=_named(model for it in products if chosen in (None, it.product) for model in it.hardware_models),
            components=_named(it.component for it in firmware),
            versions=_named(it.version for it in firmware),
        )


def _named(names: Iterable[str]) -> Pairs:
    return tuple((name, name) for name in dict.fromkeys(names))


@router.get("/devices")
def show_devices(visit: Visit) -> Response:
    """Show the devices that are asked for, a page of them."""
    visit.require("list_devices")
    query = visit.request.query_params
    said, status = "", HTTPStatus.OK
    asked, page = Asked({}), DevicePage(total=0, devices=(), next=None)
    after = visit.asked("after")
    try:
        asked = Asked.of(query, query.getlist("attribute"))
        page = visit.do(
            "list_devices",
            lambda: list_devices(visit.server, visit.caller, **asked.values, after=after or None, limit=SHOWN),
        )
    except RefusedError as error:
        said, status = str(error), HTTPStatus.UNPROCESSABLE_ENTITY
    here = asked.address(after=after)
    if not said and any(not value for value in query.values()):
        return _tidied(here)
    is_part = visit.is_fragment and visit.request.headers.get("hx-target", "").endswith("found")
    product = asked.values.get("product")
    return visit.page(
        "devices_found.html" if is_part else "devices.html",
        status=HTTPStatus.OK if is_part else status,
        asked=asked,
        here=here,
        page=page,
        refused=said,
        choices=None if is_part else Choices.there(visit, product),
        may_change=visit.may(Role.OPERATOR, product) if product else visit.caller.may_anywhere(Role.OPERATOR),
        shows_more=not MORE.isdisjoint(asked.values),
        flags=FLAGS,
        quiet=QUIET,
        reasons=REASONS,
        kinds=KINDS,
        everyone=EVERYONE,
        next=asked.address(after=page.next) if page.next else "",
        first=asked.address() if after else "",
        cli=line("device", "list", *asked.options),
    )


def _tidied(here: str) -> Response:
    """Show the same page under an address without what says nothing: forms send their empty fields, too."""
    return RedirectResponse(here, HTTPStatus.SEE_OTHER, headers={"Cache-Control": "no-store"})


def _divided(pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, str], list[str]]:
    return dict(pairs), [value for name, value in pairs if name == "attribute"]


def _words(name: str, value: str) -> str:
    known = {
        **{flag: dict(zip(("true", "false"), words, strict=True)) for flag, words in FLAGS.items()},
        "failed": {ANY_REASON: "whose last update failed", NO_REASON: "failed, and told no reason"},
        **{kind: {it: f"{_ASKED[kind]}: {text}" for it, text in words} for kind, words in KINDS.items()},
    }
    if value in known.get(name, {}):
        return known[name][value]
    if name == "quiet_for_s":
        lasts = dict(QUIET).get(int(value), f"{value} s")
        return f"quiet for {lasts}"
    said = {"failed": "failed:", "text": "id with", "decision": "changed by decision"}
    return f"{said.get(name, name.replace('_', ' '))} {value.replace('_', ' ') if name == 'failed' else value}"
