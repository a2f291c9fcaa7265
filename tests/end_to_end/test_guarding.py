"""Releases that guard themselves on real devices: by silence, and for the one kind of device that fails."""

from tests.support.devices import Device
from tests.support.fleet import Fleet

MODELS = ("raspberrypi3", "raspberrypi4")


def test_a_device_that_goes_quiet_after_it_took_a_release_stops_it(fleet: Fleet) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("14.0.0")
    canary, other = [fleet.join(f"quiet-{number}", image=base) for number in range(2)]
    group = fleet.group("quiet", canary, other)
    fleet.group("quiet-pilot", canary)
    plan = ("--phase", "quiet-pilot:1h", "--phase", "100%:1h", "--gate", "silence:2s", "--max-quiet", 0)
    fleet.push(image, "--group", group, "--immediate", *plan)
    canary.expect(image)
    fleet.expect_outcome(canary, image)
    status = ("release", "rollout", "v1", "--group", group)
    assert fleet.json(*status)["status"] == "running"
    canary.stop()
    fleet.until(lambda: fleet.json(*status)["status"] == "stopped_by_gate", "the gate")
    assert "1 devices took it and were not heard of for 2 s, at most 0 may" in fleet.json(*status)["why"]
    fleet.settle(other)
    fleet.expect_moves(other)


def test_only_the_kind_of_device_that_fails_is_stopped_and_the_others_go_on(fleet: Fleet) -> None:
    product = fleet.product("kinds", *MODELS)
    base = fleet.images.thermostat("1.0.0", hardware=MODELS)
    image = fleet.images.thermostat("14.1.0", hardware=MODELS)

    def join(name: str, model: str, *, well: bool = True) -> Device:
        words = () if well else ("--prove-timeout", 2)
        healthy = () if well else ("false",)
        return fleet.join(name, "--hardware", model, *words, product=product, image=base, healthy=healthy)

    good = [join(f"kind-4-{number}", MODELS[1]) for number in range(2)]
    ill = [join(f"kind-3-{number}", MODELS[0], well=False) for number in range(2)]
    fleet.group("kinds-pilot", *good, product=product)
    plan = ("--phase", "kinds-pilot:1s", "--phase", "100%:5s", "--gate", "failures:1%/90%")
    fleet.push(image, "--product", product, "--hardware", MODELS[0], "--hardware", MODELS[1], "--immediate", *plan)
    status = ("release", "rollout", "v1", "--product", product)
    for device in ill:
        fleet.expect_outcome(device, image, "rolled_back")
    fleet.until(lambda: fleet.json(*status)["stopped"], "the stratum")
    assert "raspberrypi3" in str(fleet.json(*status)["stopped"])
    fleet.until(lambda: fleet.json(*status)["status"] == "completed", "the end of the plan")
    late = [
        fleet.enrol(f"{name}-late", "--hardware", model, product=product, image=base)
        for name, model in zip(("kind-4", "kind-3"), reversed(MODELS), strict=True)
    ]
    for device in late:
        device.start()
    fleet.expect_online(*late)
    late[0].expect(image)
    fleet.settle(late[1])
    fleet.expect_moves(late[1])
    assert "stopped for" in str(fleet.json("device", "why", "kind-3-late"))
