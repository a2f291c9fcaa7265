"""A fleet that another tool knew, from a file (R24), and releases that count on what it says (R22)."""

from pathlib import Path

from tests.support.fleet import Fleet

HEAD = "device,hardware_model,groups,attributes,installed\n"


def test_a_fleet_is_imported_and_nothing_is_flashed(fleet: Fleet, tmp_path: Path) -> None:
    product = fleet.product("moved")
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("18.0.0")
    fleet.call("firmware", "upload", base.path, "--product", product)
    file = tmp_path / "fleet.csv"
    file.write_text(
        HEAD + "moved-1,raspberrypi4,club,site=berlin,app=1.0.0\n"
        "moved-2,raspberrypi4,,site=bonn,app=0.9.0\n"
        "moved-3,raspberrypi9,club,,app=1.0.0\n"
        "moved-4,raspberrypi4,club,,app=one\n"
    )
    refused = fleet.call("device", "import", file, "--product", product, expect=2).err
    assert "2 lines are wrong, and nothing was changed" in refused
    assert "line 4: " in refused
    assert "line 5: the version of app 'one'" in refused
    assert fleet.json("device", "list", "--product", product) == []
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))
    said = fleet.call("device", "import", file, "--product", product, "--dry-run").out
    assert "2 devices would be new" in said
    assert fleet.json("device", "list", "--product", product) == []
    answer = fleet.json("device", "import", file, "--product", product)
    assert (answer["new"], answer["groups_made"]) == (2, [f"{product}/club"])
    again = fleet.json("device", "import", file, "--product", product)
    assert (again["new"], again["changed"], again["unchanged"]) == (0, 0, 2)

    # what it runs by the file is what releases go by, before it ever said hello
    push = ("--product", product, "--range", ">=7.0.0")
    assert "reaches nobody" in fleet.push(image, *push)["forecast"]["sentence"]
    fleet.call("release", "disable", "v1", "--product", product)
    forecast = fleet.push(image, "--product", product, "--range", "<1.0.0")["forecast"]
    assert forecast["takes"] == ["moved-2"]

    # the device itself is enrolled where it stands, with what is on it
    device = fleet.join("moved-1", "--again", product=product, image=base)
    fleet.settle(device)
    fleet.expect_moves(device)
    assert device.runs(base)
    shown = fleet.json("device", "show", "moved-1")
    assert (shown["groups"], shown["attributes"]) == (["club", "everyone"], {"site": "berlin"})
    fleet.push(image, "--product", product, "--group", "club", "--immediate")
    device.expect(image)
    fleet.expect_outcome(device, image)


def test_a_large_file_goes_in_parts_and_shows_how_far_it_is(fleet: Fleet, tmp_path: Path) -> None:
    product = fleet.product("many")
    file = tmp_path / "fleet.jsonl"
    file.write_text(
        "".join(
            f'{{"device_id": "many-{number}", "product": "{product}", "installed": {{"app": "1.0.0"}}}}\n'
            for number in range(450)
        )
    )
    said = fleet.call("device", "import", file)
    assert "450 devices new" in said.out
    assert "imported: 44 % of 450" in said.err
    assert "imported: 100 % of 450" in said.err
    assert f"No firmware {product}/app 1.0.0 is here: what 450 devices with it really run is unknown" in said.err
    assert fleet.api("GET", f"/devices?product={product}&limit=1")["total"] == 450
