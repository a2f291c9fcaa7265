"""Redundancy sets (B11): never two members unconfirmed at once, whatever is released to them."""

import itertools

from tests.support.devices import Device
from tests.support.fleet import Fleet

LONG = ("--soak", 30, "--prove-timeout", 60)
"""So that a member is unconfirmed for as long as the test wants it to be."""
UNCONFIRMED = ("restarting", "proving", "committing", "rolling_back")


def trial(fleet: Fleet, device: Device, digest: str) -> tuple[int, int]:
    """When a device's trial of an image began and when it was judged, by the one clock of this machine."""
    (history,) = (it for it in fleet.json("device", "history", device.device_id) if it["digest"] == digest)
    begun = min(step["at_ms"] for step in history["steps"] if step["phase"] in UNCONFIRMED)
    return begun, history["ended_at_ms"]


def test_members_of_a_set_take_a_release_one_after_the_other(fleet: Fleet) -> None:
    product = fleet.product("twins")
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("17.0.0")
    members = [fleet.join(f"twin-{number}", "--soak", 1, product=product, image=base) for number in range(3)]
    free = fleet.join("twin-free", product=product, image=base)
    fleet.call("set", "create", "pump-room", *(word for it in members for word in ("--device", it.device_id)))
    fleet.push(image, "--product", product, "--immediate")
    for device in (*members, free):
        device.expect(image)
        fleet.expect_outcome(device, image)
    trials = sorted(trial(fleet, device, image.digest) for device in members)
    for (_, ended), (begun, _) in itertools.pairwise(trials):
        assert ended <= begun, trials
    query = "SELECT subject FROM event WHERE kind = 'turn.granted' AND product = ? ORDER BY number"
    granted = fleet.query(query, product)
    assert sorted(row["subject"] for row in granted) == [f"device/twin-{number}" for number in range(3)]
    assert fleet.query("SELECT * FROM turn_request") == []


def test_who_goes_away_in_its_trial_keeps_its_turn_until_an_operator_takes_it_away(fleet: Fleet) -> None:
    product = fleet.product("absent")
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("17.1.0")
    first, second = (fleet.join(f"absent-{n}", *LONG, product=product, image=base) for n in (1, 2))
    fleet.call("set", "create", "gate", "--device", "absent-1", "--device", "absent-2")
    fleet.push(image, "--product", product, "--immediate")

    def proving() -> list[Device]:
        return [it for it in (first, second) if [row["phase"] for row in fleet.attempts(it)] == ["proving"]]

    fleet.until(proving, "one of them proving")
    (holder,) = proving()
    other = second if holder is first else first
    fleet.expect_waiting(other, "turn")
    assert "has it" in fleet.call("set", "show", "gate").out
    holder.kill()
    fleet.until(lambda: not fleet.row(holder)["online"], f"{holder.device_id} gone")
    assert fleet.waits(other) == ["turn"]
    assert "holds no turn" in fleet.call("set", "take-turn-away", other.device_id, "--yes", expect=5).err
    fleet.call("set", "take-turn-away", holder.device_id, "--yes")
    fleet.until(lambda: fleet.attempts(other)[-1]["phase"] == "proving", f"{other.device_id} proving")
    events = fleet.query("SELECT kind FROM event WHERE subject = ? ORDER BY number", f"device/{holder.device_id}")
    assert "turn.taken_away" in [row["kind"] for row in events]


def test_a_device_that_is_taken_out_of_its_set_waits_for_nobody(fleet: Fleet) -> None:
    product = fleet.product("loners")
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("17.2.0")
    first, second = (fleet.join(f"loner-{n}", *LONG, product=product, image=base) for n in (1, 2))
    fleet.call("set", "create", "hall", "--device", "loner-1", "--device", "loner-2")
    fleet.push(image, "--product", product, "--immediate")
    fleet.until(lambda: "turn" in (*fleet.waits(first), *fleet.waits(second)), "one of them waiting")
    waiting = first if "turn" in fleet.waits(first) else second
    fleet.call("set", "remove", "hall", waiting.device_id)
    waiting.expect(image)
    (listed,) = (it for it in fleet.json("set", "list") if it["name"] == "hall")
    assert waiting.device_id not in [it["device_id"] for it in listed["members"]]
    fleet.call("set", "delete", "hall", "--yes")
    assert "no redundancy set 'hall'" in fleet.call("set", "show", "hall", expect=1).err
