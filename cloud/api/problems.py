"""Errors as answers: every one has the body {"error": code, "message": sentence}, and none a traceback."""

import errno
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from cloud.artifacts import BlobTooLargeError, DigestMismatchError, StorageError
from cloud.roles import ConflictingRoleError, TrustError
from cloud.store.errors import ConflictError, InvalidError, NotFoundError, StoreError, UnavailableError
from protocol.errors import FleetliftError, ProtocolError, UserError

_log = logging.getLogger(__name__)

MAX_PROBLEMS: Final = 3
POSTGRESQL_DISK_FULL: Final = "53100"  # PostgreSQL, "PostgreSQL Error Codes"
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


def problem(status: HTTPStatus, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an error's answer; half a character in what it quotes is replaced."""
    body = Problem(error=code, message=message.encode(errors="replace").decode()).model_dump()
    return JSONResponse(body, status.value, dict(headers or {}))


def answer_errors(app: FastAPI) -> None:
    """Make the app answer every error as a Problem."""
    app.add_exception_handler(FleetliftError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OSError, _system)
    app.add_exception_handler(Exception, _unexpected)


def _ours(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, ApiError):
        headers = {"WWW-Authenticate": "Bearer"} if error.status is HTTPStatus.UNAUTHORIZED else {}
        return problem(error.status, error.code, str(error), {**headers, **(error.headers or {})})
    for kind, status in STATUSES:
        if isinstance(error, kind):
            return problem(status, _code_of(error), str(error))
    if _is_out_of_space(error):
        return _no_space()
    _log.error("request failed: %s", error, exc_info=error)
    code = error.code if isinstance(error, StoreError) else "failed"
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, code, str(error))


def _code_of(error: Exception) -> str:
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


def _invalid(_request: Request, error: Exception) -> JSONResponse:
    details = error.errors() if isinstance(error, RequestValidationError) else []
    reasons = []
    for item in details[:MAX_PROBLEMS]:
        where = ".".join(str(part) for part in item["loc"][1:])  # the first says: body, query or path
        why = str(item["msg"]).removeprefix("Value error, ")
        reasons.append(f"{where}: {why[:1].lower()}{why[1:]}" if where and item["type"] != "json_invalid" else why)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", f"{'; '.join(reasons)[:500]}. Nothing was changed.")


def _http(request: Request, error: Exception) -> JSONResponse:
    status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.BAD_REQUEST
    said = str(error.detail) if isinstance(error, HTTPException) else status.phrase
    message = said if said.endswith(".") else f"{request.method} {request.url.path}: {said}. Nothing was changed."
    headers = error.headers if isinstance(error, HTTPException) else None
    return problem(status, _HTTP_CODES.get(status, "refused"), message, headers)


def _system(request: Request, error: Exception) -> JSONResponse:
    return _no_space() if _is_out_of_space(error) else _unexpected(request, error)


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    if _is_out_of_space(error):
        return _no_space()
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    message = "The server failed at this request; its log says why. Look whether the change was made before again."
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message)


def _no_space() -> JSONResponse:
    message = "The server's disk is full. Nothing was changed; free space on it and try again."
    return problem(HTTPStatus.INSUFFICIENT_STORAGE, "disk_full", message)


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
