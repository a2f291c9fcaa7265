"""A process that stores reports until it is killed: `python -m tests.cloud.store.reporting URL`.

It prints `<device> <through>` after each report that the store has returned from, as the cloud would acknowledge it.
"""

from __future__ import annotations

import sys
import time

from cloud.store.store import Store
from protocol.phases import Outcome
from protocol.up import Entry
from tests.cloud.store.fleets import HAPPY, Device

DEVICES = ("pi-1", "pi-2", "pi-3")
ATTEMPTS = 60
BATCH = 3


def entries_of(device: Device) -> list[Entry]:
    """Every entry of a device's life: the same ones each time."""
    lives = (device.steps(f"1.{number}.0", "rel-1", *HAPPY, outcome=Outcome.SUCCEEDED) for number in range(ATTEMPTS))
    return [entry for life in lives for entry in life]


def main(url: str) -> None:
    with Store.open(url, time.time) as store:
        fleet = [Device(store, device_id) for device_id in DEVICES]
        unsent = {device.device_id: entries_of(device) for device in fleet}
        while any(unsent.values()):
            for device in fleet:
                through = device.report(*unsent[device.device_id][:BATCH]) if unsent[device.device_id] else None
                if through is not None:
                    unsent[device.device_id] = [it for it in unsent[device.device_id] if it.seq > through]
                    print(device.device_id, through, flush=True)  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    main(sys.argv[1])
