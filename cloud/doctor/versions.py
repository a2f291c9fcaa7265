"""Checks which broker it is, for a fault that is known of a version: to look for it would be to end the broker.

Seen with Mosquitto 2.0.11, now and then: told to read its files again (SIGHUP) while it keeps the session of a client
that is away, it ends by SIGSEGV. Any device may ask for such a session (MQTT 5, section 3.1.2.11.2). The change log of
no later version names it, so a later one is called neither mended nor broken.
"""

import contextlib
import re
import secrets
import subprocess
from typing import Final

from cloud.broker import find_mosquitto
from cloud.doctor.case import KIND, Case
from cloud.doctor.findings import Seen, ok, unknown, warn
from cloud.doctor.visitor import VisitError

Version = tuple[int, int, int]

ENDED_BY_RELOAD: Final = (2, 0, 11)
VERSION_TOPIC: Final = "$SYS/broker/version"
TIMEOUT_S: Final = 5.0
RELOAD_END_MEND: Final = (
    "Install a newer Mosquitto. Until then have it started again when it ends: `fleetlift serve` does that for the one "
    "that it runs, deploy/mosquitto.service.d.conf (Restart=always) for the system's. Fleetlift's own devices ask for "
    "no such session."
)
_MOSQUITTO: Final = re.compile(r"mosquitto version (\d{1,3})\.(\d{1,3})\.(\d{1,3})")


def its_version_is_sound(case: Case) -> Seen:
    """Find out which version of Mosquitto it is: one was seen to end when told to read its files again."""
    version = version_in(_said(case)) or version_in(_installed(case))
    if version is None:
        return unknown("the broker does not say to the server which Mosquitto it is, if it is one")
    return judged(version)


def judged(version: Version) -> Seen:
    """Return what is known of a version."""
    shown = ".".join(map(str, version))
    if version > ENDED_BY_RELOAD:
        return ok(f"Mosquitto {shown}, newer than the version that a reload was seen to end")
    seen_with = ".".join(map(str, ENDED_BY_RELOAD))
    return warn(
        f"Mosquitto {shown}: {seen_with} was seen to end (SIGSEGV) when told to read its files again while it kept the "
        "session of a device that was away, which any device may ask for",
        RELOAD_END_MEND,
    )


def version_in(text: str) -> Version | None:
    """Return the version that Mosquitto states; None where none is stated."""
    found = _MOSQUITTO.search(text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))


def _said(case: Case) -> str:
    """Return what the broker says of itself, where its rules let the server hear that."""
    own = case.topics.up(f"doctor-{secrets.token_hex(6)}", KIND)
    with contextlib.suppress(VisitError), case.open_cloud() as cloud:
        cloud.subscribe(VERSION_TOPIC, own)
        cloud.publish(own)  # what is retained comes before it
        for heard in cloud.until(own):
            if heard.topic == VERSION_TOPIC:
                return heard.payload.decode(errors="replace")
    return ""


def _installed(case: Case) -> str:
    """Return what the installed Mosquitto says, if the broker runs on this machine.

    Not what the process's own file says: the process is named by the broker, which is not to choose what we run.
    """
    executable = find_mosquitto()
    if executable is None or case.files is None or case.files.pid() is None:
        return ""
    try:
        asked = subprocess.run([executable, "-h"], capture_output=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.decode(errors="replace")
