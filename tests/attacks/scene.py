"""A victim and its attacker: what stood before, what the attack left, and that the next good release is taken."""

import itertools
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self

from cloud.keyring import Keyring
from protocol.codec import decode
from protocol.down import Desired, Notice, NoticeRelease
from protocol.errors import MessageError
from protocol.values import FirmwareRef, Urgency
from tests.attacks.attacker import PATIENCE_S, TOPICS, Files, Intruder, notice, soon_ms, stolen
from tests.attacks.evidence import Fingerprint, fingerprint, new_entries, refused
from tests.cloud.homes import PRODUCT
from tests.support.devices import COMPONENT, Device
from tests.support.fleet import Fleet
from tests.support.images import Image
from tests.support.processes import wait_until

VERSIONS = itertools.count(1)


@dataclass
class Scene:
    """One device that is attacked, in a group and a product that may be its own."""

    fleet: Fleet
    intruder: Intruder
    device: Device
    product: str = PRODUCT
    past: list[Files] = field(default_factory=list)
    """The product's metadata at each time that it was looked at."""

    @classmethod
    def begin(cls, fleet: Fleet, intruder: Intruder, name: str, *, product: str = PRODUCT) -> Self:
        """Have a device join and take a first release over the air."""
        device = fleet.join(name, product=product)
        fleet.group(name, device, product=product)
        scene = cls(fleet, intruder, device, product)
        scene.files()
        scene.takes_the_next_good_release()
        return scene

    @property
    def group(self) -> str:
        return self.device.device_id

    @property
    def channel_topic(self) -> str:
        return TOPICS.notice(self.product, self.group, COMPONENT)

    def topic(self, kind: str) -> str:
        return TOPICS.down(self.device.device_id, kind)

    def next_image(self, **more: Any) -> Image:
        """An image that nobody has seen yet."""
        return self.fleet.images.thermostat(f"50.0.{next(VERSIONS)}", **more)

    def publish_role(self, change: Callable[[Keyring, bytes], bytes]) -> None:
        """Have a release manager sign the product's role anew, and the cloud take it; returns when devices are told."""
        heard = len(self.intruder.heard(TOPICS.bundle(self.product)))
        role = change(Keyring(self.fleet.office.home / "operator" / "keys"), self.role())
        headers = {"Content-Type": "application/json"}
        self.fleet.api("POST", f"/products/{self.product}/role", content=role, headers=headers, expect=201)
        self.intruder.hear(TOPICS.bundle(self.product), heard + 1)

    def overtake(self) -> None:
        """Have the cloud use the numbers up that a forgery used, which are those that come next.

        (Whoever has the online key can use up as many as he likes. That ends when root names another key.)
        """
        self.publish_role(lambda keyring, role: keyring.renew_role(self.product, role))

    def takes_the_next_good_release(self) -> Image:
        """Release an image by the operator's own command, and wait until the device runs it and the cloud knows."""
        image = self.next_image()
        self.fleet.push(image, "--group", self.group, "--product", self.product, "--immediate")
        self.device.expect(image)
        self.fleet.expect_outcome(self.device, image)
        self.files()
        return image

    def at_rest(self) -> Fingerprint:
        """Take the fingerprint of a device that has done all that it had to."""
        last: list[Fingerprint] = []

        def quiet() -> bool:
            last.append(fingerprint(self.device))
            idle = self.device.control("status")["status"]["phase"] == "idle"
            return idle and len(last) > 1 and not last[-2].changes(last[-1])

        wait_until(quiet, PATIENCE_S, "a device at rest")
        return last[-1]

    def rough(self) -> Fingerprint:
        """Take the fingerprint as it is, at rest or not."""
        return fingerprint(self.device)

    @contextmanager
    def refusing(self, *codes: str, besides: Collection[str] = ()) -> Iterator[None]:
        """Attack inside: each of these codes must be counted, nothing else may change, and a good release is taken.

        `besides` are parts of the journal (`entries`, …) that may change; the caller says how.
        """
        before, counted = self.at_rest(), refused(self.device)
        yield
        for code in codes:
            wait_until(lambda: refused(self.device).get(code, 0) > counted.get(code, 0), PATIENCE_S, f"refused: {code}")  # noqa: B023
        self.intruder.fence(self.device)
        self.expect_unchanged(before, self.at_rest(), besides)
        self.takes_the_next_good_release()

    def expect_unchanged(self, before: Fingerprint, after: Fingerprint, besides: Collection[str] = ()) -> None:
        """Fail if anything changed but `besides`; what is trusted may be what the cloud says now, and nothing else."""
        honest = self.files().as_kept()
        for name, (old, new) in before.changes(after).items():
            kind, _, part = name.partition("/")
            assert part in besides or (kind == "trust" and new == honest.get(part)), (name, old, new)

    def expect_refused(self, code: str, count: int, since: dict[str, int]) -> None:
        """Wait until so many more refusals of a code were counted."""
        wanted = since.get(code, 0) + count
        wait_until(lambda: refused(self.device).get(code, 0) >= wanted, PATIENCE_S, f"{count} times {code}")

    def told_since(self, before: Fingerprint) -> list[tuple[str, str | None, str | None]]:
        """Version, outcome and reason of each entry since; fails if anything that was there is gone or altered."""
        attempts = [entry["attempt"] for entry in new_entries(before, fingerprint(self.device))]
        return [(item["version"], item.get("outcome"), item.get("reason")) for item in attempts]

    def wants(self) -> list[bytes]:
        """What the device ever asked chunks of."""
        return self.intruder.heard(TOPICS.up(self.device.device_id, "want"))

    def files(self) -> Files:
        """The product's current metadata, whole, as who has the cloud can read it."""
        found = Files.current(self.fleet.office.home / "cloud" / "metadata", self.product)
        if found.files not in [known.files for known in self.past]:
            self.past.append(found)
        return found

    def role(self) -> bytes:
        """The product's current role."""
        files = self.files()
        return files.files[files.name_of(self.product)]

    def old_files(self) -> Files:
        """The metadata before the newest that was looked at."""
        newest = self.files().version("timestamp")
        return next(old for old in reversed(self.past) if old.version("timestamp") < newest).copy()

    def notice(self) -> Notice:
        """What was said last of the device's channel, and is a notice."""
        for payload in reversed(self.intruder.hear(self.channel_topic)):
            with suppress(MessageError, ValueError, KeyError):
                return decode(json.loads(payload)["payload"], Notice)
        raise AssertionError("no notice")

    def desired(self) -> Desired:
        """What the cloud said last to the device alone."""
        return decode(json.loads(self.intruder.hear(self.topic("desired"))[-1])["payload"], Desired)

    def key(self, name: str) -> Any:
        """Steal a key."""
        return stolen(self.fleet.office.home, name)

    @contextmanager
    def wanting(self, firmware: FirmwareRef, *, code: str | None = None) -> Iterator[None]:
        """Have the device want a firmware, by the stolen online key, for as long as the block lasts.

        With a `code` the block is left when the device has counted a refusal of it more.
        """
        counted, evil = refused(self.device), self.offer(firmware)
        self.intruder.say(self.channel_topic, notice(evil, self.key("online")))
        yield
        if code is not None:
            self.expect_refused(code, 1, counted)
        withdrawn = replace(evil, seq=evil.seq + 1, releases=evil.releases[1:])
        self.intruder.say(self.channel_topic, notice(withdrawn, self.key("online")))

    def offer(self, firmware: FirmwareRef, **more: Any) -> Notice:
        """A notice that offers a firmware at once to all of the device's group, newer than all that was said."""
        before = self.notice()
        label = max((release.label for release in before.releases), default=0) + 1
        release = NoticeRelease(
            release_id=f"evil-{label}",
            label=label,
            order=10**6,
            firmware=firmware,
            **{"urgency": Urgency.IMMEDIATE, **more},
        )
        return Notice(
            product=before.product,
            group=before.group,
            component=before.component,
            seq=max(before.seq + 1, soon_ms()),
            issued_at_ms=soon_ms(),
            releases=(release, *before.releases),
        )

    def reference(self, image: Image, **more: Any) -> FirmwareRef:
        """An image as a notice names it; `more` says something else of it."""
        fields: dict[str, Any] = {
            "component": COMPONENT,
            "version": image.version,
            "build": image.build,
            "seq": 10**6,
            "digest": image.digest,
            "size_bytes": image.size_bytes,
            "hardware_models": ("raspberrypi4",),
        }
        return FirmwareRef(**{**fields, **more})
