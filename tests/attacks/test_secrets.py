"""Secrets stay where they belong: in no log, audit, journal or process's arguments, and are readable by nobody."""

import base64
import re
import stat
from pathlib import Path

from cloud.config import Home
from tests.attacks.identities import enrolled, new_key, request_of, stranger, token_for, wish
from tests.attacks.scene import Scene
from tests.support.fleet import Fleet

PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+?)-----END")


def key_texts(directory: Path) -> set[bytes]:
    """The middle of every private key below a directory, as it stands in its file."""
    found = set()
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.suffix in {".pem", ".key"}:
            for body in PRIVATE_KEY.findall(path.read_bytes()):
                found.add(bytes(body).split()[0][16:56])
    return found


def arguments_of_everybody() -> bytes:
    """The command lines and environments of every process that this user can see."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            for name in ("cmdline", "environ"):
                try:
                    found.append((process / name).read_bytes())
                except OSError:
                    continue
    return b"\0".join(found)


def test_no_secret_is_told_to_anybody(fleet: Fleet, scene: Scene) -> None:
    """After everything that can be done with secrets, right and wrong, was done while all was written down."""
    home = Home(fleet.office.home)
    operator = home.token_file.read_text().strip()
    code = fleet.json("token", "create", "--uses", "3")["code"]
    token = code.split(".")[1]
    used = token_for(fleet)
    enrolled(fleet, f"told-{scene.group}", used)
    bad = {"headers": {"Authorization": f"Bearer {operator}x"}}
    with stranger(fleet) as http:
        csr = request_of(new_key())
        assert http.get("/system", **bad).status_code == 401  # type: ignore[arg-type]
        assert http.get(f"/devices?token={operator}").status_code == 401
        for body in (
            wish(token, "+", csr),
            wish(used, "told-2", csr),
            wish(token, "told-3", "no request"),
            {"token": token},
        ):
            assert http.post("/enrolment", json=body).status_code >= 400
        assert http.post(f"/enrolment?token={token}", content=token.encode()).status_code == 422
    scene.takes_the_next_good_release()
    secrets = {operator.encode(), code.encode(), token.encode(), used.encode()}
    secrets |= key_texts(home.root) | key_texts(fleet.directory / "devices")
    assert len(secrets) >= 10, "keys of every kind were found"
    told = {
        "the processes' arguments": arguments_of_everybody(),
        "the logs": b"".join(path.read_bytes() for path in (fleet.directory / "logs").iterdir()),
        "the broker's log": fleet.broker.log_path.read_bytes(),
        "the database": b"".join(path.read_bytes() for path in home.cloud.glob("fleetlift.db*")),
        "the journals": b"".join(
            path.read_bytes() for path in (fleet.directory / "devices").glob("*/state/journal.db*")
        ),
        "the API": b"".join(
            fleet_answer(fleet, path)
            for path in (
                "/audit?limit=1000",
                "/enrolment-tokens",
                "/devices",
                "/system",
                "/metrics",
                f"/devices/{scene.group}",
                f"/devices/{scene.group}/certificates",
            )
        ),
        "the broker's retained messages": b"".join(message.payload for message in scene.intruder.history()),
    }
    for where, content in told.items():
        assert len(content) > 50, where
        found = [secret[:6] + b"..." for secret in secrets if secret in content]
        assert found == [], where
    for raw_token in (token, used):  # not even as bytes
        packed = base64.urlsafe_b64decode(raw_token + "==")
        assert packed not in told["the database"]


def fleet_answer(fleet: Fleet, path: str) -> bytes:
    with fleet.http as http:
        answer = http.get(path)
    assert answer.status_code == 200, path
    return answer.content


def open_to_others(directory: Path, public: set[str]) -> list[str]:
    """What below a directory its group or others may read, write or enter."""
    found = []
    for path in (directory, *directory.rglob("*")):
        if path.is_symlink() or path.name in public:
            continue
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode & 0o077:
            found.append(f"{path.relative_to(directory)}: {mode:o}")
    return found


def test_nobody_else_on_the_machine_can_read_a_home(fleet: Fleet) -> None:
    assert open_to_others(fleet.office.home, {"mosquitto.pid"}) == []


def test_nobody_else_on_a_device_can_read_its_directory(fleet: Fleet, scene: Scene) -> None:
    scene.takes_the_next_good_release()
    directory = scene.device.directory
    shared = {"control.sock", "hold.lock"}  # what applications of the device's group are meant to use
    found = open_to_others(directory, shared)
    assert [item for item in found if not item.startswith("state/data")] == [], "the application's own data aside"
    image = scene.device.seen.slots / "current" / "image"
    assert stat.S_IMODE(image.stat().st_mode) == 0o500
