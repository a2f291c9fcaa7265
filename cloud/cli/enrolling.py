"""What `fleetlift device enrol` does for one device and for many alike.

One request makes all of them known on the server, or none; then each directory is written, its `agent.toml` last. What
is secret or could be asked for twice (code, key) is on the disk before it is used, so the same again goes on where it
was cut off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloud.cli.agent_settings import ROOT_NAME, SETTINGS_NAME, settings_text
from cloud.cli.client import Json, UnreachableError
from cloud.cli.codes import new_code, token_sha256
from cloud.cli.context import Operator
from cloud.cli.identities import DIRECTORY, IDENTITY, make_identity
from cloud.durable import make_private_directory, write_durably
from cloud.keyring import Keyring
from protocol.enrolment import EnrolmentCode, read_code
from protocol.errors import EnrolmentError, UserError

CODE_NAME: Final = "enrolment-code"


@dataclass(frozen=True, slots=True)
class Place:
    """A device, the directory that is written for it, and the line of the list that names it."""

    device_id: str
    hardware_model: str
    groups: tuple[str, ...]
    directory: Path
    line: int | None = None

    @property
    def settings(self) -> Path:
        """What is written last."""
        return self.directory / SETTINGS_NAME

    @property
    def code(self) -> Path:
        """The secret that the device enrols with."""
        return self.directory / CODE_NAME


@dataclass(frozen=True, slots=True)
class Wish:
    """What is common to all: where devices find broker and server, and whether each makes its own key."""

    product: str
    broker: str
    topic_root: str
    server: str
    code_only: bool
    again: bool
    lifetime_s: int

    @property
    def tls(self) -> bool:
        """Whether devices have identities."""
        return self.broker.startswith("mqtts:")


def enrol_places(
    operator: Operator, wish: Wish, places: Sequence[Place], options: Mapping[str, Any]
) -> dict[str, bool]:
    """Make devices known and write their directories; return which of them are new."""
    texts = {place: _settings(operator, wish, place, options) for place in places}
    root = Keyring(operator.home.keys).roots()[0]  # from here, not from the server: it is what the device trusts
    codes, made = _codes(operator, wish, places) if wish.tls else ({}, [])
    try:
        known = operator.api.post("device-batches", body=_batch(wish, places, codes))
    except UnreachableError:
        raise  # it may have been done: the codes stay, and the same command goes on with them
    except UserError:
        _take_back(made)
        raise
    with operator.output.counting("enrolled", len(places)) as count:
        for done, place in enumerate(places):
            try:
                _write(operator, wish, place, codes.get(place), (root, texts[place]))
            except (UserError, OSError) as error:
                why = f"{place.directory}: {error.strerror}." if isinstance(error, OSError) else str(error)
                exit_code = error.exit_code if isinstance(error, UserError) else 1
                raise UserError(
                    f"{place.device_id}: {why} {done} of {len(places)} are done; the same command goes on.",
                    exit_code=exit_code,
                ) from None
            count(1)
    return {item["device_id"]: item["new"] for item in known}


def _codes(operator: Operator, wish: Wish, places: Sequence[Place]) -> tuple[dict[Place, EnrolmentCode], list[Path]]:
    """Return a code for each device, which is on the disk, and what was made for that."""
    codes: dict[Place, EnrolmentCode] = {}
    made: list[Path] = []
    try:
        for place in places:
            found = None if wish.again else _code(place.code)
            if found is None:
                made += [path for path in (place.directory,) if not path.exists()]
                make_private_directory(place.directory)
                found = new_code(operator)
                write_durably(place.code, f"{found}\n".encode())
                made.append(place.code)
            codes[place] = found
    except UserError:
        _take_back(made)
        raise
    except OSError as error:
        _take_back(made)
        raise UserError(
            f"{error.filename or 'a code'} could not be written: {error.strerror}. Nothing was changed.", exit_code=1
        ) from None
    return codes, made


def _code(path: Path) -> EnrolmentCode | None:
    try:
        return read_code(path.read_text(encoding="ascii"))
    except (OSError, ValueError, EnrolmentError):
        return None


def _take_back(made: Sequence[Path]) -> None:
    for path in reversed(made):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


def _batch(wish: Wish, places: Sequence[Place], codes: Mapping[Place, EnrolmentCode]) -> Json:
    return {
        "product": wish.product,
        "lifetime_s": wish.lifetime_s,
        "again": wish.again,
        "devices": [
            {
                "device_id": place.device_id,
                "hardware_model": place.hardware_model,
                "groups": list(place.groups),
                "token_sha256": token_sha256(codes[place]) if place in codes else None,
                "line": place.line,
            }
            for place in places
        ],
    }


def _write(
    operator: Operator, wish: Wish, place: Place, code: EnrolmentCode | None, content: tuple[bytes, str]
) -> None:
    root, text = content
    make_private_directory(place.directory)
    if code is not None and not wish.code_only and not _is_newer(place.directory / DIRECTORY / IDENTITY, place.code):
        make_identity(
            operator.api,
            place.directory / DIRECTORY,
            code,
            place.device_id,
            place.hardware_model,
            server=wish.server,
        )
    write_durably(place.directory / ROOT_NAME, root)
    write_durably(place.settings, text.encode())
    if not wish.code_only:
        place.code.unlink(missing_ok=True)  # last: without it nobody could go on here


def _is_newer(identity: Path, code: Path) -> bool:
    """Tell whether this very code has made the identity, in a run that was cut off then."""
    try:
        return identity.stat().st_mtime_ns > code.stat().st_mtime_ns
    except OSError:
        return False


def _settings(operator: Operator, wish: Wish, place: Place, options: Mapping[str, Any]) -> str:
    device = {
        "id": place.device_id,
        "product": wish.product,
        "hardware_model": place.hardware_model,
        "state_dir": "state",
        "root": ROOT_NAME,
    }
    identity = {"directory": DIRECTORY, "server": wish.server} if wish.tls else {}
    broker = {"url": wish.broker, "topic_root": wish.topic_root}
    return settings_text(operator, device, identity, broker, options)
