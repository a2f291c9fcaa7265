"""The rooms of the console, in the order of its menu."""

from types import ModuleType
from typing import Final

from cloud.console import channels, overview, products, release_again, release_forms, releases

ROOMS: Final[tuple[ModuleType, ...]] = (
    overview,
    products,
    channels,
    release_forms,
    release_again,
    releases,
)
