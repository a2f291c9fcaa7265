"""Ranked static groups: who decides for a device that is in several, and those that come later (R15)."""

from tests.support.fleet import Fleet


def test_the_group_that_ranks_first_decides_and_everyone_comes_last(fleet: Fleet) -> None:
    product = fleet.product("ranked")
    device, plain = (fleet.join(f"ranked-{name}", product=product) for name in ("both", "plain"))
    field = fleet.group("field", device, product=product)
    test = fleet.group("test", device, product=product, rank=1)
    images = {name: fleet.images.thermostat(f"15.0.{n}") for n, name in enumerate(("everyone", field, test))}
    push = ("--product", product, "--immediate", "--group")
    fleet.push(images[test], *push, test)
    device.expect(images[test])
    fleet.expect_outcome(device, images[test])
    forecast = fleet.push(images[field], *push, field)["forecast"]
    assert [(hold["device_id"], hold["reason"]) for hold in forecast["holds"]] == [("ranked-both", "higher_rank")]
    forecast = fleet.push(images["everyone"], *push, "everyone")["forecast"]
    assert forecast["takes"] == ["ranked-plain"]
    plain.expect(images["everyone"])
    fleet.settle(device)
    fleet.expect_moves(device, images[test])
    assert fleet.json("device", "show", "ranked-both")["groups"] == [test, field, "everyone"]
    fleet.call("group", "rank", field, 1, "--product", product)
    device.check()  # a rank is no release: the device goes by it as by any gradual decision, or at once
    device.expect(images[field])
    fleet.call("release", "disable", "v1", "--product", product, "--group", field)
    device.expect(images[test])
    fleet.call("group", "remove", test, "ranked-both", "--product", product)
    device.expect(images["everyone"])
    fleet.expect_outcome(device, images["everyone"])
    fleet.settle(plain)
    fleet.expect_moves(plain, images["everyone"])


def test_everyone_cannot_be_ranked_filled_or_deleted(fleet: Fleet) -> None:
    product = fleet.product("fixed")
    words = ("everyone", "--product", product)
    assert "always ranks last" in fleet.call("group", "rank", "everyone", 1, "--product", product, expect=5).err
    fleet.call("group", "delete", *words, "--yes", expect=5)
    groups = fleet.json("group", "list", "--product", product)
    assert [group["group"] for group in groups] == ["everyone"]


def test_who_comes_late_takes_what_the_group_has_and_who_leaves_follows_it_no_more(fleet: Fleet) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("15.1.0")
    group = fleet.group("joining")
    fleet.push(image, "--group", group, "--immediate")
    late = fleet.join("late-joiner", image=base)
    fleet.settle(late)
    fleet.expect_moves(late)
    fleet.call("group", "add", group, "late-joiner")
    late.expect(image)
    newborn = fleet.join("newborn", "--group", group)
    newborn.expect(image)
    fleet.expect_outcome(newborn, image)
    fleet.expect_outcome(late, image)
    fleet.call("group", "remove", group, "late-joiner")
    following = fleet.images.thermostat("15.1.1")
    fleet.push(following, "--group", group, "--immediate")
    newborn.expect(following)
    fleet.settle(late)
    fleet.expect_moves(late, image)
    page = fleet.json("group", "show", group)
    assert page["members"] == ["newborn"]


def test_devices_of_the_same_group_and_no_other_are_released_to(fleet: Fleet) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("15.2.0")
    inside, outside = fleet.join("member-1", image=base), fleet.join("stranger-1", image=base)
    group, other = fleet.group("members", inside), fleet.group("strangers", outside)
    said = fleet.office.run("release", "push", image.path, "--group", group, "--immediate", "--yes", "--wait")
    assert said.code == 0, said
    assert inside.runs(image)
    fleet.settle(outside)
    fleet.expect_moves(outside)
    assert fleet.json("release", "list", "--group", other) == []
