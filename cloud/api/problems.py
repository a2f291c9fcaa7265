"""Errors as answers: each has the body {"error": code, "message": sentence, "help": place}, and none a traceback."""

import errno
import logging
import sqlite3
from collections.abc import Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from cloud.artifacts import BlobTooLargeError, DigestMismatchError, StorageError
from cloud.manual import Manual
from cloud.roles import ConflictingRoleError, TrustError
from cloud.store.errors import ConflictError, InvalidError, NotFoundError, StoreError, UnavailableError
from protocol.errors import FleetliftError, ProtocolError, UserError

_log = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]

MAX_PROBLEMS: Final = 3
POSTGRESQL_DISK_FULL: Final = "53100"  # PostgreSQL, "PostgreSQL Error Codes"
_BY_ANYBODY: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.TOO_MANY_REQUESTS})
_HTTP_CODES: Final = {
    HTTPStatus.NOT_FOUND: "no_such_page",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
}


class Problem(BaseModel):
    """Why a request was not done."""

    error: str
    """A code for programs."""
    message: str
    """A sentence for people: what happened, what was not changed, what to do."""
    help: str = ""
    """Where the code is explained: an address, or a path in the repository."""


class ApiError(FleetliftError):
    """A request that the API itself refuses."""

    def __init__(self, status: HTTPStatus, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


STATUSES: Final[Sequence[tuple[type[FleetliftError], HTTPStatus]]] = (
    (UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (ConflictError, HTTPStatus.CONFLICT),
    (InvalidError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (BlobTooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (DigestMismatchError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (StorageError, HTTPStatus.INSUFFICIENT_STORAGE),
    (ConflictingRoleError, HTTPStatus.CONFLICT),
    (TrustError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ProtocolError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (UserError, HTTPStatus.UNPROCESSABLE_ENTITY),
)
"""The first that fits decides; any other error of ours is the server's own failure (500)."""

ANSWERS: Final[Mapping[int | str, dict[str, Any]]] = {
    status.value: {"model": Problem, "description": status.phrase}
    for status in (
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.INSUFFICIENT_STORAGE,
    )
}
"""What every route may answer instead of its result, for the OpenAPI document."""


def problem(
    scope: Scope, status: HTTPStatus, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error's answer to a request, and say in the log that it was refused.

    Half a character in what it quotes is replaced. The log is not told above `debug` of what anybody can have happen.
    """
    manual = getattr(scope["app"].state, "manual", Manual())
    level = logging.DEBUG if status in _BY_ANYBODY else logging.INFO
    _log.log(level, "%s %.200r was refused: %d %s", scope["method"], scope["path"], status, code)
    text = message.encode(errors="replace").decode()
    body = Problem(error=code, message=text, help=manual.explain(code)).model_dump()
    return JSONResponse(body, status.value, dict(headers or {}))


def answer_errors(app: FastAPI) -> None:
    """Make the app answer every error as a Problem."""
    app.add_exception_handler(FleetliftError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OSError, _system)
    app.add_exception_handler(Exception, _unexpected)


def _ours(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, ApiError):
        headers = {"WWW-Authenticate": "Bearer"} if error.status is HTTPStatus.UNAUTHORIZED else {}
        return problem(request.scope, error.status, error.code, str(error), {**headers, **(error.headers or {})})
    for kind, status in STATUSES:
        if isinstance(error, kind):
            return problem(request.scope, status, code_of(error), str(error))
    if _is_out_of_space(error):
        return _no_space(request)
    _log.error("request failed: %s", error, exc_info=error)
    code = error.code if isinstance(error, StoreError) else "failed"
    return problem(request.scope, HTTPStatus.INTERNAL_SERVER_ERROR, code, str(error))


def code_of(error: FleetliftError) -> str:
    """Return the code that an error is answered with, if it is one of STATUSES or the API's own."""
    match error:
        case ConflictingRoleError():
            return "conflict"
        case TrustError():
            return "untrusted"
        case BlobTooLargeError():
            return "too_large"
        case DigestMismatchError():
            return "digest_mismatch"
        case StorageError():
            return "storage_failed"
    return str(getattr(error, "code", "invalid"))


def _invalid(request: Request, error: Exception) -> JSONResponse:
    details = error.errors() if isinstance(error, RequestValidationError) else []
    reasons = []
    for item in details[:MAX_PROBLEMS]:
        where = ".".join(str(part) for part in item["loc"][1:])  # the first says: body, query or path
        why = str(item["msg"]).removeprefix("Value error, ")
        reasons.append(f"{where}: {why[:1].lower()}{why[1:]}" if where and item["type"] != "json_invalid" else why)
    return problem(
        request.scope, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", f"{'; '.join(reasons)[:500]}. Nothing was changed."
    )


def _http(request: Request, error: Exception) -> JSONResponse:
    status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.BAD_REQUEST
    said = str(error.detail) if isinstance(error, HTTPException) else status.phrase
    message = said if said.endswith(".") else f"{request.method} {request.url.path}: {said}. Nothing was changed."
    headers = error.headers if isinstance(error, HTTPException) else None
    return problem(request.scope, status, _HTTP_CODES.get(status, "refused"), message, headers)


def _system(request: Request, error: Exception) -> JSONResponse:
    return _no_space(request) if _is_out_of_space(error) else _unexpected(request, error)


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    if _is_out_of_space(error):
        return _no_space(request)
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    message = "The server failed at this request; its log says why. Look whether the change was made before again."
    return problem(request.scope, HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message)


def _no_space(request: Request) -> JSONResponse:
    message = "The server's disk is full. Nothing was changed; free space on it and try again."
    return problem(request.scope, HTTPStatus.INSUFFICIENT_STORAGE, "disk_full", message)


def _is_out_of_space(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return True
        if getattr(error, "sqlstate", None) == POSTGRESQL_DISK_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
