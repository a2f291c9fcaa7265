"""Every topic, built and parsed side by side; at most 7 slashes and no `$` topics (AWS IoT Core's limits).

Under the root (default `fleetlift/v1`):

    d/<device>/up/<kind>               device to cloud: hello, state, report, want, ask
    d/<device>/up/presence             retained, with a last will
    d/<device>/down/<kind>             cloud to device: desired, ack, meta
    d/<device>/down/b/<blob>           chunks for one device that is detached from the shared stream
    p/<product>/meta                   retained: the TUF metadata bundle
    p/<product>/n/<group>/<component>  retained: a channel's notice
    b/<blob>                           chunks of a blob, for everyone who waits for them
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from protocol.errors import IdentityError
from protocol.identity import check_digest, check_id

DEFAULT_ROOT: Final = "fleetlift/v1"
MAX_ROOT_LENGTH: Final = 64
_ROOT = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)?")

UP_KINDS: Final = frozenset({"hello", "state", "report", "want", "ask", "presence"})
DOWN_KINDS: Final = frozenset({"desired", "ack", "meta"})


@dataclass(frozen=True, slots=True)
class UpTopic:
    """A topic that a device publishes on."""

    device_id: str
    kind: str


@dataclass(frozen=True, slots=True)
class DownTopic:
    """A topic for one device."""

    device_id: str
    kind: str


@dataclass(frozen=True, slots=True)
class ChunkTopic:
    """A stream of chunks: shared, or (`device_id`) one device's own."""

    blob: str
    device_id: str | None = None


@dataclass(frozen=True, slots=True)
class NoticeTopic:
    """A channel's notice."""

    product: str
    group: str
    component: str


@dataclass(frozen=True, slots=True)
class BundleTopic:
    """A product's metadata bundle."""

    product: str


Topic = UpTopic | DownTopic | ChunkTopic | NoticeTopic | BundleTopic


@dataclass(frozen=True, slots=True)
class Topics:
    """Builds and parses the topics under one root (one or two levels of letters, digits, `_` and `-`)."""

    root: str = DEFAULT_ROOT

    def __post_init__(self) -> None:
        if len(self.root) > MAX_ROOT_LENGTH or not _ROOT.fullmatch(self.root):
            raise IdentityError(
                f"topic root {self.root!r:.80} is not one or two levels of letters, digits, '_' and '-'"
            )

    def up(self, device_id: str, kind: str) -> str:
        """Return the topic on which a device publishes this kind."""
        return f"{self.root}/d/{device_id}/up/{kind}"

    def down(self, device_id: str, kind: str) -> str:
        """Return the topic on which the cloud tells one device this kind."""
        return f"{self.root}/d/{device_id}/down/{kind}"

    def chunks(self, blob: str, device_id: str | None = None) -> str:
        """Return the topic of a blob's chunks: the shared one, or one device's own."""
        return f"{self.root}/b/{blob}" if device_id is None else f"{self.root}/d/{device_id}/down/b/{blob}"

    def notice(self, product: str, group: str, component: str) -> str:
        """Return the topic of a channel's notice; `+` as component subscribes to all of a group's."""
        return f"{self.root}/p/{product}/n/{group}/{component}"

    def bundle(self, product: str) -> str:
        """Return the topic of a product's metadata bundle."""
        return f"{self.root}/p/{product}/meta"

    def all_up(self) -> str:
        """Return the filter by which the cloud hears every device."""
        return f"{self.root}/d/+/up/+"

    def all_down(self, device_id: str) -> str:
        """Return the filter by which a device hears all that is for it alone."""
        return f"{self.root}/d/{device_id}/down/#"

    def parse(self, topic: str) -> Topic:
        """Return what a topic means; raises IdentityError for one that is not ours."""
        if not topic.startswith(self.root + "/"):
            raise IdentityError(f"topic {topic!r:.200} is not under {self.root}")
        match topic[len(self.root) + 1 :].split("/"):
            case ["d", device, "up", kind] if kind in UP_KINDS:
                return UpTopic(check_id(device, "device"), kind)
            case ["d", device, "down", kind] if kind in DOWN_KINDS:
                return DownTopic(check_id(device, "device"), kind)
            case ["d", device, "down", "b", blob]:
                return ChunkTopic(check_digest(blob, "blob"), check_id(device, "device"))
            case ["b", blob]:
                return ChunkTopic(check_digest(blob, "blob"))
            case ["p", product, "meta"]:
                return BundleTopic(check_id(product, "product"))
            case ["p", product, "n", group, component]:
                return NoticeTopic(
                    check_id(product, "product"), check_id(group, "group"), check_id(component, "component")
                )
        raise IdentityError(f"topic {topic!r:.200} is not one of ours")
