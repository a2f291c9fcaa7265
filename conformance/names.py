"""How names that the suite chooses travel in messages, whose names of metadata files are those of Fleetlift's roles.

A role is called `[a-z0-9-]{1,64}` on the wire. Any other name (`A`, `?`, `../x`) is escaped: `x-` and the hexadecimal
of the name as it stands in a URL. A role whose own name begins with `x-` is escaped too, so every name has one meaning.
"""

import re
from typing import Final

from protocol.errors import MessageError
from protocol.values import check_metadata_name

ESCAPE: Final = "x-"
_SUFFIX: Final = ".json"
_FILE = re.compile(r"((?:[1-9]\d{0,9}\.)?)(.+)\.json", re.DOTALL)


def to_wire(name: str) -> str:
    """Return the name in messages of a metadata file's name in URLs; raises MessageError for one that is too long."""
    version, role = _split(name)
    try:
        if not role.startswith(ESCAPE):
            return check_metadata_name(name)
    except MessageError:
        pass
    return check_metadata_name(f"{version}{ESCAPE}{role.encode().hex()}{_SUFFIX}")


def from_wire(name: str) -> str:
    """Return the name in URLs that `to_wire` gave this name in messages; raises MessageError for any other."""
    version, role = _split(check_metadata_name(name))
    if not role.startswith(ESCAPE):
        return name
    try:
        found = f"{version}{bytes.fromhex(role.removeprefix(ESCAPE)).decode()}{_SUFFIX}"
    except ValueError:
        found = ""
    if not found or to_wire(found) != name:
        raise MessageError(f"{name!r:.80} is not an escaped name")
    return found


def _split(name: str) -> tuple[str, str]:
    match = _FILE.fullmatch(name)
    if match is None:
        raise MessageError(f"{name!r:.80} is not the name of a metadata file")
    return match[1], match[2]
