"""The HTTP application: routes, authentication, limits and error answers put together."""

import importlib.metadata
from typing import Final

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute

from cloud.api import (
    authorities,
    blobs,
    bulk,
    devices,
    enrolment,
    enrolment_tokens,
    firmware,
    fleet,
    groups,
    importing,
    metadata,
    needs,
    otas,
    people,
    preflight,
    products,
    redundancy,
    releases,
    rollouts,
    sameness,
    system,
    timelines,
    tokens,
    webhooks,
)
from cloud.api.access import authorize
from cloud.api.backend import Backend
from cloud.api.limiting import (
    CODE_TRIES,
    CODES_PER_S,
    ENROLMENT_TRIES,
    ENROLMENTS_PER_S,
    PASSWORD_TRIES,
    PASSWORDS_PER_S,
    Tries,
)
from cloud.api.middleware import BodyLimit, KnowOrigin, NoteChanges
from cloud.api.observing import Observe
from cloud.api.problems import ANSWERS, answer_errors
from cloud.manual import manual_of
from cloud.retention import HOUR_MS
from cloud.surveying import Surveying
from cloud.watching import Watching

PREFIX: Final = "/api/v1"
ROUTERS: Final = (
    *(
        system,
        fleet,
        products,
        metadata,
        firmware,
        blobs,
        groups,
        importing,
        needs,
        redundancy,
        sameness,
        releases,
        rollouts,
        devices,
        bulk,
        otas,
        preflight,
    ),
    *(enrolment_tokens, timelines, webhooks, authorities, people, tokens),
)


def create_app(backend: Backend) -> FastAPI:
    """Return the application over the server's parts."""
    app = FastAPI(
        title="Fleetlift",
        version=importlib.metadata.version("fleetlift"),
        description="Over-the-air firmware updates for device fleets.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # the pages that come with the framework load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # it would lead to whatever host the request says that this is
        generate_unique_id_function=_operation_id,
    )
    app.state.backend, app.state.enrolment_desk = backend, enrolment.Desk()
    app.state.enrolment_tries = Tries(ENROLMENT_TRIES, ENROLMENTS_PER_S)
    app.state.password_tries = Tries(PASSWORD_TRIES, PASSWORDS_PER_S)
    app.state.code_tries = Tries(CODE_TRIES, CODES_PER_S)
    app.state.manual = manual_of(backend.settings.server, backend.base_url)
    app.state.watching = Watching(backend.store)
    app.state.surveying = Surveying(
        *(backend.store, backend.refusals, backend.changes),
        quiet_after_ms=backend.settings.devices.quiet_after_hours * HOUR_MS,
    )
    for module in ROUTERS:
        app.include_router(module.router, prefix=PREFIX, dependencies=[Depends(authorize)], responses=dict(ANSWERS))
    app.include_router(enrolment.router, prefix=PREFIX, responses=dict(ANSWERS))  # devices have no bearer token
    app.include_router(tokens.door, prefix=PREFIX, responses=dict(ANSWERS))  # nor has who logs in
    app.include_router(system.probes)
    answer_errors(app)
    limit = backend.settings.server.max_request_bytes
    app.add_middleware(BodyLimit, limit_of=lambda path: _max_bytes(path, limit))
    app.add_middleware(NoteChanges, changes=backend.changes)
    app.add_middleware(Observe, numbers=backend.requests, prefix=PREFIX)
    app.add_middleware(KnowOrigin)
    return app


def _max_bytes(path: str, usual: int) -> int | None:
    """Return how large a request may be; None for uploads of images, which are limited as they come."""
    if path.startswith(f"{PREFIX}/blobs/"):
        return None
    if f"{path}/".startswith((f"{PREFIX}/enrolment/", f"{PREFIX}/login-codes/token/")):  # anybody may send these
        return min(usual, enrolment.MAX_REQUEST_BYTES)
    return usual


def _operation_id(route: APIRoute) -> str:
    return route.name
