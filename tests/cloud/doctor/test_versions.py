"""Which Mosquitto it is, and what is known of that version; and an examination that leaves no session behind."""

import re
from pathlib import Path

import pytest

from cloud.doctor.case import Device, Passes
from cloud.doctor.examination import examine
from cloud.doctor.findings import Verdict
from cloud.doctor.versions import ENDED_BY_RELOAD, Version, judged, version_in
from cloud.doctor.visitor import RefusedError
from cloud.pki.issuing import CLOUD_NAME
from tests.cloud.doctor.test_examination import VERSION, Clinic, clinic


class Recorded(Passes):
    """Remembers the throw-away devices."""

    devices: list[Device]

    def device(self, **wanted: object) -> Device:
        device = super().device(**wanted)  # type: ignore[arg-type]
        self.devices.append(device)
        return device


def running(here: Clinic) -> str:
    """Return the version that the broker wrote into its log when it started."""
    found = re.search(r"mosquitto version (\S+) starting", here.broker.log_path.read_text())
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ((1, 6, 15), Verdict.WARN),
        ((2, 0, 9), Verdict.WARN),
        ((2, 0, 11), Verdict.WARN),
        ((2, 0, 12), Verdict.OK),
        ((2, 1, 0), Verdict.OK),
        ((10, 0, 0), Verdict.OK),
    ],
)
def test_the_version_that_a_reload_ends_and_older_ones_are_warned_of(version: Version, verdict: Verdict) -> None:
    seen = judged(version)
    assert seen.verdict is verdict
    assert ".".join(map(str, version)) in seen.text
    assert ("newer Mosquitto" in seen.mend) == (verdict is Verdict.WARN)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("mosquitto version 2.0.11\n\nmosquitto is an MQTT v5.0/v3.1.1/v3.1 broker.\n", (2, 0, 11)),
        ("mosquitto version 2.1.0-rc1", (2, 1, 0)),
        ("mosquitto version 2.0", None),
        ("mosquitto version 2222222222222.0.1", None),
        ("5.8.0", None),
        ("", None),
    ],
)
def test_only_a_version_of_mosquitto_is_one(text: str, version: Version | None) -> None:
    assert version_in(text) == version


@pytest.mark.broker
@pytest.mark.parametrize("asked", ["the program", "the broker", "nobody"])
def test_the_version_is_found_out_where_it_can_be(tmp_path: Path, asked: str) -> None:
    with clinic(tmp_path) as here:
        if asked == "the broker":
            rules = here.fleet.files.directory / "acl"
            rules.write_text(rules.read_text() + f"user {CLOUD_NAME}\ntopic read $SYS/broker/version\n")
            here.fleet.files.reload()
        files = here.fleet.files if asked == "the program" else None
        seen = here.findings(files=files)[VERSION].seen
        if asked == "nobody":
            assert seen.verdict is Verdict.UNKNOWN
            return
        version = running(here)
        assert f"Mosquitto {version}" in seen.text
        is_old = tuple(map(int, version.split("."))) <= ENDED_BY_RELOAD
        assert seen.verdict is (Verdict.WARN if is_old else Verdict.OK)


@pytest.mark.broker
def test_no_session_is_left_behind(tmp_path: Path) -> None:
    with clinic(tmp_path) as here:
        passes = Recorded(here.scratch, here.fleet.authorities)
        passes.devices = []
        case = here.case(passes=passes)
        assert list(examine(case))
        left, asked = [], 0
        for device in passes.devices:
            try:
                with case.visit(device, clean=False).open() as again:
                    asked += 1
                    left += [device.id] if again.session_present else []
            except RefusedError:  # revoked, expired, or of a foreign authority: it never had a session
                continue
        assert left == []
        assert asked > 20
