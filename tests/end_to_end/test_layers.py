"""Application and base on one device (D16, R18, R20), and test devices first (R9, R23)."""

from tests.support.devices import Device
from tests.support.fleet import Fleet
from tests.support.images import Image

BASE_SETTINGS = """
[components.os]
command = ["/bin/sleep", "1000000"]
health = { "kind" = "alive", "interval_s" = 0.1 }
soak_s = 0.2
prove_timeout_s = 20
"""
"""A base beside the application: what matters here is that it has versions and slots of its own."""


def layered(fleet: Fleet, device_id: str, product: str, image: Image) -> Device:
    """A device with an application from the factory, and a base that is empty yet."""
    device = fleet.enrol(device_id, product=product, image=image)
    with (device.directory / "agent.toml").open("a") as settings:
        settings.write(BASE_SETTINGS)
    device.start()
    fleet.expect_online(device)
    return device


def versions(fleet: Fleet, device: Device) -> dict[str, str]:
    """What the device says that it runs."""
    return {it["component"]: it["version"] for it in fleet.json("device", "show", device.device_id)["components"]}


def successes(fleet: Fleet, device: Device) -> list[tuple[str, str]]:
    return [(row["component"], row["version"]) for row in fleet.attempts(device) if row["outcome"] == "succeeded"]


def test_an_app_waits_for_the_base_that_it_needs_and_a_base_for_the_app_that_it_would_break(fleet: Fleet) -> None:
    product = fleet.product("storeys")
    factory, app, last = (fleet.images.thermostat(version) for version in ("1.0.0", "19.0.0", "19.1.0"))
    base, new_base = (fleet.images.thermostat(f"19.2.{number}") for number in range(2))
    device = layered(fleet, "storeys-1", product, factory)
    push, of_base = ("--product", product, "--immediate"), ("--component", "os", "--build", 1)

    fleet.push(app, *push, "--requires", "os=>=2.0.0 <3.0.0")
    fleet.expect_waiting(device, "requirement")
    (need,) = fleet.json("release", "needs", "v1", "--product", product)["needs"]
    assert (need["what"], need["has"], need["devices"]) == ("os", "none", ["storeys-1"])
    fleet.push(base, *push, *of_base, "--version", "2.0.0")
    device.expect(app)
    fleet.expect_outcome(device, app)
    fleet.until(lambda: versions(fleet, device) == {"app": "19.0.0", "os": "2.0.0"}, "both components")

    forecast = fleet.push(new_base, *push, *of_base, "--version", "3.0.0")["forecast"]
    assert [hold["reason"] for hold in forecast["holds"]] == ["breaks"]
    fleet.expect_waiting(device, "breaks")
    said = fleet.call("release", "needs", "v2", "--product", product, "--component", "os").out
    assert "1 device would break" in said
    assert "app 19.0.0, which is installed, needs os >=2.0.0 <3.0.0" in said
    assert versions(fleet, device)["os"] == "2.0.0"

    fleet.push(last, *push, "--requires", "os=>=2.0.0")
    device.expect(last)
    fleet.until(lambda: versions(fleet, device) == {"app": "19.1.0", "os": "3.0.0"}, "the new base")
    order = [("os", "2.0.0"), ("app", "19.0.0"), ("app", "19.1.0"), ("os", "3.0.0")]
    fleet.until(lambda: successes(fleet, device) == order, "each in its order")


def test_a_base_that_comes_first_is_taken_before_any_application(fleet: Fleet) -> None:
    product = fleet.product("basement")
    factory, app, base = (fleet.images.thermostat(version) for version in ("1.0.0", "19.4.0", "19.4.1"))
    device = layered(fleet, "basement-1", product, factory)
    of_base = ("--component", "os", "--build", 1, "--version", "2.0.0", "--base-first")
    fleet.push(base, "--product", product, *of_base)  # gradual: not before its next check
    fleet.push(app, "--product", product, "--immediate")
    fleet.expect_waiting(device, "base_first")
    assert fleet.attempts(device) == []
    device.check()
    device.expect(app)
    fleet.until(lambda: successes(fleet, device) == [("os", "2.0.0"), ("app", "19.4.0")], "the base, then the app")


def test_what_proved_good_on_test_devices_is_promoted_to_the_field_and_to_everyone(fleet: Fleet) -> None:
    product = fleet.product("phases")
    factory, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("19.3.0")
    bench, pilot, rest = (fleet.join(f"phase-{name}", product=product, image=factory) for name in ("a", "b", "c"))
    fleet.group("test", bench, product=product, rank=1)
    fleet.group("pilot", pilot, product=product)
    promote = ("release", "promote", "v1", "--product", product, "--immediate", "--yes")
    fleet.push(image, "--product", product, "--group", "test", "--immediate")
    bench.expect(image)
    fleet.expect_outcome(bench, image)
    fleet.settle(pilot, rest)
    fleet.expect_moves(pilot)
    made = fleet.json(*promote, "--group", "test", "--to", "pilot")
    assert (made["release"]["label"], made["release"]["promoted_from"] is not None) == (1, True)
    pilot.expect(image)
    fleet.expect_outcome(pilot, image)
    fleet.settle(rest)
    fleet.expect_moves(rest)
    fleet.json(*promote, "--group", "pilot", "--to", "everyone")
    rest.expect(image)
    fleet.expect_outcome(rest, image)
