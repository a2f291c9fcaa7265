"""Enrolment: a code becomes an identity.

1. From anybody who answers at the server's address come its authorities and roots; only what has the code's hashes
   counts. Nothing is sent yet but the question.
2. Then the server must show a certificate of that authority, for its host's name, before it is told the token.
3. The key is made, and durable, before the first request; it stays until there is a certificate. So whoever is cut off
   enrols again with the same code: to the same token and key the server gives the same answer.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_agent.clock import DeviceClock
from device_agent.identity.certificates import find
from device_agent.identity.keys import Keys
from device_agent.identity.server import KEY_TAKEN, EnrolmentServer, ServerError
from device_agent.identity.store import Identity, IdentityFilesError, IdentityStore
from device_agent.slots.durable import read_file, write_file
from device_agent.tls import blind_context, verifying_context
from protocol.enrolment import Enrolled, EnrolmentCode, EnrolmentRequest
from protocol.errors import FleetliftError

MAX_ROOT_BYTES: Final = 512_000


class EnrolError(FleetliftError):
    """The device is not enrolled; it stands as it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """What a device says of itself, and where it keeps the root metadata that it is to trust."""

    device_id: str
    product: str
    hardware_model: str
    root: Path


def enrol(
    applicant: Applicant,
    code: EnrolmentCode,
    url: str,
    store: IdentityStore,
    *,
    keys: Keys,
    clock: DeviceClock,
    say: Callable[[str], None],
) -> Identity:
    """Enrol at the server, and return the identity, which is durable; `say` hears what is done.

    Raises EnrolError (what the server gave is not what the code promised), ServerError, KeyFileError and
    IdentityFilesError. Then an identity that there was is still the identity, and the same call may be made again.
    """
    say(f"asking {url} for its authorities")
    offered = EnrolmentServer(url, blind_context, clock).trust()
    authority = find(offered.ca, code.ca_sha256)
    if authority is None:
        raise EnrolError(
            f"{url} does not have the authority that the code names: this is another server, or somebody is between. "
            "The token was not sent, nothing was changed"
        )
    root = next((text.encode() for text in offered.roots if _is(text.encode(), code.root_sha256)), None)
    if root is None:
        raise EnrolError(
            f"{url} does not have the root metadata that the code names: ask for a new code. "
            "The token was not sent, nothing was changed"
        )
    verified = EnrolmentServer(url, lambda: verifying_context(authority, clock), clock)
    known = read_file(applicant.root, MAX_ROOT_BYTES)
    if known is not None and known != root and known.decode(errors="replace") not in verified.trust().roots:
        raise EnrolError(
            f"{applicant.root} is the root of another fleet. The token was not sent, nothing was changed; remove that "
            "file if the device is to change over"
        )
    store.prepare()
    say(f"enrolling as {applicant.device_id}")
    try:
        answer = _ask(applicant, code.token, verified, store, keys)
    except ServerError as error:
        if error.code != KEY_TAKEN:
            raise
        store.drop_key()
        answer = _ask(applicant, code.token, verified, store, keys)
    if find(answer.ca, code.ca_sha256) is None:
        raise ServerError(f"{url} answered without the authority that the code names", "bad_answer")
    if known is None:
        try:
            write_file(applicant.root, root)
        except OSError as error:
            raise IdentityFilesError(f"{applicant.root}: {error.strerror}; not enrolled, do the same again") from error
    return store.adopt(answer, url, device_id=applicant.device_id, product=applicant.product)


def _ask(applicant: Applicant, token: str, server: EnrolmentServer, store: IdentityStore, keys: Keys) -> Enrolled:
    request = keys.request(store.next_key(keys), applicant.device_id)
    return server.enrol(
        EnrolmentRequest(
            token=token, device_id=applicant.device_id, hardware_model=applicant.hardware_model, csr=request
        )
    )


def _is(content: bytes, sha256: str) -> bool:
    return hmac.compare_digest(hashlib.sha256(content).hexdigest(), sha256)
