"""An identity on the disk: whole or not there, through power cuts, full disks and garbled files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_agent.clock import DeviceClock
from device_agent.identity import store as store_module
from device_agent.identity.server import ServerError
from device_agent.identity.store import IdentityFilesError, IdentityStore
from device_agent.tls import verifying_context
from tests.device_agent.identity.applicants import Device
from tests.support.enrolment_desk import EnrolmentDesk


class PowerCutError(BaseException):
    """The power goes."""


def test_a_power_cut_leaves_no_identity_or_a_whole_one_and_the_same_code_goes_on(
    tmp_path: Path, desk: EnrolmentDesk, clock: DeviceClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut before each change of the disk: each rename, and each removal, is one."""
    cut_at = done = 0

    def cutting(change: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            nonlocal done
            done += 1
            if done == cut_at:
                raise PowerCutError
            change(*arguments)

        return call

    for name in ("write_file", "remove"):
        monkeypatch.setattr(store_module, name, cutting(getattr(store_module, name)))
    outcomes = []
    for cut in range(1, 40):
        desk.used.clear()
        device = Device(IdentityStore(tmp_path / f"device-{cut}" / "identity"), desk, clock)
        cut_at, done, issued = cut, 0, len(desk.issued)
        try:
            device.enrol()
            break
        except PowerCutError:
            found = device.store.load()
            outcomes.append(found is not None)
            if found is not None:
                verifying_context(device.store.authorities(), clock, device.store.pair(found))
        cut_at = 0
        if found is None:
            found = device.enrol()
        assert device.store.load() == found
        # The key was durable before the server was asked: what it gave then, it gives again.
        assert len(desk.issued) == issued + 1
    assert outcomes == sorted(outcomes)
    assert {True, False} <= set(outcomes)


def test_an_identity_stays_whole_while_another_takes_its_place(
    device: Device, clock: DeviceClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = device.enrol()
    before = device.store.pair(first).read_bytes()
    device.desk.used.clear()
    device.desk.refusal = (403, {"error": "revoked", "message": "No."})
    with pytest.raises(ServerError):
        device.enrol()
    assert device.store.load() == first
    assert device.store.pair(first).read_bytes() == before
    device.desk.refusal = None
    second = device.enrol()
    assert device.store.load() == second
    assert second.certificate != first.certificate
    assert device.store.pair(first).exists()
    device.store.tidy(second)
    assert not device.store.pair(first).exists()


def test_the_disk_being_full_is_told(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28), "identity.json")

    monkeypatch.setattr(store_module, "write_file", full)
    with pytest.raises(IdentityFilesError, match=r"identity\.json: No space left on device; nothing was changed"):
        device.enrol()


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff", b"[" * 5000, json.dumps({"device_id": "x", "certificate": "../key"}).encode()],
)
def test_a_garbled_identity_is_told_and_not_taken_for_none(device: Device, content: bytes) -> None:
    device.enrol()
    (device.store.directory / "identity.json").write_bytes(content)
    with pytest.raises(IdentityFilesError, match="enrol again"):
        device.store.load()


def test_an_identity_that_may_not_be_read_is_told(device: Device) -> None:
    device.store.prepare()
    (device.store.directory / "identity.json").mkdir()
    with pytest.raises(IdentityFilesError, match="for the agent's own user"):
        device.store.load()
