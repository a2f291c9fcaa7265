"""The rooms of the console, in the order of its menu."""

from types import ModuleType
from typing import Final

from cloud.console import (
    auditing,
    channels,
    device,
    device_bulk,
    device_deeds,
    devices,
    enrolling,
    firmware,
    groups,
    overview,
    people,
    products,
    redundancy_sets,
    release_again,
    release_forms,
    releases,
    webhooks,
)

ROOMS: Final[tuple[ModuleType, ...]] = (
    overview,
    products,
    channels,
    release_forms,
    release_again,
    releases,
    devices,
    device_bulk,
    device,
    device_deeds,
    groups,
    redundancy_sets,
    firmware,
    enrolling,
    people,
    auditing,
    webhooks,
)
