"""Who gets what: groups by a query (R15), a product's policy (R19), and what needs the base first (R20)."""

from pathlib import Path

from tests.support.devices import Device
from tests.support.fleet import Fleet


def move(device: Device, before: str, after: str) -> None:
    """Have the device's own settings state another site, as its installer would, and its agent start again."""
    settings = device.directory / "agent.toml"
    text = settings.read_text()
    assert before in text
    settings.write_text(text.replace(before, after))
    device.restart()


def test_a_device_whose_attribute_changes_joins_the_group_and_takes_its_release(fleet: Fleet) -> None:
    product = fleet.product("sites")
    base, image, general = (fleet.images.thermostat(version) for version in ("1.0.0", "16.0.0", "16.0.1"))
    mover = fleet.join("mover-1", "--attribute", "site=bonn", product=product, image=base)
    where = 'attributes.site == "berlin" and hardware_model == "raspberrypi4" and app >= "1.0.0"'
    assert fleet.json("group", "test", "--where", where, "--product", product)["trial"]["matches"] == []
    made = fleet.json("group", "create", "berlin", "--rank", 1, "--where", where, "--product", product)
    assert (made["query"], made["devices"]) == (where, 0)
    fleet.push(image, "--product", product, "--group", "berlin", "--immediate")
    fleet.settle(mover)
    fleet.expect_moves(mover)
    said = fleet.call("group", "show", "berlin", "--device", "mover-1", "--product", product).out
    assert "mover-1 is not in group berlin" in said
    assert '"bonn"' in said
    move(mover, "bonn", "berlin")
    mover.expect(image)
    fleet.expect_outcome(mover, image)
    late = fleet.enrol("berlin-late", "--attribute", "site=berlin", product=product, image=base)
    late.start()
    fleet.expect_online(late)
    late.expect(image)
    fleet.expect_outcome(late, image)
    fleet.push(general, "--product", product, "--immediate")
    fleet.settle(mover, late)
    fleet.expect_moves(mover, image)
    assert fleet.json("group", "show", "berlin", "--product", product)["members"] == ["berlin-late", "mover-1"]
    assert (
        "none is put in or taken out by hand"
        in fleet.call("group", "remove", "berlin", "berlin-late", "--product", product, expect=5).err
    )
    fleet.call("group", "where", "berlin", 'attributes.site == "nowhere"', "--product", product)
    mover.expect(general)
    late.expect(general)


def test_a_device_that_updates_itself_out_of_a_group_follows_its_next_one(fleet: Fleet) -> None:
    product = fleet.product("leaving")
    base, step, goal = (fleet.images.thermostat(version) for version in ("1.0.0", "16.1.0", "16.1.1"))
    device = fleet.join("climber-1", product=product, image=base)
    said = fleet.call("group", "create", "old", "--where", 'app < "16.1.0"', "--product", product)
    assert "a device leaves as soon as an update makes it false" in said.err
    fleet.call("group", "create", "new", "--where", 'app >= "16.1.0"', "--product", product)
    fleet.push(goal, "--product", product, "--group", "new", "--immediate")
    fleet.push(step, "--product", product, "--group", "old", "--immediate")
    device.expect(goal)
    fleet.expect_outcome(device, goal)
    fleet.expect_moves(device, step, goal)
    assert fleet.json("device", "show", "climber-1")["groups"] == ["new", "everyone"]


def test_a_product_of_base_only_is_told_so_and_takes_no_application(fleet: Fleet) -> None:
    product = fleet.product("based")
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("16.2.0")
    device = fleet.join("based-1", product=product, image=base)
    changed = fleet.json("product", "set", product, "--distribution", "base-only", "--approvals", 0)
    assert changed["base_only"] is True
    forecast = fleet.push(image, "--product", product, "--immediate")["forecast"]
    assert [hold["reason"] for hold in forecast["holds"]] == ["base_only"]
    assert "reaches nobody" in forecast["sentence"]
    fleet.settle(device)
    fleet.expect_moves(device)
    assert "base-only" in fleet.call("product", "show", product).out
    fleet.call("product", "set", product, "--distribution", "hybrid", "--ota", "off", "--yes")
    fleet.settle(device)
    fleet.expect_moves(device)
    assert "nothing moves" in fleet.call("product", "set", product, "--ota", "off", "--approvals", 1, "--yes").out
    fleet.call("product", "set", product, "--ota", "on", "--approvals", 0)
    device.check()
    device.expect(image)
    fleet.expect_outcome(device, image)
    assert "nothing to change was said" in fleet.call("product", "set", product, expect=2).err


def test_who_needs_the_base_first_is_shown_and_a_matrix_says_what_needs_what(fleet: Fleet, tmp_path: Path) -> None:
    product = fleet.product("layered")
    file = tmp_path / "fleet.csv"
    lines = [f"layer-{number},app=1.0.0;os={1 if number < 3 else 2}.0.0\n" for number in range(5)]
    file.write_text("".join(["device,installed\n", *lines]))
    fleet.call("device", "import", file, "--product", product)
    app, old, new = (fleet.images.thermostat(version) for version in ("16.3.0", "16.3.1", "16.3.2"))
    for image, version in ((old, "2.0.0"), (new, "3.0.0")):
        words = ("--product", product, "--component", "os", "--version", version, "--build", 1)
        fleet.call("firmware", "upload", image.path, *words)
    page = fleet.push(app, "--product", product, "--requires", "os=>=2.0.0 <3.0.0")
    assert page["forecast"]["reach"] == 2
    assert [hold["reason"] for hold in page["forecast"]["holds"]] == ["requirement"] * 3
    (need,) = fleet.json("release", "needs", "v1", "--product", product)["needs"]
    assert (need["what"], need["has"], need["devices"]) == ("os", "1.0.0", ["layer-0", "layer-1", "layer-2"])
    assert (need["fulfilled_by"], need["on_its_way"]) == (["2.0.0"], [])
    fleet.call("release", "push", "2.0.0", "--component", "os", "--product", product, "--yes")
    (need,) = fleet.json("release", "needs", "v1", "--product", product)["needs"]
    assert need["on_its_way"] == ["layer-0", "layer-1", "layer-2"]
    assert "3 of 5 devices need something else first" in fleet.call("release", "needs", "v1", "--product", product).out
    matrix = {(row["component"], row["version"]): row for row in fleet.json("firmware", "matrix", "--product", product)}
    assert matrix["os", "3.0.0"]["breaks"] == ["app 16.3.0"]
    assert matrix["app", "16.3.0"]["requires"][0]["fulfilled_by"] == ["2.0.0"]
    assert "does not work with" in fleet.call("firmware", "matrix", "--product", product).out.lower()
