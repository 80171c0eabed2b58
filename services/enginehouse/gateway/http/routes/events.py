"""/v1/events: takes CloudEvents of upstream systems over HTTP."""

import re

from fastapi import APIRouter, Request, Response

from enginehouse.contracts.cloud_event import BATCH_CONTENT_TYPE, CONTENT_TYPE
from enginehouse.contracts.errors import InvalidHeader, UnsupportedMediaType
from enginehouse.contracts.job import Accepted
from enginehouse.contracts.tenant import Limits
from enginehouse.gateway.http.answers import accepted_answer
from enginehouse.gateway.http.dependencies import AuthenticatedCaller, WiredGateway, caller_of, header_of, read_jobs
from enginehouse.gateway.http.openapi import LOCATION, parameters
from enginehouse.gateway.http.routes.jobs import BatchAnswer, batch_answer
from enginehouse.gateway.intake.bodies import BATCH_MAX, BATCH_MAX_BYTES
from enginehouse.gateway.intake.event_jobs import job_of_binary_event, job_of_event, jobs_of_events
from enginehouse.gateway.intake.event_reader import Header, is_binary
from enginehouse.web.openapi import problems
from enginehouse.web.requests import NoQueryAllowed

router = APIRouter(prefix="/v1", tags=["events"])
_ORIGIN = re.compile(r"[A-Za-z0-9._:*-]{1,255}")

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
    responses={
        202: {"model": Accepted | BatchAnswer, "headers": LOCATION},
        **problems(403, 404, 409, 410, 413, 415, 429),
    },
    openapi_extra=_BODIES,
    dependencies=[NoQueryAllowed],
)
async def accept_events(request: Request, gateway: WiredGateway, caller: AuthenticatedCaller) -> Response:
    """Turn an event (binary or structured), or each event of a batch, into a job. A repeated event makes no new job."""
    headers: list[Header] = request.scope["headers"]
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (CONTENT_TYPE, BATCH_CONTENT_TYPE) and not is_binary(headers):
        raise UnsupportedMediaType(
            f"Content-Type must be {CONTENT_TYPE} or {BATCH_CONTENT_TYPE}, or the attributes must be ce-* headers"
        )
    if kind == BATCH_CONTENT_TYPE:
        jobs = await read_jobs(request, caller, jobs_of_events, at_once=BATCH_MAX_BYTES)
        return await batch_answer(gateway, caller, jobs, lambda job, _: gateway.events.accept(caller, job))
    if is_binary(headers):
        job = await read_jobs(request, caller, job_of_binary_event, headers)
    else:
        job = await read_jobs(request, caller, job_of_event)
    return accepted_answer(await gateway.events.accept(caller, job))


@router.options(
    "/events",
    status_code=204,
    response_class=Response,
    responses=problems(),
    openapi_extra=parameters("WebHook-Request-Origin", "WebHook-Request-Rate"),
    dependencies=[NoQueryAllowed],
)
async def allow_sender(request: Request, gateway: WiredGateway) -> Response:
    """Allow a sender to deliver events here: the handshake of CloudEvents' web hooks. Needs no key; each event does."""
    origin = header_of(request, "WebHook-Request-Origin") or ""
    if not _ORIGIN.fullmatch(origin):
        raise InvalidHeader(
            "WebHook-Request-Origin must be given: the DNS name of the sender that asks to deliver events"
        )
    limits = Limits()
    if "authorization" in request.headers:
        limits = (await caller_of(request)).tenant.limits
    headers = {
        "Allow": "OPTIONS, POST",
        "WebHook-Allowed-Origin": origin,
        "WebHook-Allowed-Rate": str(max(1, int(limits.submits_per_second * 60))),
    }
    return Response(status_code=204, headers=headers)
