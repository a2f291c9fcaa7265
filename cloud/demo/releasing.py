"""The story's quiet half: percentages, immediate releases, a broken release, rollback, pins, a single device."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloud.demo.auditing import keys_with_the_server
from cloud.demo.observing import read_only
from cloud.demo.operating import Image, Operator, attempts, bucket, check_now, control, join
from cloud.demo.telling import Teller, wait_for
from cloud.demo.world import Device, World

TAKE_TIMEOUT_S = 90.0
GROUPS: Mapping[str, tuple[str, ...]] = {
    "lab": ("pi-1", "pi-2"),
    "field": ("pi-3", "pi-4"),
    "clinic": ("pi-5", "pi-6"),
}


@dataclass(frozen=True, slots=True)
class Story:
    """What every act has at hand."""

    world: World
    teller: Teller
    operator: Operator
    images: Mapping[str, Image]

    def group(self, name: str) -> list[Device]:
        """Return a group's devices."""
        return [self.world.devices[device_id] for device_id in GROUPS[name]]

    @property
    def everyone(self) -> list[Device]:
        """All devices."""
        return list(self.world.devices.values())

    def push(self, version: str, *words: str) -> str:
        """Release an image; return the release's id."""
        answer = self.operator.run("release", "push", str(self.images[version].path), *words, "--yes")
        return str(answer["release"]["release_id"])

    def all_run(self, devices: Iterable[Device], version: str) -> bool:
        """Tell whether each device's application is this version, from this image."""
        digest = self.images[version].digest
        return all(device.seen.runs(version, digest) for device in devices)

    def versions(self, devices: Iterable[Device]) -> dict[str, str | None]:
        """Return what runs where, seen from outside."""
        return {device.device_id: device.seen.running_version() for device in devices}

    def expect_all_run(self, claim: str, devices: Sequence[Device], version: str) -> bool:
        """Wait until the devices run a version, and note it."""
        return self.teller.eventually(
            claim,
            lambda: self.all_run(devices, version),
            lambda: self.versions(devices),
            timeout_s=TAKE_TIMEOUT_S,
        )

    def expect_reported(self, claim: str, devices: Sequence[Device], version: str, outcome: str = "succeeded") -> bool:
        """Wait until the cloud's database holds each device's newest attempt at a version with this outcome."""
        digest = self.images[version].digest

        def outcomes() -> dict[str, str | None]:
            found = {device.device_id: attempts(self.world, device, digest) for device in devices}
            return {name: rows[-1]["outcome"] if rows else None for name, rows in found.items()}

        return self.teller.eventually(
            claim, lambda: set(outcomes().values()) == {outcome}, outcomes, timeout_s=TAKE_TIMEOUT_S
        )


def joining(story: Story) -> None:
    """Make keys, start the cloud, let six devices in three groups join."""
    teller, operator, world = story.teller, story.operator, story.world
    for group in GROUPS:
        operator.run("group", "create", group)
    for group, names in GROUPS.items():
        for name in names:
            join(world, operator, name, group, window_bytes=256 * 1024 if name == "pi-5" else None)

    def online() -> list[str]:
        return [row["device_id"] for row in operator.run("device", "list", "--online", quiet=True)]

    teller.eventually("six devices in three groups are online", lambda: len(online()) == 6, online)
    keys = keys_with_the_server(world)
    teller.expect("neither server nor broker holds a key that could sign firmware", not keys, str(keys))


def by_percentage(story: Story) -> None:
    """Release to half of everyone, then to all."""
    teller, world = story.teller, story.world
    release_id = story.push("1.0.0", "--percentage", "50", "--description", "first flight")
    chosen = [device for device in story.everyone if bucket(device.device_id, release_id) < 50]
    others = [device for device in story.everyone if device not in chosen]
    teller.say(f"their buckets choose {', '.join(device.device_id for device in chosen) or 'nobody'}")
    pending = {device.device_id for device in chosen}
    teller.eventually(
        "a gradual release waits for the next session or check: it is pending, and nothing moves",
        lambda: _pending(story) == pending and not any(device.seen.current_slot() for device in story.everyone),
        lambda: (_pending(story), story.versions(story.everyone)),
    )
    for device in story.everyone:
        check_now(device)
    story.expect_all_run("exactly the devices whose bucket says so take 1.0.0", chosen, "1.0.0")
    teller.expect(
        "the others have nothing installed",
        not any(device.seen.current_slot() for device in others),
        str(story.versions(others)),
    )
    story.operator.run("release", "patch", "v1", "--percentage", "100")
    _wait_for_pending(story, others)
    for device in story.everyone:
        check_now(device)
    story.expect_all_run("at 100 % the rest follow", story.everyone, "1.0.0")
    story.expect_reported("each reports the digest that it booted, after its soak", story.everyone, "1.0.0")
    digest = story.images["1.0.0"].digest
    counts = {device.device_id: len(attempts(world, device, digest)) for device in story.everyone}
    teller.expect("none is moved twice", set(counts.values()) == {1}, str(counts))


def at_once(story: Story) -> None:
    """Release immediately to one group, one of whose devices has disabled updates."""
    teller = story.teller
    willing, busy = story.group("field")
    others = [device for device in story.everyone if device not in (willing, busy)]
    teller.say(f"the application on {busy.device_id} disables updates: it is busy")
    teller.expect("the application takes the wish", busy.tell_application("/updates/disable"))
    story.push("1.1.0", "--group", "field", "--immediate")
    story.expect_all_run(f"{willing.device_id} takes 1.1.0 in real time", [willing], "1.1.0")
    teller.eventually(
        f"{busy.device_id} is shown as pending, because its application disabled updates",
        lambda: [item["why"] for item in story.operator.device(busy)["pending"]] == ["disabled"],
        lambda: story.operator.device(busy)["pending"],
    )
    teller.eventually(
        "its application has received firmware_update_pending",
        lambda: "firmware_update_pending" in str(busy.seen.application().get("events", "")),
        busy.seen.application,
    )
    teller.expect("it has not started", story.all_run([busy], "1.0.0"), str(story.versions([busy])))
    teller.expect("the other groups have not moved", story.all_run(others, "1.0.0"), str(story.versions(others)))
    teller.say(f"the application on {busy.device_id} enables updates again")
    busy.tell_application("/updates/enable")
    story.expect_all_run("the pending update starts by itself", [busy], "1.1.0")
    story.expect_reported("both report it", [willing, busy], "1.1.0")


def broken(story: Story) -> None:
    """Release an image that fails its health check after its first second."""
    teller, operator = story.teller, story.operator
    devices = story.group("lab")
    story.push("1.1.0", "--group", "lab", "--immediate")
    story.expect_all_run("the lab runs 1.1.0", devices, "1.1.0")
    story.expect_reported("and reports it", devices, "1.1.0")
    story.push("2.0.0", "--group", "lab", "--immediate", "--description", "broken on purpose")
    story.expect_reported("each device that took 2.0.0 rolls back by itself", devices, "2.0.0", "rolled_back")
    story.expect_all_run("the version before runs again", devices, "1.1.0")
    digest = story.images["2.0.0"].digest
    reasons = {row["reason"] for device in devices for row in attempts(story.world, device, digest)}
    teller.expect("the reason is told: health_failed", reasons == {"health_failed"}, str(reasons))
    metrics = operator.release("v2", "lab")["metrics"]
    teller.expect("the release shows two rollbacks", metrics["rollbacks"] == {"health_failed": 2}, str(metrics))
    before = {device.device_id: _session_checks(device) for device in devices}
    teller.eventually(
        "asked again, no device tries that digest again: it says failed_before",
        lambda: all(
            [item["why"] for item in operator.device(device)["pending"]] == ["failed_before"] for device in devices
        ),
        lambda: [operator.device(device)["pending"] for device in devices],
    )
    tries = [len(attempts(story.world, device, digest)) for device in devices]
    teller.expect("one attempt each", tries == [1, 1] and all(before.values()), str(tries))
    operator.run("release", "disable", "v2", "--group", "lab")
    live = operator.release("v1", "lab")["release"]
    teller.expect("with it disabled the release before is Live again", bool(live["live"]), str(live["live"]))


def rolling_back(story: Story) -> None:
    """Roll back to an earlier label; a pinned device stays; one device is updated alone."""
    teller, operator = story.teller, story.operator
    pinned, follows = story.group("field")
    operator.run("device", "lock", pinned.device_id, str(pinned.seen.running_version()))
    locked_to = str(pinned.seen.running_version())
    operator.run("release", "rollback", "v1", "--group", "field", "--immediate", "--yes")
    releases = operator.run("release", "list", "--group", "field", quiet=True)
    newest = releases[0]["release"]
    teller.expect(
        "rolling back to v1 makes a new label that references it, and is Live",
        newest["references_label"] == 1 and newest["live"],
        str(newest),
    )
    story.expect_all_run(f"{follows.device_id} goes back to 1.1.0", [follows], "1.1.0")
    teller.expect(
        f"{pinned.device_id}, which is locked, stays",
        story.all_run([pinned], locked_to),
        str(story.versions([pinned])),
    )
    alone = story.group("lab")[0]
    operator.run("ota", alone.device_id, "1.0.0", "--wait")
    teller.expect(f"a single-device OTA moves {alone.device_id}", story.all_run([alone], "1.0.0"))
    other = story.group("lab")[1]
    teller.expect(f"and not {other.device_id}", not story.all_run([other], "1.0.0"), str(story.versions([other])))


def finish(story: Story) -> None:
    """Show the devices and the releases, as the operator sees them."""
    with read_only(story.world.database) as database:
        doubles = database.execute(
            "SELECT count(*) - count(DISTINCT device_id || ' ' || attempt_id) FROM attempt"
        ).fetchone()[0]
    story.teller.expect("no attempt is counted twice in all of this", doubles == 0, str(doubles))


def _pending(story: Story) -> set[str]:
    devices = story.operator.run("device", "list", "--pending", quiet=True)
    return {row["device_id"] for row in devices}


def _wait_for_pending(story: Story, devices: Sequence[Device]) -> None:
    wanted = {device.device_id for device in devices}
    wait_for(lambda: wanted <= _pending(story), 10)


def _session_checks(device: Device) -> bool:
    return bool(control(device, "check").get("ok"))
