"""What every route stands on: the server's parts, and who is asking."""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from cloud.access.roles import Caller
from cloud.api.problems import ApiError
from cloud.artifacts import Artifacts
from cloud.changes import Changes
from cloud.config import Settings
from cloud.intake import Intake
from cloud.pki.authorities import Authorities
from cloud.refusals import Refusals
from cloud.request_numbers import RequestNumbers
from cloud.store.store import Store
from cloud.surveying import Surveying
from cloud.trust import MetadataRepository
from cloud.watching import Watching
from cloud.webhooks.secret_files import SecretFiles

MAX_WAIT_S: Final = 30
"""The longest that a long poll waits."""
TOKEN_PREFIX: Final = "flt_"  # noqa: S105 - what all of them begin with
"""What a token begins with: whoever finds one in a file knows what it is."""
TOKEN_BYTES: Final = 32
_bearer = HTTPBearer(auto_error=False, description="The token that `fleetlift init` wrote to the operator's home.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The server's parts.

    `broker_url` is what devices are told, `base_url` what links in answers begin with; `why_not_ready` says in a word
    what keeps devices from being served, and nothing when all is well; `counters` gives what the loops have counted,
    `refusals` what they refused of each device, `requests` counts what was asked over HTTP; `authorities` sign devices'
    certificates, where TLS is spoken; `secrets` are what webhooks are signed with.
    """

    store: Store
    repository: MetadataRepository
    artifacts: Artifacts
    intake: Intake
    settings: Settings
    base_url: str
    broker_url: str
    changes: Changes = field(default_factory=Changes)
    why_not_ready: Callable[[], str] = str
    counters: Callable[[], Mapping[str, Mapping[str, int]]] = dict
    refusals: Refusals = field(default_factory=Refusals)
    requests: RequestNumbers = field(default_factory=RequestNumbers)
    authorities: Authorities | None = None
    secrets: SecretFiles | None = None

    def link(self, *path: str | int) -> str:
        """Return the address of a page of the console."""
        return "/".join([self.base_url, *(quote(str(part), safe="") for part in path)])


def hash_token(token: str) -> str:
    """Return what the store keeps of a token: its SHA-256 (tokens are random, so nothing slower is needed)."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    """Return the text of a new API token."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def backend_of(request: Request) -> Backend:
    """Return the server's parts."""
    backend: Backend = request.app.state.backend
    return backend


def caller_of(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Return whom the bearer token belongs to, and what they may do with it."""
    if credentials is None:
        raise ApiError(
            HTTPStatus.UNAUTHORIZED, "no_token", "This needs a bearer token, and none came. Nothing was changed."
        )
    caller = backend_of(request).store.tokens.caller(hash_token(credentials.credentials))
    if caller is None:
        message = (
            "The token is not known here, was revoked, has expired, or its person is disabled. Nothing was changed; "
            "is it another server's?"
        )
        raise ApiError(HTTPStatus.UNAUTHORIZED, "bad_token", message)
    return caller


CallerDep = Annotated[Caller, Depends(caller_of)]


def _actor_of(caller: CallerDep) -> str:
    return caller.name


def _watching(request: Request) -> Watching:
    watching: Watching = request.app.state.watching
    return watching


def _surveying(request: Request) -> Surveying:
    surveying: Surveying = request.app.state.surveying
    return surveying


Server = Annotated[Backend, Depends(backend_of)]
Actor = Annotated[str, Depends(_actor_of)]
"""The name of the person who asks, for the record of decisions."""
Watched = Annotated[Watching, Depends(_watching)]
Surveyed = Annotated[Surveying, Depends(_surveying)]
