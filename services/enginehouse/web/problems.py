"""Answers errors as application/problem+json (RFC 9457); holds the one table from exceptions to HTTP statuses."""

import math
from collections.abc import Callable, Mapping

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from enginehouse.audit.calls import note_problem
from enginehouse.contracts import errors
from enginehouse.contracts.base import explain_problems
from enginehouse.contracts.errors import EnginehouseError, MethodNotAllowed, NotFound, RequestError
from enginehouse.contracts.text import control_character

log = structlog.get_logger()

Form = Callable[[EnginehouseError, int, dict[str, str]], Response]
"""Answers an error, of this status and with these headers."""

PROBLEM_TYPE = "application/problem+json"
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

STATUSES: dict[type[EnginehouseError], int] = {
    errors.InvalidHeader: 400,
    errors.MethodNotAllowed: 405,
    errors.UnsupportedMediaType: 415,
    errors.InvalidName: 422,
    errors.NotJson: 422,
    errors.InvalidInput: 422,
    errors.InputTooLarge: 413,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.EngineRemoved: 410,
    errors.ObjectExists: 409,
    errors.ResultExpired: 410,
    errors.JobIsFinal: 409,
    errors.NotFinalYet: 409,
    errors.AlreadyRedriven: 409,
    errors.WrongState: 409,
    errors.IdempotencyKeyReused: 422,
    errors.RateLimited: 429,
    errors.QueueFull: 429,
    errors.StorageFull: 429,
    errors.Unavailable: 503,
    errors.EngineCallFailed: 502,
    errors.RequestError: 422,
    errors.EnginehouseError: 500,
}


class Problem(BaseModel):
    """An error, whether trying again can help, and how to solve it."""

    type: str = Field("about:blank", description="Always about:blank: `code` tells problems apart.")
    title: str
    status: int
    code: str
    detail: str
    retryable: bool
    advice: str


def status_of(error: EnginehouseError) -> int:
    """Return the HTTP status of an error: of its own class, or of its nearest ancestor."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def problem_body(error: EnginehouseError, status: int | None = None) -> Problem:
    """Describe an error to a caller."""
    return Problem(
        type="about:blank",
        title=error.title,
        status=status or status_of(error),
        code=error.code,
        detail=str(error),
        retryable=error.retryable,
        advice=error.advice,
    )


def problem(
    error: EnginehouseError,
    status: int | None = None,
    headers: dict[str, str] | None = None,
    *,
    scope: Scope | None = None,
) -> Response:
    """Answer with an error. `scope` is that of the request, for paths whose errors have another form."""
    note_problem(error.code)
    status = status or status_of(error)
    headers = dict(headers or {})
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    elif status == 503:
        headers["Retry-After"] = "1"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if form := _other_form(scope):
        return form(error, status, headers)
    return Response(problem_body(error, status).model_dump_json(), status, headers, PROBLEM_TYPE)


def _other_form(scope: Scope | None) -> Form | None:
    if scope is None or "app" not in scope:
        return None
    forms: Mapping[str, Form] = scope["app"].state.error_forms
    return next((form for prefix, form in forms.items() if f"{scope['path']}/".startswith(prefix)), None)


def unexpected(request: Request) -> Response:
    """Log the exception that is being handled, and answer that the fault is the server's."""
    request_id = getattr(request.state, "request_id", "")
    log.exception(f"{request.method} {request.url.path} failed", action="request_failed", request_id=request_id)
    failed = EnginehouseError("The server failed unexpectedly; the operator's log explains why")
    return problem(failed, scope=request.scope)


def _methods(app: FastAPI, request: Request) -> list[str]:
    """Return the methods that a path takes. Each is tried, because nested routers do not list theirs."""

    def taken(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in app.routes)

    return [method for method in _METHODS if taken(method)]


def _query_model(request: Request) -> type[BaseModel] | None:
    """Return the model of the query parameters that the call takes."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    kinds = [field.field_info.annotation for field in dependant.query_params] if dependant else []
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def install(app: FastAPI, forms: Mapping[str, Form] | None = None) -> None:
    """Make the app answer every error as a problem, or in another form below these prefixes of paths, such as `/v2/`."""
    app.state.error_forms = forms or {}

    @app.exception_handler(EnginehouseError)
    async def _known(request: Request, error: EnginehouseError) -> Response:
        return problem(error, scope=request.scope)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        return problem(RequestError(explain_problems(error.errors(), _query_model(request))), scope=request.scope)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        call = f"{request.method} {request.url.path}"
        if found := control_character(request.scope["path"]):
            return problem(
                RequestError(f"The path has {found} once it is decoded; no path has one"), scope=request.scope
            )
        if error.status_code == 404:
            return problem(NotFound(f"{call}: there is no such path; /docs shows every call"), scope=request.scope)
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(app, request))
            return problem(
                MethodNotAllowed(f"{call}: the path takes {headers['Allow']}"), headers=headers, scope=request.scope
            )
        return problem(RequestError(f"{call}: {error.detail}"), error.status_code, headers, scope=request.scope)

    @app.exception_handler(ClientDisconnect)
    async def _gone(request: Request, error: ClientDisconnect) -> Response:
        # Nobody reads this answer. Without it, a caller that disconnects would be logged as a failure of the server.
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        return unexpected(request)
