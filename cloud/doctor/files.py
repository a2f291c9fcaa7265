"""Checks the broker's own files, where this machine has them: who can read them, what they say, when they end."""

import itertools
import re
import stat
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from cloud.broker_config import mosquitto_settings, parse_statements, read_sections, read_statements
from cloud.broker_files import (
    ACL_FILE,
    CONFIG_FILE,
    CRL_FILE,
    DEVICES_CA_FILE,
    SERVER_FILE,
    SERVICES_CA_FILE,
    BrokerFilesError,
    access_rules,
    read_revocation_lists,
)
from cloud.doctor.case import Case
from cloud.doctor.findings import Seen, fail, ok, unknown, warn
from cloud.roles import utc_now

ELSEWHERE: Final = "the broker's files are not on this machine"
SOON: Final = timedelta(days=30)
OUR_FILES: Final = {CONFIG_FILE, ACL_FILE, CRL_FILE, DEVICES_CA_FILE, SERVER_FILE, SERVICES_CA_FILE}
WRITE_MEND: Final = "Run `fleetlift serve`, which writes the broker's files."
CONFIG_MEND: Final = (
    "Run the broker with the mosquitto.conf of the project, or the one that is made from it in the home."
)
_DOOR_GUARDS: Final = {"require_certificate": "true", "use_identity_as_username": "true", "tls_version": "tlsv1.2"}
_OPEN_FILES: Final = re.compile(r"^Max open files\s+(\d+)", re.MULTILINE)
_SPARE_FILES: Final = 64


def files_are_private(case: Case) -> Seen:
    """Look at who may read and write the broker's files."""
    if (directory := _directory(case)) is None:
        return unknown(ELSEWHERE)
    is_shared = bool(directory.stat().st_mode & stat.S_ISGID)
    for path in (directory, *sorted(directory.iterdir())):
        mode = stat.S_IMODE(path.stat().st_mode) & 0o777
        # What the broker writes is in a directory that others cannot enter; it must only not be theirs to change.
        is_ours = path == directory or path.name in OUR_FILES
        if mode & ((0o027 if is_shared else 0o077) if is_ours else 0o022):
            wanted = ("750" if is_shared else "700") if path.is_dir() else ("640" if is_shared else "600")
            return fail(f"{path} is open to others (mode {mode:03o})", f"chmod {wanted} {path}")
    return ok(f"{directory} is open to {'this user and one group' if is_shared else 'this user alone'}")


def certificates_last(case: Case) -> Seen:
    """Read when authorities, the broker's certificate and the revocation lists end."""
    if (directory := _directory(case)) is None:
        return unknown(ELSEWHERE)
    try:
        ends = [
            (certificate.not_valid_after_utc, name)
            for name in (DEVICES_CA_FILE, SERVICES_CA_FILE, SERVER_FILE)
            for certificate in x509.load_pem_x509_certificates((directory / name).read_bytes())
        ]
        lists = read_revocation_lists((directory / CRL_FILE).read_bytes())
    except (OSError, ValueError, BrokerFilesError) as error:
        return fail(f"a file in {directory} is missing or not what it should be: {error}", WRITE_MEND)
    ends += [(it.next_update_utc, CRL_FILE) for it in lists if it.next_update_utc is not None]
    end, name = min(ends)
    if end <= utc_now():
        return fail(f"{name} ended on {end:%Y-%m-%d}", WRITE_MEND)
    if end - utc_now() < SOON:
        return warn(f"{name} ends on {end:%Y-%m-%d}", WRITE_MEND)
    return ok(f"the first to end is {name}, on {end:%Y-%m-%d}")


def rules_are_ours(case: Case) -> Seen:
    """Compare the broker's access rules with those of docs/protocol.md."""
    if (directory := _directory(case)) is None:
        return unknown(ELSEWHERE)
    path = directory / ACL_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        revoked = [line.removeprefix("user ") for line, rule in itertools.pairwise(lines) if rule == "topic deny #"]
        expected = access_rules(case.topics.root, revoked).splitlines()
    except (OSError, UnicodeDecodeError, BrokerFilesError) as error:
        return fail(f"{path}: {error}", WRITE_MEND)
    if lines != expected:
        different = sorted(set(lines) ^ set(expected))[:3]
        return fail(f"{path} differs from the rules: {'; '.join(different) or 'another order'}", WRITE_MEND)
    return ok(f"the rules of docs/protocol.md; revoked devices: {len(revoked)}")


def configuration_is_ours(case: Case) -> Seen:
    """Look for every guard and every limit of the project's mosquitto.conf in the broker's configuration."""
    if _directory(case) is None or case.files is None:
        return unknown(ELSEWHERE)
    path = case.files.config_file
    overall, *doors = read_sections(path)
    if not overall and not doors:
        return unknown(f"there is no {path}", CONFIG_MEND)
    wrong = _missing_guards(overall, doors)
    if wrong:
        return fail(f"{path}: {'; '.join(wrong)}", CONFIG_MEND)
    present = set(read_statements(path))
    limits = [it for it in parse_statements(mosquitto_settings()) if it[0].startswith(("max_", "memory_limit"))]
    if missing := [f"{name} {value}" for name, value in limits if (name, value) not in present]:
        return warn(f"{path} does not say {', '.join(missing)}", CONFIG_MEND)
    return ok(f"{path} has every guard and limit of the project's")


def _missing_guards(overall: Mapping[str, str], doors: Sequence[Mapping[str, str]]) -> list[str]:
    sections = (overall, *doors)
    wrong = ["allow_anonymous true"] if any(it.get("allow_anonymous") == "true" for it in sections) else []
    if not any("acl_file" in section for section in sections):
        wrong.append("no acl_file")
    for door in doors:
        needed = dict(_DOOR_GUARDS)
        if door.get("cafile", "").endswith(DEVICES_CA_FILE):
            needed["use_username_as_clientid"] = "true"
            wrong += [] if "crlfile" in door else [f"listener {door['listener']}: no crlfile"]
        wrong += [
            f"listener {door['listener']}: {name} is {door.get(name, 'not set')}, not {value}"
            for name, value in needed.items()
            if door.get(name) != value
        ]
    return wrong


def connections_fit(case: Case) -> Seen:
    """Compare the connections that the broker allows with the files that its process may open."""
    pid = None if case.files is None else case.files.pid()
    if pid is None or case.files is None:
        return unknown("no broker of these files runs on this machine")
    allowed = sum(int(door.get("max_connections", 0)) for door in read_sections(case.files.config_file)[1:])
    try:
        found = _OPEN_FILES.search(Path(f"/proc/{pid}/limits").read_text(encoding="utf-8"))
    except OSError as error:
        return unknown(f"process {pid}: {error.strerror}")
    if allowed == 0 or found is None:
        return warn("no listener has a max_connections", CONFIG_MEND)
    if int(found[1]) < allowed + _SPARE_FILES:
        return warn(
            f"{allowed} connections are allowed, and the process may open {found[1]} files",
            f"LimitNOFILE={allowed + 1024} in the broker's unit, or ulimit -n before it is started.",
        )
    return ok(f"{allowed} connections are allowed, and the process may open {found[1]} files")


def _directory(case: Case) -> Path | None:
    if case.files is None or not case.files.directory.is_dir():
        return None
    return case.files.directory
