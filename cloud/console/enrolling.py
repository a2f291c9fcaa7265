"""Keys and enrolment: codes for new devices, who signs what until when, and the authorities of certificates."""

import hashlib
import io
import secrets
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import segno
from fastapi import APIRouter, Response

from cloud.access.roles import EVERYTHING, Role
from cloud.api.authorities import AuthoritiesPage, Retirement, list_authorities, retire_authority, rotate_authority
from cloud.api.backend import Backend
from cloud.api.enrolment import authorities_of, show_roots
from cloud.api.enrolment_tokens import (
    NewEnrolmentToken,
    create_enrolment_token,
    list_enrolment_tokens,
    revoke_enrolment_token,
)
from cloud.api.groups import list_groups
from cloud.api.metadata import show_standing
from cloud.api.products import list_products
from cloud.console.forms import Form, RefusedError
from cloud.console.lines import line
from cloud.console.visiting import Visit, Visiting
from cloud.credentials import EnrolmentTokenView
from cloud.pki.authorities import Kind
from protocol.enrolment import TOKEN_BYTES, EnrolmentCode, make_token
from protocol.identity import EVERYONE

HOURS: Final = (("1", "an hour"), ("24", "a day"), ("168", "a week"), ("720", "30 days"), ("8760", "a year"))
FIELDS: Final = ("product", "hardware_model", "device_id", "groups", "uses", "hours", "name")
SETTINGS: Final = """\
[device]
id = "{device_id}"
product = "{product}"
hardware_model = "{model}"
state_dir = "state"
root = "root.json"

[identity]
directory = "identity"

[components.app]
command = ["{{python}}", "{{image}}"]
health = {{ kind = "http", url = "http://127.0.0.1:8080/health" }}
"""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a page shows once: a code, its picture, the line that uses it on a device, and settings to start from."""

    name: str
    code: str
    svg: str
    command: str
    settings: str


@router.get("/enrolment")
def show_enrolment(visit: Visit) -> Response:
    """Show enrolment tokens, who signs what, and the authorities."""
    return _page(visit)


@router.post("/enrolment")
def make(visit: Visit) -> Response:
    """Make an enrolment token, and show the code with it this once."""
    form, server = visit.form, visit.server
    product = form.text("product")
    given = {name: form.text(name) for name in FIELDS}
    try:
        code = visit.do("create_enrolment_token", lambda: _new_code(server), product=product)
        body = visit.do("create_enrolment_token", lambda: _wanted(form, code), product=product)
        token = visit.do(
            "create_enrolment_token", lambda: create_enrolment_token(server, visit.name, body), product=product
        )
    except RefusedError as error:
        return _page(visit, given=given, said=error)
    made = Made(
        name=token.name,
        code=str(code),
        svg=_picture(str(code)),
        command=_device_line(server, str(code), token.device_id, token.hardware_model),
        settings=_settings(token, server.store.catalog.product(product).hardware_models),
    )
    return visit.page("enrolment_code.html", made=made, token=token, line=line, create_line=_line_of(given))


@router.post("/enrolment/tokens/{name}/revoke")
def revoke(visit: Visit, name: str) -> Response:
    """Take a token back."""
    return visit.act(
        "revoke_enrolment_token",
        lambda: revoke_enrolment_token(visit.server, visit.name, name),
        to="/enrolment",
        said=f"The enrolment token {name} enrols nobody any more. Devices that it enrolled stay.",
        cli=line("token", "revoke", name),
        name=name,
    )


@router.post("/enrolment/authorities/{kind}/rotate")
def rotate(visit: Visit, kind: Kind) -> Response:
    """Make the next authority of a kind."""
    return visit.act(
        "rotate_authority",
        lambda: rotate_authority(visit.server, visit.name, kind),
        to="/enrolment#authorities",
        said=lambda page: _rotated(page, kind),
        cli=line("ca", "rotate", kind, "--yes"),
    )


@router.post("/enrolment/authorities/{kind}/retire")
def retire(visit: Visit, kind: Kind) -> Response:
    """Trust the newest authority of a kind alone."""
    force = visit.form.ticked("force")
    return visit.act(
        "retire_authority",
        lambda: retire_authority(visit.server, visit.name, kind, Retirement(force=force)),
        to="/enrolment#authorities",
        said=lambda page: f"{page.authorities[0].name} alone is trusted for {kind}.",
        cli=line("ca", "retire", kind, *(("--force",) if force else ()), "--yes"),
    )


def _page(visit: Visiting, *, given: dict[str, str] | None = None, said: RefusedError | None = None) -> Response:
    visit.require("list_enrolment_tokens")
    visit.require("show_standing")
    server, caller = visit.server, visit.caller
    products = [it for it in list_products(server, caller) if visit.may(Role.OPERATOR, it.product)]
    groups = [it for it in list_groups(server, caller) if it.group != EVERYONE and it.query is None]
    tokens = list_enrolment_tokens(server, caller)
    everything = bool(visit.asked("all"))
    return visit.page(
        "enrolment.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if said else HTTPStatus.OK,
        said=said,
        given=given or dict.fromkeys(FIELDS, "") | {"uses": "1", "hours": "24"},
        tokens=[it for it in tokens if everything or it.good],
        left_out=0 if everything else sum(not it.good for it in tokens),
        everything=everything,
        products=[(it.product, it.product) for it in products],
        models=sorted({model for it in products for model in it.hardware_models if model != "*"}),
        groups=sorted({it.group for it in groups}),
        hours=HOURS,
        with_codes=server.authorities is not None,
        standing=show_standing(server, caller),
        authorities=_authorities(visit),
        may_change_authorities=visit.may(Role.ADMIN),
        line=line,
    )


def _authorities(visit: Visiting) -> tuple[AuthoritiesPage, ...]:
    if visit.server.authorities is None or not visit.may(Role.VIEWER, EVERYTHING):
        return ()
    visit.require("list_authorities")
    return list_authorities(visit.server)


def _new_code(server: Backend) -> EnrolmentCode:
    """Return a code with a new token, for the authority and the root that this server's devices begin with."""
    bundle = authorities_of(server).trusted("services").decode("ascii")
    oldest = bundle[bundle.rindex("-----BEGIN CERTIFICATE-----") :]
    ca_sha256 = hashlib.sha256(ssl.PEM_cert_to_DER_cert(oldest)).hexdigest()
    root_sha256 = hashlib.sha256(show_roots(server)[0].encode()).hexdigest()
    return EnrolmentCode(make_token(secrets.token_bytes(TOKEN_BYTES)), ca_sha256, root_sha256)


def _wanted(form: Form, code: EnrolmentCode) -> NewEnrolmentToken:
    return NewEnrolmentToken(
        token_sha256=hashlib.sha256(code.token.encode()).hexdigest(),
        product=form.text("product"),
        hardware_model=form.text("hardware_model") or None,
        device_id=form.text("device_id") or None,
        groups=form.words("groups"),
        uses=form.number("uses", default=1) or 0,
        lifetime_s=(form.number("hours", default=24) or 0) * 3600,
        name=form.text("name") or None,
    )


def _picture(code: str) -> str:
    """Return a QR code as SVG that a page may carry: no style and no script in it."""
    out = io.BytesIO()
    segno.make(code, error="m", micro=False).save(out, kind="svg", xmldecl=False, omitsize=True, border=4, nl=False)
    return out.getvalue().decode()


def _device_line(server: Backend, code: str, device_id: str | None, hardware_model: str | None) -> str:
    """Return what a device runs; its shell writes the code into a pipe, so that it is in no program's arguments.

    Who it is its own settings say, unless the code is for one device: they refuse to be contradicted.
    """
    name = f" --device-id {device_id}" if device_id else ""
    model = f" --hardware {hardware_model}" if hardware_model else ""
    agent = f"fleetlift-agent enrol --config agent.toml --server {server.base_url}{name}{model}"
    return f"printf '%s\\n' '{code}' | {agent} --code-file -"


def _settings(token: EnrolmentTokenView, models: tuple[str, ...]) -> str:
    """Return an agent.toml to start from, for an application that answers a health check."""
    model = token.hardware_model or next((it for it in models if it != "*"), "any-model")
    return SETTINGS.format(device_id=token.device_id or "device-1", product=token.product, model=model)


def _line_of(given: dict[str, str]) -> str:
    options = (
        ("--product", given["product"]),
        ("--hardware", given["hardware_model"]),
        ("--device", given["device_id"]),
        *(("--group", it) for it in given["groups"].replace(",", " ").split()),
        ("--uses", given["uses"] if given["uses"] != "1" else ""),
        ("--expires", f"{given['hours']}h" if given["hours"] else ""),
        ("--name", given["name"]),
    )
    return line("token", "create", *(word for name, value in options if value for word in (name, value)))


def _rotated(page: AuthoritiesPage, kind: Kind) -> str:
    name = page.authorities[0].name
    if kind == "devices":
        return f"{name} signs from now on; devices change over as they renew. The one before stays trusted."
    return f"{name} is told to devices from now on; it signs when the one before is retired."
