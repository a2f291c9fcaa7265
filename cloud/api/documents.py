"""What operators send, and the answers that are more than one view of the store."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from cloud.fleet import DeviceView, OtaView
from cloud.groups_query import MAX_QUERY
from cloud.progress import DeviceProgress, Rollout, Stage, Verdict
from cloud.values import MAX_APPROVALS, FirmwareView, GroupMatch, GroupTrial, GroupView, ReleaseMetrics, ReleaseView
from protocol.identity import MAX_INTEGER
from protocol.manifest import MAX_HARDWARE_MODELS, MAX_SCHEMAS
from protocol.values import MAX_GROUPS, Urgency

MAX_IDS = 10_000
Text = Annotated[str, Field(max_length=500)]
QueryText = Annotated[str, Field(max_length=MAX_QUERY)]
MAX_FIELDS = 1000
"""Of one object in a body."""
# Fail-fast, for pydantic would collect an error for each wrong item: a gigabyte for a body that is let in.
Ids = Annotated[list[str], Field(max_length=MAX_IDS), FailFast()]
Groups = Annotated[tuple[str, ...], Field(max_length=MAX_GROUPS), FailFast()]
Models = Annotated[list[str], Field(min_length=1, max_length=MAX_HARDWARE_MODELS), FailFast()]


class Document(BaseModel):
    """A request's body: unknown fields are refused, nothing is converted, and texts are text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_text(cls, value: object) -> object:
        if isinstance(value, bytes):  # what was not sent as JSON comes as it is
            raise ValueError("JSON is expected, sent as application/json")  # noqa: TRY004 - pydantic groups ValueError
        objects = (value, *value.values()) if isinstance(value, dict) else ()
        if any(len(item) > MAX_FIELDS for item in objects if isinstance(item, dict)):
            raise ValueError(f"an object with more than {MAX_FIELDS} fields")
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # JSON can escape a surrogate without its other half, UTF-8 cannot hold it
            raise ValueError("half a character, a lone surrogate, is not text") from None
        return value


class NewProduct(Document):
    """A product with the metadata that delegates to it: the signed files' exact texts."""

    product: str
    hardware_models: Models
    targets: str
    role: str


class ProductChange(Document):
    """What to change of how a whole product is updated; what is left out stays."""

    ota_enabled: Annotated[bool, Field(strict=True)] | None = None
    base_only: Annotated[bool, Field(strict=True)] | None = None
    approvals: Annotated[int, Field(strict=True, ge=0, le=MAX_APPROVALS)] | None = None


class NewGroup(Document):
    """A group; `rank` 1 decides first, left out: after the others. With a `query` its devices follow from facts."""

    product: str
    group: str
    rank: Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)] | None = None
    query: QueryText | None = None


class GroupChange(Document):
    """Another rank, another query; what is left out stays."""

    rank: Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)] | None = None
    query: QueryText | None = None


class QueryTrial(Document):
    """A query that a group may be made with, and a device to ask it of in particular; `limit` ids are answered."""

    query: QueryText
    limit: Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)] | None = None
    device_id: str | None = None


class MembersChange(Document):
    """Devices to put into a group and to take out of it."""

    add: Ids = []
    remove: Ids = []


class MembersChanged(BaseModel):
    """How many devices are new in a group, and how many left it."""

    added: int
    removed: int


class TrialPage(BaseModel):
    """What a query finds now, and what it saw of the device that was asked for."""

    trial: GroupTrial
    device: GroupMatch | None


class GroupPage(BaseModel):
    """A group and its devices."""

    group: GroupView
    members: tuple[str, ...]


class FirmwareFacts(Document):
    """A firmware that is not published yet, for a forecast."""

    build: Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)] = 0
    seq: Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)] = 1
    digest: str
    size_bytes: Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)]
    hardware_models: Models
    requires: dict[str, Any] = {}
    data_schema: Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)] = 0
    reads_schemas: Annotated[tuple[int, ...], Field(max_length=MAX_SCHEMAS), FailFast()] = ()


class NewRelease(Document):
    """A release. Give the `release_id` of a forecast, and the forecast holds for it.

    `plan` is a `cloud.guard.policy.Policy` without its terms, and sets the percentage; `terms` are those of
    `protocol.schedule.Terms` that operators set.
    """

    product: str
    group: str
    component: str
    version: str
    percentage: Annotated[int, Field(strict=True)] = 100
    mandatory: Annotated[bool, Field(strict=True)] = False
    forced: Annotated[bool, Field(strict=True)] = False
    urgency: Urgency = Urgency.GRADUAL
    target_range: Text = "*"
    description: Text = ""
    release_id: str | None = None
    plan: dict[str, Any] | None = None
    terms: dict[str, Any] | None = None


class ForecastRequest(NewRelease):
    """A release that may be made; `firmware` describes one that is not published yet."""

    firmware: FirmwareFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwarePage(FirmwareView):
    """A firmware, and the address of its page in the console."""

    link: str


class HeldDevice(BaseModel):
    """A device that would not take a release, and why."""

    device_id: str
    reason: str
    detail: str


class ForecastAnswer(BaseModel):
    """Who would take a release. `sentence` says it to people."""

    release_id: str
    reach: int
    takes: tuple[str, ...]
    holds: tuple[HeldDevice, ...]
    sentence: str


class ReleaseChange(Document):
    """What to change of a release for the devices that it has not reached; what is left out stays.

    With `if_waiting`, the digest of who waits for it, only while just these devices do.
    """

    percentage: Annotated[int, Field(strict=True)] | None = None
    mandatory: Annotated[bool, Field(strict=True)] | None = None
    forced: Annotated[bool, Field(strict=True)] | None = None
    urgency: Urgency | None = None
    description: Text | None = None
    enabled: Annotated[bool, Field(strict=True)] | None = None
    if_waiting: Text | None = None


class Rollback(Document):
    """A roll-back to this label; with a `plan_hash`, only if it would do what was planned."""

    description: Text = ""
    urgency: Urgency = Urgency.GRADUAL
    plan_hash: Text | None = None


class Promotion(Document):
    """Where to release what succeeded here; with a `plan_hash`, only if it would do what was planned."""

    group: str
    percentage: Annotated[int, Field(strict=True)] = 100
    mandatory: Annotated[bool, Field(strict=True)] | None = None
    urgency: Urgency | None = None
    description: Text | None = None
    plan_hash: Text | None = None


class WaitingPage(BaseModel):
    """Who is to take a release and has not begun: how many, the SHA-256 over their ids, and some of them by id."""

    count: int
    digest: str
    devices: tuple[DeviceProgress, ...]


class ReleasePage(BaseModel):
    """A release, where its plan is if it has one, what became of it, and the address of its page in the console.

    `metrics` are null in a list that was asked for without.
    """

    release: ReleaseView
    rollout: Rollout | None
    metrics: ReleaseMetrics | None
    link: str


class ReleaseProgress(BaseModel):
    """How far a release is: how many devices are in each stage, and some of them; `left_out` are not shown.

    `revision` goes up with every change on the server; `verdict` is what the release has come to.
    """

    revision: int
    release: ReleaseView
    metrics: ReleaseMetrics
    stages: dict[Stage, int]
    rollout: Rollout | None
    verdict: Verdict
    devices: tuple[DeviceProgress, ...]
    left_out: int


class NewDevice(Document):
    """A device, made known before its first hello."""

    device_id: str
    product: str
    hardware_model: str
    groups: Groups = ()


class DevicePage(BaseModel):
    """Devices by id; `next` is the `after` of the page that follows, if there is one."""

    total: int
    devices: tuple[DeviceView, ...]
    next: str | None


class Lock(Document):
    """The version that a device is locked to."""

    version: str


class NewOta(Document):
    """A firmware for one device."""

    component: str
    version: str
    urgency: Urgency = Urgency.IMMEDIATE
    forced: Annotated[bool, Field(strict=True)] = False


class OtaPage(BaseModel):
    """A single-device OTA, how its device stands with it, and the address of its page in the console."""

    revision: int
    ota: OtaView
    device: DeviceProgress
    link: str


class BlobPage(BaseModel):
    """A blob that can be served."""

    digest: str
    size_bytes: int
    lists: tuple[str, ...]


class SystemPage(BaseModel):
    """The server, and what a device must be told to reach it."""

    version: str
    broker_url: str
    topic_root: str
    joining: str
    max_image_bytes: int
    person: str
    """Who asks."""
    token: str
    """The name of the token that they ask with."""
