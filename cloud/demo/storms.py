"""The story's other half: agents killed, broker and cloud killed, and somebody who forges."""

from typing import Any

from cloud.demo.forging import Stranger, altered
from cloud.demo.observing import read_only
from cloud.demo.operating import COMPONENT, PRODUCT, attempts, journals_agree, marked_chunks
from cloud.demo.releasing import TAKE_TIMEOUT_S, Story
from cloud.demo.telling import wait_for
from cloud.demo.world import Device
from protocol.topics import DEFAULT_ROOT, Topics

BIG = "3.0.0"
FINE_POLL_S = 0.002


def killed_agent(story: Story) -> None:
    """Kill an agent in the middle of a 64 MiB download, and again in the middle of the install."""
    teller, device = story.teller, story.group("clinic")[0]
    image = story.images[BIG]
    teller.say(f"{image.path.stat().st_size / 2**20:.0f} MiB for {device.device_id}, whose window is small")
    with Stranger(story.world.broker.cloud_url, DEFAULT_ROOT, story.world.cloud_tls) as witness:
        story.operator.run("release", "push", str(image.path), "--group", "clinic", "--percentage", "100", "--yes")
        story.operator.run("ota", device.device_id, BIG)
        wait_for(lambda: len(_marked(device, image.digest)) > 200, TAKE_TIMEOUT_S, FINE_POLL_S)
        device.process.kill()
        kept = _marked(device, image.digest)
        sent_before = len(witness.chunks(image.digest))
        total = image.chunks
        teller.expect("SIGKILL in the middle of the download", 0 < len(kept) < total, f"{len(kept)} of {total} chunks")
        teller.expect("its application runs on", device.seen.running_version() is not None)
        teller.say(f"{len(kept)} of {total} chunks are in its journal; its agent starts again")
        device.process.start()
        reached = wait_for(lambda: _phase(device) in ("installing", "restarting"), TAKE_TIMEOUT_S, FINE_POLL_S)
        device.process.kill()
        teller.expect("SIGKILL again, in the middle of the install", reached, str(_phase(device)))
        sent_after = witness.chunks(image.digest)[sent_before:]
        device.process.start()
        story.expect_all_run("started again, it goes on and runs the image", [device], BIG)
        again = kept.intersection(sent_after)
        teller.expect("no chunk that it had verified was sent again", not again, f"{len(again)} again")
        teller.expect(
            "the install needed no chunk at all", len(witness.chunks(image.digest)) == sent_before + len(sent_after)
        )
    story.expect_reported("it reports one success", [device], BIG)
    count = len(attempts(story.world, device, image.digest))
    teller.expect("of one attempt", count == 1, str(count))


def killed_servers(story: Story) -> None:
    """Kill the broker, and the cloud, in the middle of a rollout."""
    teller, world = story.teller, story.world
    devices = [*story.group("lab"), *story.group("field")]
    story.push("1.2.0", "--group", "lab", "--immediate")
    wait_for(lambda: any(attempts(world, device, story.images["1.2.0"].digest) for device in devices), 20)
    teller.say("the broker is killed and started again")
    world.broker.kill()
    world.broker.start()
    story.push("1.2.0", "--group", "field", "--immediate")
    teller.say("the cloud is killed with SIGKILL and started again")
    world.cloud.kill()
    world.start_cloud()
    story.expect_all_run("everything converges on 1.2.0", devices, "1.2.0")
    story.expect_reported("each success is reported", devices, "1.2.0")
    teller.eventually(
        "no report is lost and none is counted twice: the cloud holds every journal whole",
        lambda: all(journals_agree(world, device) for device in devices),
        lambda: {device.device_id: journals_agree(world, device) for device in devices},
        timeout_s=TAKE_TIMEOUT_S,
    )
    counts = [len(attempts(world, device, story.images["1.2.0"].digest)) for device in devices]
    teller.expect("one attempt each", counts == [1] * len(devices), str(counts))


def forged(story: Story) -> None:
    """Let somebody with access to the broker forge chunks and notices while a device updates."""
    teller, devices = story.teller, story.group("lab")
    image = story.images[BIG]
    topic = Topics().notice(PRODUCT, "lab", COMPONENT)
    with Stranger(story.world.broker.cloud_url, DEFAULT_ROOT, story.world.cloud_tls) as stranger:
        wait_for(lambda: stranger.notices(topic), 10)
        genuine = stranger.notices(topic)[-1]
        teller.say("a stranger publishes an altered notice, and forged chunks while the image streams")
        with stranger.forging_chunks(image.digest, image.chunks):
            story.push(BIG, "--group", "lab", "--immediate")
            stranger.publish(topic, altered(genuine, version="6.6.6", digest="6" * 64))
            story.expect_all_run("the update completes, from good chunks", devices, BIG)
        teller.say("and an old notice")
        stranger.publish(topic, genuine)
        story.expect_reported("and is reported", devices, BIG)
        for code in ("bad_chunk", "bad_signature", "stale_notice"):
            teller.eventually(
                f"each refusal is counted: {code}",
                lambda code=code: all(_refused(story, device).get(code) for device in devices),  # type: ignore[misc]
                lambda: [_refused(story, device) for device in devices],
            )
    tried = [attempts(story.world, device, "6" * 64) for device in devices]
    teller.expect("nothing of it was even tried", not any(tried), str(tried))


def _refused(story: Story, device: Device) -> dict[str, int]:
    refused: dict[str, int] = story.operator.device(device)["refused"]
    return refused


def _marked(device: Device, blob: str) -> set[int]:
    try:
        return marked_chunks(device, blob)
    except OSError:
        return set()


def _phase(device: Device) -> str | None:
    with read_only(device.state_dir / "journal.db") as journal:
        row = journal.execute("SELECT value FROM facts WHERE name = 'snapshot'").fetchone()
    text: Any = row["value"] if row else ""
    return next((phase for phase in ("installing", "restarting", "proving") if f'"{phase}"' in text), None)
