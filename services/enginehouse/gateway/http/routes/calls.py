"""/v1/engines/{engine}/call: passes calls on to an engine's own extra endpoints, and their answers back."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Request, Response

from enginehouse.contracts.calls import CALL_BODY_MAX_BYTES, METHODS, answer_headers, check_call_path
from enginehouse.contracts.errors import RequestError
from enginehouse.gateway.engines.calls import EngineCall
from enginehouse.gateway.http.dependencies import AuthenticatedCaller, WiredGateway, until_answered
from enginehouse.gateway.http.routes.engines import EnginePath
from enginehouse.web.requests import body_of

router = APIRouter(prefix="/v1", tags=["engines"])

_SAFE = {
    # The answer is a stranger's: a browser must not run it, nor take it for another kind of content, nor keep it.
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


# An engine answers what it likes with any status, so no answer can be described further.
_ANSWERS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "The engine's own answer if X-Enginehouse-Engine marks it, otherwise the gateway's problem.",
        "content": {"*/*": {"schema": {}}},
    }
}


async def call(
    request: Request,
    gateway: WiredGateway,
    caller: AuthenticatedCaller,
    engine: EnginePath,
    path: Annotated[str, Path(description="Path of the engine's own endpoint.")],
) -> Response:
    """Call an extra endpoint of one of your own engines: method, path, query, body and content type are passed on.

    The engine's own answer is marked by the header X-Enginehouse-Engine, whatever its status; an answer without it is the
    gateway's. The engine sees no credentials. Body up to 1 MiB, answer up to 8 MiB, 30 seconds.
    """
    checked = check_call_path(_raw_path(request, engine))
    known = gateway.engine_calls.engine(caller, engine)
    hold = until_answered(request).enter_context(gateway.bytes_in_hand.holding(caller.name))
    body = await body_of(request, CALL_BODY_MAX_BYTES, hold, as_it_is=True)
    answer = await gateway.engine_calls.call(
        caller,
        known,
        EngineCall(
            request.method,
            checked,
            request.scope["query_string"].decode("latin-1"),
            request.headers.items(),
            body,
            hold,
        ),
    )
    response = Response(answer.body, answer.status, {**_SAFE, "X-Enginehouse-Engine": known.id})
    for name, value in answer_headers(answer.headers):
        response.headers.append(name, value)
    return response


def _raw_path(request: Request, engine: str) -> str:
    """Return the engine's path as it came. The framework decodes it, and finds the engine in what it has decoded."""
    raw: str = request.scope["raw_path"].decode("latin-1").partition("?")[0]
    for safe in ("@", ""):  # Clients write the address of a version on trial with "@" or with "%40".
        before = f"/v1/engines/{quote(engine, safe=safe)}/call/"
        if raw.startswith(before):
            return raw.removeprefix(before)
    raise RequestError("The path before the engine's own path must not be percent-encoded")


for _method in METHODS:
    router.add_api_route(
        "/engines/{engine}/call/{path:path}",
        call,
        methods=[_method],
        operation_id=f"call_engine_{_method.lower()}",
        response_class=Response,
        responses=_ANSWERS,
        include_in_schema=_method in ("GET", "POST"),
    )
