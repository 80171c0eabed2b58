"""/v1/quarantines, /v1/engines/{engine}/misbehaviour: for whoever runs engines, and sees what they do."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.contracts.text import StorableText
from enginehouse.gateway.engines.engine_view import EngineView
from enginehouse.gateway.engines.quarantines import Quarantines
from enginehouse.gateway.http.dependencies import AdminCaller, WiredGateway, wait_seconds
from enginehouse.gateway.http.openapi import parameters
from enginehouse.gateway.http.routes.engines import EnginePath
from enginehouse.web.openapi import body_schema, problems
from enginehouse.web.requests import NoQueryAllowed, read_model
from enginehouse.web.responses import json_answer

router = APIRouter(prefix="/v1", tags=["operations"])


class QuarantinesQuery(BaseModel):
    """Query of GET /v1/quarantines."""

    model_config = ConfigDict(extra="forbid")

    known: Annotated[StorableText, Field(max_length=64)] | None = Field(
        None, description="`tag` of the answer before: with `Prefer: wait=N`, wait until another one is right."
    )


@router.get("/quarantines", response_model=Quarantines, responses=problems(403), openapi_extra=parameters("Prefer"))
async def read_quarantines(
    request: Request, gateway: WiredGateway, caller: AdminCaller, query: Annotated[QuarantinesQuery, Query()]
) -> Response:
    """List the engines that must not run. Whoever runs engines follows this, stops them and takes their credentials back."""
    seconds = wait_seconds(request)
    found = await gateway.quarantines.other_than(query.known, seconds, is_gone=request.is_disconnected)
    return json_answer(found)


class Misdeeds(BaseModel):
    """The body of POST /v1/engines/{engine}/misbehaviour."""

    model_config = ConfigDict(extra="forbid")

    misdeed: Misdeed
    times: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1


@router.post(
    "/engines/{engine}/misbehaviour",
    response_model=EngineView,
    responses=problems(403, 404, 415),
    openapi_extra=body_schema(Misdeeds),
    dependencies=[NoQueryAllowed],
)
async def note_misbehaviour(
    request: Request, gateway: WiredGateway, caller: AdminCaller, engine: EnginePath
) -> Response:
    """Report what an engine was seen doing. So much of it in a time (settings) quarantines the engine."""
    body = await read_model(request, Misdeeds)
    noted = await gateway.misbehaviour.note(engine, body.misdeed, body.times)
    return json_answer(await gateway.engine_views.view(noted, caller))
