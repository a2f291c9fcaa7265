"""All targets, by where their bytes come from."""

from __future__ import annotations

from typing import Final

from tests.fuzz.parsers import agent, applications, certificates, files, memory, mqtt, operating, server, trust, wire
from tests.fuzz.targets import Target

ALL: Final = (wire, agent, applications, mqtt, trust, certificates, memory, files, operating, server)
ROOMS: Final = {room.__name__: room.TARGETS for room in ALL}
TARGETS: Final[dict[str, Target]] = {target.name: target for targets in ROOMS.values() for target in targets}
ROOM_OF: Final[dict[str, str]] = {target.name: room for room, targets in ROOMS.items() for target in targets}
