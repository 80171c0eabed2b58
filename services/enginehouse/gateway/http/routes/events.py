"""/v1/events: takes CloudEvents of upstream systems over HTTP."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from enginehouse.contracts.cloud_event import BATCH_CONTENT_TYPE, CONTENT_TYPE
from enginehouse.contracts.errors import EnginehouseError, RequestError
from enginehouse.contracts.job import Accepted
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.http.answers import accepted_answer, accepted_view, json_answer
from enginehouse.gateway.http.dependencies import (
    AuthenticatedCaller,
    NoQueryAllowed,
    WiredGateway,
    body_of,
    problems,
)
from enginehouse.gateway.http.problems import problem_body
from enginehouse.gateway.http.routes.jobs import BATCH_MAX, BatchAnswer
from enginehouse.gateway.intake.cloud_events import read_batch
from enginehouse.gateway.tenants.tenants import Caller

router = APIRouter(prefix="/v1", tags=["events"])

_EVENT_SCHEMA = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1},
        "type": {"type": "string", "minLength": 1},
        "engineid": {
            "type": "string",
            "description": "The engine. Default: the engine that the data names, or else standard.",
        },
        "data": {
            "description": "The input; in an event of type dev.enginehouse.job.requested.v1, the body of POST /v1/jobs."
        },
    },
}
_BODIES = {
    "requestBody": {
        "description": "A structured event, or a batch. In binary mode the body is the data, and the attributes are ce-* headers.",
        "required": True,
        "content": {
            kind: {"schema": schema}
            for kind, schema in (
                (CONTENT_TYPE, _EVENT_SCHEMA),
                (BATCH_CONTENT_TYPE, {"type": "array", "items": {}, "maxItems": BATCH_MAX}),
            )
        },
    }
}


@router.post(
    "/events",
    status_code=202,
    responses={202: {"model": Accepted | BatchAnswer}, **problems(404, 409, 413, 429)},
    openapi_extra=_BODIES,
    dependencies=[NoQueryAllowed],
)
async def accept_events(request: Request, gateway: WiredGateway, caller: AuthenticatedCaller) -> Response:
    """Turn an event (binary or structured), or each event of a batch, into a job. A repeated event makes no new job."""
    body = await body_of(request, gateway.settings.body_max_bytes)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    binary = any(name.startswith("ce-") for name in request.headers)
    if kind == BATCH_CONTENT_TYPE:
        return await _batch(gateway, caller, body)
    if not binary and kind != CONTENT_TYPE:
        raise RequestError(
            f"Content-Type must be {CONTENT_TYPE} or {BATCH_CONTENT_TYPE}, or the attributes must be ce-* headers"
        )
    return accepted_answer(await gateway.events.accept(caller, dict(request.headers), body))


async def _batch(gateway: Gateway, caller: Caller, body: bytes) -> Response:
    async def one(event: bytes) -> dict[str, Any]:
        try:
            return accepted_view(await gateway.events.accept(caller, {"content-type": CONTENT_TYPE}, event))
        except EnginehouseError as error:
            return {"problem": problem_body(error)}

    answers = await asyncio.gather(*(one(event) for event in read_batch(body, BATCH_MAX)))
    return json_answer({"jobs": answers}, 202)
