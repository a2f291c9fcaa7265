"""Fleets that come from another tool, some hundred devices a request."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import FailFast, Field

from cloud.api.backend import Actor, Server
from cloud.api.documents import Document, Groups
from cloud.store.importing import ImportOutcome, KnownDevice, KnownImage
from protocol.identity import MAX_INTEGER
from protocol.values import MAX_ATTRIBUTES, MAX_COMPONENTS

MAX_AT_ONCE = 1000
Value = Annotated[str, Field(max_length=200)]
Number = Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)]
router = APIRouter(tags=["devices"])


class ImageFact(Document):
    """What is installed of one component; the digest is looked up by version if it is left out."""

    version: str
    build: Number | None = None
    digest: str | None = None


class DeviceFact(Document):
    """A device of a file; `attributes` and `installed` that are left out stay as they are."""

    line: Number
    device_id: str
    product: str
    hardware_model: str | None = None
    groups: Groups = ()
    attributes: Annotated[dict[str, Value], Field(max_length=MAX_ATTRIBUTES)] | None = None
    installed: Annotated[dict[str, ImageFact], Field(max_length=MAX_COMPONENTS)] | None = None


class FleetImport(Document):
    """Devices to be made known, all or none; with `dry_run` none, and the answer says what would be."""

    devices: Annotated[list[DeviceFact], Field(max_length=MAX_AT_ONCE), FailFast()]
    dry_run: Annotated[bool, Field(strict=True)] = False


@router.post("/fleet/import")
def import_fleet(server: Server, actor: Actor, body: FleetImport) -> ImportOutcome:
    """Make devices known that another tool knew; lines that are `wrong` keep all of them from being imported."""
    devices = [
        KnownDevice(
            line=it.line,
            device_id=it.device_id,
            product=it.product,
            hardware_model=it.hardware_model,
            groups=it.groups,
            attributes=it.attributes,
            installed=None
            if it.installed is None
            else {name: KnownImage(fact.version, fact.build, fact.digest) for name, fact in it.installed.items()},
        )
        for it in body.devices
    ]
    return server.store.importing.import_fleet(devices, dry_run=body.dry_run, by=actor)
