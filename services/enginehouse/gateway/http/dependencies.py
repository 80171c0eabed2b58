"""Reads common parts of requests for the routes: caller, bounded body, time to wait, idempotency key."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPBearer

from enginehouse.contracts.cloud_event import valid_traceparent
from enginehouse.contracts.errors import (
    Forbidden,
    InvalidHeader,
    RequestError,
)
from enginehouse.contracts.names import JOB_ID_PATTERN, is_job_id
from enginehouse.contracts.text import header_text
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.http.openapi import MAX_KEY_LENGTH
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.web.requests import body_of

MAX_WAIT_SECONDS = 60
T = TypeVar("T")


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that answers this request."""
    gateway: Gateway = request.app.state.gateway
    return gateway


def until_answered(request: Request) -> ExitStack:
    """Return the stack of what is held until the request is answered."""
    stack: ExitStack = request.state.until_answered
    return stack


# Dependencies are coroutines, although they await nothing: FastAPI runs a plain function in a thread.
async def wired_gateway(request: Request) -> Gateway:
    """Return the gateway that answers this request."""
    return gateway_of(request)


_BEARER = HTTPBearer(
    scheme_name="key", description="An API key: 'enginehouse tenant add NAME' makes one.", auto_error=False
)


async def caller_of(request: Request, _: Annotated[object, Security(_BEARER)] = None) -> Caller:
    """Return the authenticated caller, and count the request as open until it is answered.

    Raise Unauthenticated, or RateLimited if the tenant has too many. The second argument only describes the call.
    """
    gateway = gateway_of(request)
    found: Caller | None = request.state.caller
    caller = found or gateway.tenants.authenticate(request.headers.get("authorization"))
    until_answered(request).enter_context(gateway.open_requests.counted(caller))
    return caller


async def admin_of(caller: Annotated[Caller, Depends(caller_of)]) -> Caller:
    """Return an authenticated caller whose key is an administrator's, or raise Forbidden."""
    if not caller.is_admin:
        raise Forbidden("This call needs an administrator's key: 'enginehouse tenant add NAME --admin' makes one")
    return caller


def fits(pattern: str) -> Callable[[str], str]:
    """Return what checks a cursor, which callers get from a page and give back unchanged."""

    def check(cursor: str) -> str:
        if not re.fullmatch(pattern, cursor):
            raise ValueError("it must be the `next_cursor` of the page before, unchanged")
        return cursor

    return check


async def job_id_of(
    job_id: Annotated[str, Path(json_schema_extra={"pattern": f"^{JOB_ID_PATTERN}$"}, description="A UUIDv7.")],
) -> str:
    """Return the job id in the path, if it is one."""
    if not is_job_id(job_id):
        raise RequestError(f"{job_id[:60]!r} is not a job id; a job id looks like 01890a5d-ac96-7b2a-8c4e-0123456789ab")
    return job_id


WiredGateway = Annotated[Gateway, Depends(wired_gateway)]
AuthenticatedCaller = Annotated[Caller, Depends(caller_of)]
AdminCaller = Annotated[Caller, Depends(admin_of)]
JobId = Annotated[str, Depends(job_id_of)]


async def read_jobs(request: Request, caller: Caller, read: Callable[..., T], *more: Any, **how: Any) -> T:
    """Read the body, and return the jobs that `read(body, *more)` finds in it.

    Raise RequestError, naming the fault, or RateLimited while too many large bodies are in hand.
    """
    gateway = gateway_of(request)
    # Until the request is answered: the inputs are in memory until their jobs are accepted.
    hold = until_answered(request).enter_context(gateway.bytes_in_hand.holding(caller.name))
    body = await body_of(request, gateway.settings.body_max_bytes, hold)
    return await gateway.bodies.read(caller.name, read, body, *more, **how)


def wait_seconds(request: Request) -> float:
    """Return how long `Prefer: wait=N` asks to wait; 0 without it, or with respond-async (RFC 7240)."""
    seconds = 0.0
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "respond-async":
            return 0
        if name.strip().lower() == "wait":
            try:
                seconds = min(max(float(value.strip().strip('"') or MAX_WAIT_SECONDS), 0), MAX_WAIT_SECONDS)
            except ValueError:
                continue  # RFC 7240: a preference that cannot be understood is ignored.
    return seconds if seconds == seconds else 0


def traceparent_of(request: Request) -> str | None:
    """Return the caller's trace; None if it is missing or malformed."""
    return valid_traceparent(request.headers.get("traceparent"))


def idempotency_key(request: Request, longest: int = MAX_KEY_LENGTH) -> str | None:
    """Return the key that makes the request safe to repeat, if it has one; it may have `longest` characters."""
    key = header_of(request, "Idempotency-Key")
    if key is not None and not 1 <= len(key) <= longest:
        raise InvalidHeader(f"Idempotency-Key must have 1 to {longest} characters here")
    return key


def header_of(request: Request, name: str) -> str | None:
    """Return the text of a header that becomes data, or None without it. Raise InvalidHeader if it cannot be read."""
    wanted = name.lower().encode()
    raw = next((value for found, value in request.scope["headers"] if found == wanted), None)
    return None if raw is None else header_text(name, raw)
