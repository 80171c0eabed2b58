"""/v2: the Open Inference Protocol over REST, in front of every engine. Infer requests are jobs; the rest only shows."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from enginehouse import __version__
from enginehouse.contracts.engine import INLINE_MAX_BYTES
from enginehouse.contracts.errors import Forbidden
from enginehouse.contracts.json_text import read_body
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.http.dependencies import (
    AuthenticatedCaller,
    WiredGateway,
    header_of,
    idempotency_key,
    traceparent_of,
)
from enginehouse.gateway.http.open_inference_errors import JOB_HEADER
from enginehouse.gateway.http.openapi import submit_parameters
from enginehouse.gateway.inference.infer import MAX_SECONDS
from enginehouse.gateway.inference.models import EXTENSIONS, SERVER_NAME
from enginehouse.gateway.inference.requests import Infer, read_rest, write_rest
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.open_inference.bodies import HEADER
from enginehouse.web.requests import NoQueryAllowed, body_of
from enginehouse.web.responses import json_answer

router = APIRouter(prefix="/v2", tags=["open inference"])

ModelPath = Annotated[str, Path(max_length=64, description="An engine's name, as under /v1/engines.")]
VersionPath = Annotated[str, Path(max_length=64, description="The engine's active version.")]


class Error(BaseModel):
    """Why a call under /v2 was refused."""

    error: str


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe a route's errors."""
    return {status: {"model": Error} for status in (400, 500, *statuses)}


class TensorData(BaseModel):
    """A tensor."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = Field(None, description="Values, flat or nested; with binary data they follow the JSON.")


class InferRequest(BaseModel):
    """The body of an infer request."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: Annotated[list[TensorData], Field(min_length=1)]
    outputs: list[dict[str, Any]] | None = Field(
        None, description="The outputs that are wanted, each with a `name` and perhaps `parameters`. Default: all."
    )


class InferResponse(BaseModel):
    """The outputs of a job that succeeded. The parameter `job_id` names the job."""

    model_name: str
    model_version: str | None = None
    id: str
    parameters: dict[str, Any]
    outputs: list[TensorData]


class Ready(BaseModel):
    """Whether a model takes jobs."""

    name: str
    ready: bool


@router.get("/health/live", dependencies=[NoQueryAllowed], responses={400: {"model": Error}})
async def live() -> dict[str, bool]:
    """Say that the process answers."""
    return {"live": True}


@router.get("/health/ready", dependencies=[NoQueryAllowed], responses={400: {"model": Error}, 503: {}})
async def ready(gateway: WiredGateway) -> Response:
    """Say whether jobs can be accepted."""
    is_ready = await gateway.is_ready()
    return json_answer({"ready": is_ready}, 200 if is_ready else 503)


@router.get("", dependencies=[NoQueryAllowed], responses={400: {"model": Error}})
async def server_metadata() -> dict[str, Any]:
    """Show the name, version and extensions of this server."""
    return {"name": SERVER_NAME, "version": __version__, "extensions": list(EXTENSIONS)}


@router.get("/models/{model}", dependencies=[NoQueryAllowed], responses=errors(401, 404, 429))
async def model_metadata(gateway: WiredGateway, caller: AuthenticatedCaller, model: ModelPath) -> Response:
    """Show the tensors that an engine takes and gives."""
    return _metadata(gateway, caller, model, None)


@router.get("/models/{model}/versions/{version}", dependencies=[NoQueryAllowed], responses=errors(401, 404, 429))
async def version_metadata(
    gateway: WiredGateway, caller: AuthenticatedCaller, model: ModelPath, version: VersionPath
) -> Response:
    """Show the same, if this version gets the engine's jobs."""
    return _metadata(gateway, caller, model, version)


def _metadata(gateway: Gateway, caller: Caller, model: str, version: str | None) -> Response:
    engine = gateway.models.find(model, version, caller)
    return json_answer(gateway.models.metadata(model, engine)._asdict())


_READY_RESPONSES = {200: {"model": Ready}, **errors(401, 404, 429), 503: {"model": Ready}}


@router.get("/models/{model}/ready", dependencies=[NoQueryAllowed], responses=_READY_RESPONSES)
async def model_ready(gateway: WiredGateway, caller: AuthenticatedCaller, model: ModelPath) -> Response:
    """Say whether an engine works on jobs now, or would wake for one."""
    return await _ready(gateway, caller, model, None)


@router.get("/models/{model}/versions/{version}/ready", dependencies=[NoQueryAllowed], responses=_READY_RESPONSES)
async def version_ready(
    gateway: WiredGateway, caller: AuthenticatedCaller, model: ModelPath, version: VersionPath
) -> Response:
    """Say the same, if this version gets the engine's jobs."""
    return await _ready(gateway, caller, model, version)


async def _ready(gateway: Gateway, caller: Caller, model: str, version: str | None) -> Response:
    is_ready = await gateway.models.is_ready(gateway.models.find(model, version, caller))
    return json_answer({"name": model, "ready": is_ready}, 200 if is_ready else 503)


_INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")}
        },
    }
}
_INFER_RESPONSES = {
    200: {"model": InferResponse},
    **errors(401, 404, 409, 410, 413, 415, 429, 502, 503, 504),
}


@router.post(
    "/models/{model}/infer",
    responses=_INFER_RESPONSES,
    openapi_extra=_INFER_BODY | submit_parameters(),
    dependencies=[NoQueryAllowed],
)
async def infer_model(
    request: Request, gateway: WiredGateway, caller: AuthenticatedCaller, model: ModelPath
) -> Response:
    """Run a job, and answer with its outputs once it has ended, within 60 s."""
    return await infer(request, gateway, caller, model)


@router.post(
    "/models/{model}/versions/{version}/infer",
    responses=_INFER_RESPONSES,
    openapi_extra=_INFER_BODY | submit_parameters(),
    dependencies=[NoQueryAllowed],
)
async def infer_version(
    request: Request, gateway: WiredGateway, caller: AuthenticatedCaller, model: ModelPath, version: VersionPath
) -> Response:
    """Do the same, if this version gets the engine's jobs."""
    return await infer(request, gateway, caller, model, version)


async def infer(request: Request, gateway: Gateway, caller: Caller, model: str, version: str | None = None) -> Response:
    """Answer an infer request."""
    engine = gateway.models.find(model, version, caller)
    with gateway.bytes_in_hand.holding(caller.name) as hold:
        body = await body_of(request, gateway.settings.body_max_bytes, hold)
        length = header_of(request, HEADER)
        asked: Infer = await gateway.inference.read(caller, engine, read_rest, body, length)
        del body
        row = await _while_connected(
            request,
            gateway.inference.run(
                caller,
                engine,
                asked,
                seconds=MAX_SECONDS,
                idempotency_key=idempotency_key(request),
                traceparent=traceparent_of(request),
            ),
        )
        asked = asked.without_input()  # Its bytes are not held while the output's are.
    if row is None:
        return Response(status_code=499)
    content, head = await gateway.inference.write(caller, model, row, asked, write_rest)
    headers = {"Location": f"/v1/jobs/{row.id}", JOB_HEADER: row.id}
    if head is None:
        return Response(content, 200, headers, "application/json")
    return Response(content, 200, {**headers, HEADER: str(head)}, "application/octet-stream")


async def _while_connected(request: Request, work: Any) -> Any:
    """Return the result of `work`. If the caller goes away before, cancel it and return None."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return None
    finally:
        for task in (working, gone):
            task.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class IndexRequest(BaseModel):
    """The body of POST /v2/repository/index."""

    model_config = ConfigDict(extra="forbid")

    ready: bool = Field(False, description="Whether to list only those that take jobs.")


@router.post("/repository/index", dependencies=[NoQueryAllowed], responses=errors(401, 413, 415, 429))
async def repository_index(request: Request, gateway: WiredGateway, caller: AuthenticatedCaller) -> Response:
    """List the engines that the caller may use."""
    body = await body_of(request, INLINE_MAX_BYTES)
    asked = read_body(IndexRequest, body) if body.strip() else IndexRequest()
    return json_answer([entry._asdict() for entry in await gateway.models.index(caller, ready=asked.ready)])


@router.post("/repository/models/{model}/load", dependencies=[NoQueryAllowed], responses=errors(401, 403, 404, 429))
@router.post("/repository/models/{model}/unload", dependencies=[NoQueryAllowed], responses=errors(401, 403, 404, 429))
async def load_or_unload(gateway: WiredGateway, caller: AuthenticatedCaller, model: ModelPath) -> Response:
    """Refuse: engines are deployed and removed by their owners."""
    raise Forbidden(
        f"{gateway.models.find(model, None, caller).id} is neither loaded nor unloaded by a call: 'enginehouse engines "
        "deploy' and 'enginehouse engines remove' do that"
    )
