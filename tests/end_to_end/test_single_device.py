"""One device alone: a single-device OTA by command and by REST, and a device that is locked (R16, R17)."""

from tests.support.fleet import Fleet


def test_one_device_is_updated_alone_and_waited_for(fleet: Fleet) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("16.0.0")
    device, neighbour = fleet.join("alone-1", image=base), fleet.join("alone-2", image=base)
    fleet.group("alone", device, neighbour)
    fleet.call("firmware", "upload", image.path)
    said = fleet.office.run("ota", "alone-1", "16.0.0", "--wait", "--timeout", 60, "-o", "json")
    assert said.code == 0, said
    assert said.json["ota"]["status"] == "succeeded"
    assert "1 device updated" in said.err
    assert device.runs(image), "it was done waiting before the device ran it"
    (attempt,) = fleet.attempts(device)
    assert (attempt["via"], attempt["source_id"], attempt["outcome"]) == (
        "ota",
        said.json["ota"]["ota_id"],
        "succeeded",
    )
    fleet.settle(neighbour)
    fleet.expect_moves(neighbour)


def test_one_device_is_updated_by_rest_and_watched_by_long_polls(fleet: Fleet) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("16.1.0")
    device = fleet.join("rest-1", image=base)
    fleet.call("firmware", "upload", image.path)
    page = fleet.api("POST", "/devices/rest-1/ota", {"component": "app", "version": "16.1.0"}, expect=201)
    assert page["link"].endswith(f"/otas/{page['ota']['ota_id']}")
    seen = []
    for _ in range(200):
        seen.append(page["device"]["stage"])
        if page["ota"]["status"] != "open":
            break
        page = fleet.api("GET", f"/otas/{page['ota']['ota_id']}", params={"seen": page["revision"], "wait": 20})
    assert page["ota"]["status"] == "succeeded"
    assert "under_way" in seen
    assert device.runs(image)
    actions = [row["action"] for row in fleet.api("GET", "/audit", params={"subject": f"ota/{page['ota']['ota_id']}"})]
    assert actions == ["ota.created", "ota.closed"]


def test_a_gradual_one_waits_for_the_next_check(fleet: Fleet) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("16.2.0")
    device = fleet.join("patient-1", image=base)
    fleet.call("firmware", "upload", image.path)
    fleet.call("ota", "patient-1", "16.2.0", "--gradual")
    fleet.expect_waiting(device, "next_session")
    assert (device.runs(base), fleet.attempts(device)) == (True, [])
    device.check()
    device.expect(image)


def test_one_that_falls_back_fails_and_can_be_told_to_try_again(fleet: Fleet) -> None:
    base, broken = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("16.3.0", crashes="no sensor")
    device = fleet.join("unlucky-1", image=base)
    fleet.call("firmware", "upload", broken.path)
    for count in (1, 2):
        said = fleet.call("ota", "unlucky-1", "16.3.0", "--wait", "--timeout", 60, expect=1)
        assert "rolled back (start_failed" in said.err
        assert fleet.outcomes(device, broken) == ["rolled_back"] * count
        device.expect(base)


def test_waiting_for_a_device_that_is_away_ends_with_the_time(fleet: Fleet) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("16.4.0")
    device = fleet.join("away-1", image=base)
    device.stop()
    fleet.call("firmware", "upload", image.path)
    said = fleet.call("ota", "away-1", "16.4.0", "--wait", "--timeout", "0.5", expect=3)
    assert "1 still open (away-1)" in said.out
    assert "devices go on without this command" in said.out
    device.start()
    device.expect(image)
    fleet.expect_outcome(device, image)


def test_a_later_release_takes_the_device_along_again(fleet: Fleet) -> None:
    base, alone, later = (fleet.images.thermostat(version) for version in ("1.0.0", "16.5.0", "16.5.1"))
    device = fleet.join("along-1", image=base)
    group = fleet.group("along", device)
    fleet.push(base, "--group", group, "--immediate")
    fleet.call("firmware", "upload", alone.path)
    fleet.call("ota", "along-1", "16.5.0", "--wait")
    fleet.settle(device)
    fleet.expect_moves(device, alone)
    fleet.push(later, "--group", group, "--immediate")
    device.expect(later)


def test_a_locked_device_stays_and_follows_again_when_it_is_unlocked(fleet: Fleet) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("16.6.0")
    locked, free = fleet.join("locked-1", image=base), fleet.join("locked-2", image=base)
    group = fleet.group("locked", locked, free)
    fleet.call("firmware", "upload", base.path)
    assert "locked-1 is locked to app 1.0.0" in fleet.call("device", "lock", "locked-1", "1.0.0").out
    page = fleet.push(image, "--group", group, "--immediate")
    assert [(hold["device_id"], hold["reason"]) for hold in page["forecast"]["holds"]] == [("locked-1", "pinned")]
    free.expect(image)
    fleet.settle(locked)
    locked.restart()
    fleet.expect_online(locked)
    locked.expect(base)
    fleet.settle(locked)
    fleet.expect_moves(locked)
    said = fleet.call("ota", "locked-1", "16.6.0", expect=5).err
    assert "is locked to a version of app; unlock it first" in said
    assert fleet.json("device", "unlock", "locked-1")["pins"] == []
    locked.expect(image)
    assert "not locked" in fleet.call("device", "unlock", "locked-1", expect=1).err


def test_locking_to_another_version_moves_the_device_there_at_once(fleet: Fleet) -> None:
    base, image = fleet.images.thermostat("1.0.0"), fleet.images.thermostat("16.7.0")
    device = fleet.join("relocked-1", image=base)
    group = fleet.group("moved", device)
    fleet.push(base, "--group", group)
    fleet.call("firmware", "upload", image.path)
    fleet.call("device", "lock", "relocked-1", "16.7.0")
    device.expect(image)
    fleet.expect_outcome(device, image)
    assert fleet.attempts(device)[0]["via"] == "pin"
    assert "9.8.7" in fleet.call("device", "lock", "relocked-1", "9.8.7", expect=1).err
    assert fleet.json("device", "show", "relocked-1")["pins"][0]["version"] == "16.7.0"
