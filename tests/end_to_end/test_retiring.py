"""Firmware that a release manager has retired is never installed again."""

from tests.support.devices import COMPONENT
from tests.support.fleet import Fleet


def floor_of(fleet: Fleet, product: str) -> dict[str, int]:
    floors: dict[str, int] = fleet.api("GET", f"/products/{product}")["floors"]
    return floors


def test_what_is_retired_is_offered_and_installed_no_more(fleet: Fleet) -> None:
    product = fleet.product("retiring")
    old, new = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("1.1.0")
    device = fleet.join("retiring-1", product=product)
    words = ("--product", product, "--immediate")
    fleet.push(old, *words)
    device.expect(old)
    fleet.push(new, *words)
    device.expect(new)
    fleet.expect_outcome(device, new)

    retired = fleet.json("firmware", "retire", "1.0.0", "--product", product, "--yes")
    assert retired["retired"] == ["1.0.0"]
    assert floor_of(fleet, product) == {COMPONENT: 2}
    floors = "SELECT seq FROM floors WHERE component = ?"
    fleet.until(lambda: device.journal(floors, COMPONENT) == [{"seq": 2}], "the floor in the device's own journal")
    for command in (("release", "push", "1.0.0", *words, "--yes"), ("ota", device.device_id, "1.0.0")):
        assert "below the signed floor" in fleet.call(*command, expect=5).err
    fleet.expect_moves(device, old, new)
    again = fleet.json("firmware", "retire", "1.0.0", "--product", product, "--yes")
    assert again["retired"] == []


def test_not_everything_can_be_retired_nor_by_anybody(fleet: Fleet) -> None:
    product = fleet.product("retiring-2")
    for version in ("2.0.0", "2.1.0"):
        fleet.call("firmware", "upload", fleet.images.thermostat(version).path, "--product", product)
    refused = fleet.call("firmware", "retire", "2.1.0", "--product", product, "--yes", expect=5)
    assert "nothing of retiring-2/app is newer than 2.1.0" in refused.err
    key = fleet.office.home / "operator" / "keys" / f"product-{product}.pem"
    away = key.rename(key.with_suffix(".away"))
    refused = fleet.call("firmware", "retire", "2.0.0", "--product", product, "--yes", expect=1)
    assert "the key" in refused.err
    assert floor_of(fleet, product) == {}
    away.rename(key)
    fleet.call("firmware", "retire", "2.0.0", "--product", product, "--yes")
    assert floor_of(fleet, product) == {COMPONENT: 2}
