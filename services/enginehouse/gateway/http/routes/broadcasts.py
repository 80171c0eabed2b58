"""/v1/engines:info and /v1/engines:update: ask all selected engines at once."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from enginehouse.contracts.calls import CALL_BODY_MAX_BYTES
from enginehouse.contracts.json_text import read_json
from enginehouse.contracts.selector import Selector
from enginehouse.gateway.engines.broadcast import EngineAnswer
from enginehouse.gateway.http.dependencies import (
    AuthenticatedCaller,
    WiredGateway,
    until_answered,
)
from enginehouse.web.openapi import problems
from enginehouse.web.requests import body_of, require_json
from enginehouse.web.responses import json_answer

router = APIRouter(prefix="/v1", tags=["engines"])


class SelectorQuery(BaseModel):
    """Query of both calls."""

    model_config = ConfigDict(extra="forbid")

    selector: Annotated[str, Field(max_length=500)] = Field(
        "", description="Such as `tenant=acme,name=sentiment,version=v2,label.team=nlp`. Empty: all of yours."
    )


class Answers(BaseModel):
    """An answer for each selected engine."""

    engines: list[EngineAnswer]


@router.get("/engines:info", response_model=Answers, responses=problems(403, 429))
async def info(
    request: Request, gateway: WiredGateway, caller: AuthenticatedCaller, query: Annotated[SelectorQuery, Query()]
) -> Response:
    """Ask every replica of the selected engines for its `/info`: your own engines, an administrator all."""
    hold = until_answered(request).enter_context(gateway.bytes_in_hand.holding(caller.name))
    selector = Selector.parse(query.selector)
    return json_answer(Answers(engines=await gateway.broadcasts.send(caller, selector, ("GET", "info"), b"", hold)))


@router.post(
    "/engines:update",
    response_model=Answers,
    responses=problems(403, 413, 415, 429),
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": {}}}}},
)
async def update(
    request: Request, gateway: WiredGateway, caller: AuthenticatedCaller, query: Annotated[SelectorQuery, Query()]
) -> Response:
    """Send the JSON of the body to `/update` of every replica of the selected engines: your own, an administrator all."""
    hold = until_answered(request).enter_context(gateway.bytes_in_hand.holding(caller.name))
    selector = Selector.parse(query.selector)
    require_json(request)
    body = await body_of(request, CALL_BODY_MAX_BYTES, hold) or b"{}"
    read_json(body, "the body")
    answers = await gateway.broadcasts.send(caller, selector, ("POST", "update"), body, hold)
    return json_answer(Answers(engines=answers))
