"""What a release costs the cloud: one retained notice, however many devices it is for (B3)."""

import contextlib
import itertools
import json
from collections.abc import Iterator

import pytest

from tests.cloud.homes import PRODUCT
from tests.support.fleet import COMPONENT, TOPICS, Fleet, bucket
from tests.support.images import Image
from tests.support.mqtt import Peer

MANY = 30
FENCES = itertools.count()


class Witness:
    """Hears everything on the broker, and tells the cloud's messages from the devices'.

    The cloud tells what was decided in order: when the release of `fence` has been told, so has all before it.
    """

    def __init__(self, fleet: Fleet, peer: Peer, fence: Image) -> None:
        self._fleet, self._peer, self._fence = fleet, peer, fence
        self._group = fleet.group(f"fence-{next(FENCES)}")
        self._peer.subscribe(f"{TOPICS.root}/#")

    def heard(self) -> list[str]:
        """The topics of what the cloud has published since it was asked last, but for the fence."""
        fence = TOPICS.notice(PRODUCT, self._group, COMPONENT)
        self._fleet.push(self._fence, "--group", self._group, "--again")
        seq = self._fleet.query("SELECT notice_seq FROM channel WHERE group_name = ?", self._group)[0]["notice_seq"]
        topics: list[str] = []
        while True:
            topic, payload = self._peer.receive()
            if topic == fence:
                if json.loads(json.loads(payload)["payload"])["seq"] == seq:
                    return topics
            elif "/up/" not in topic:
                topics.append(topic)


@pytest.fixture
def witness(fleet: Fleet) -> Iterator[Witness]:
    with fleet.peer("witness") as peer:
        yield Witness(fleet, peer, fleet.images.thermostat("1.0.0"))


def test_a_release_to_a_group_of_any_size_costs_one_retained_notice(fleet: Fleet, witness: Witness) -> None:
    base = fleet.images.thermostat("1.0.0")
    agents = [fleet.join(f"real-{number}", image=base) for number in (1, 2)]
    with contextlib.ExitStack() as stack:
        for number in range(MANY):  # online, and answered, as an agent is
            stack.enter_context(fleet.stand_in(f"crowd-{number}"))
        few, many = fleet.group("few", agents[0]), fleet.group("many", *agents)
        fleet.call("group", "add", many, *(f"crowd-{number}" for number in range(MANY)))
        assert fleet.json("group", "show", many)["group"]["devices"] == MANY + 2
        fleet.settle(*agents)
        for group, version in ((few, "18.0.0"), (many, "18.0.1")):
            witness.heard()
            fleet.push(fleet.images.thermostat(version), "--group", group)
            notice = TOPICS.notice(PRODUCT, group, COMPONENT)
            assert sorted(witness.heard()) == sorted([TOPICS.bundle(PRODUCT), notice])  # the bundle: it is new firmware
            fleet.call("release", "patch", "v1", "--group", group, "--description", "the same again")
            assert witness.heard() == [notice]
    with fleet.peer("newcomer") as newcomer:
        newcomer.subscribe(TOPICS.notice(PRODUCT, "many", COMPONENT))
        _, payload = newcomer.receive()  # retained: whoever comes later has it, and the cloud says nothing
    assert json.loads(json.loads(payload)["payload"])["releases"][0]["firmware"]["version"] == "18.0.1"
    for agent in agents:
        fleet.expect_waiting(agent, "next_session")


def test_raising_a_percentage_costs_one_notice_and_each_device_reckons_for_itself(
    fleet: Fleet, witness: Witness
) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("18.1.0")
    devices = [fleet.join(f"reckons-{number}", image=base) for number in range(3)]
    group = fleet.group("reckon", *devices)
    fleet.call("firmware", "upload", image.path)
    request = {"product": PRODUCT, "group": group, "component": COMPONENT, "version": "18.1.0", "percentage": 20}
    places: dict[str, int] = {}

    def suits(release_id: str) -> bool:
        places.update((device.device_id, bucket(device.device_id, release_id)) for device in devices)
        low, middle, high = sorted(places.values())
        return 20 <= low < 50 <= middle < 80 <= high

    forecast = fleet.forecast_for(request, suits)
    assert forecast["reach"] == 0
    fleet.api("POST", "/releases", request | {"release_id": forecast["release_id"]}, expect=201)
    fleet.settle(*devices)
    witness.heard()
    first, second, _ = sorted(devices, key=lambda device: places[device.device_id])
    for percentage, device in ((50, first), (80, second)):
        fleet.call("release", "patch", "v1", "--group", group, "--percentage", percentage)
        assert witness.heard() == [TOPICS.notice(PRODUCT, group, COMPONENT)]
        fleet.expect_waiting(device, "next_session")
    assert [bool(fleet.waits(device)) for device in devices] == [places[it.device_id] < 80 for it in devices]
