"""`fleetlift device list` by whatever devices are, and `fleetlift device bulk`: one decision for many."""

from pathlib import Path

from tests.cloud.cli.deeds import refusal
from tests.cloud.cli.offices import Office
from tests.cloud.homes import MODEL, PRODUCT


def test_devices_are_found_and_decided_about_together(office: Office, tmp_path: Path) -> None:
    names = [f"bulk-{number}" for number in range(3)]
    listed = tmp_path / "devices.csv"
    listed.write_text("device_id,product,hardware_model\n" + "".join(f"{it},{PRODUCT},{MODEL}\n" for it in names))
    office.call("device", "import", listed)
    office.call("group", "create", "bulk-pilots")

    said = refusal(office, "device", "bulk", "add", "bulk-pilots", "--yes", code=2)
    assert "say which devices" in said
    would = office.json("device", "bulk", "add", "bulk-pilots", "--text", "bulk-", "--dry-run")
    assert (would["devices"], would["changed"]) == (3, 3)
    said = refusal(office, "device", "bulk", "add", "bulk-pilots", "--text", "bulk-", code=2)
    assert "Put 3 devices into group bulk-pilots? Nobody is here to answer" in said
    said = refusal(office, "device", "bulk", "add", "bulk-pilots", "--text", "bulk-", "--count", "4", "--yes", code=5)
    assert "3 devices are found now, and it was to be 4" in said
    made = office.json("device", "bulk", "add", "bulk-pilots", "--text", "bulk-", "--count", "3", "--yes")
    assert made["changed"] == 3
    assert office.call("device", "list", "--group", "bulk-pilots", "-o", "name").out.split() == names
    assert office.call("device", "list", "--decision", made["decision"], "-o", "name").out.split() == names
    joined = "group bulk-pilots joined, with 2 others by one decision"
    assert joined in office.call("device", "timeline", "bulk-1").out
    found = office.json("device", "list", "--text", "k-1", "--not-held", "--not-locked", "--not-revoked")
    assert [it["device_id"] for it in found] == ["bulk-1"]
    office.call("device", "bulk", "revoke", "--device", "bulk-2", "--reason", "stolen", "--yes")
    assert office.call("device", "list", "--revoked", "-o", "name").out.split() == ["bulk-2"]
