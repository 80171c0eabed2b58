"""/v1/engines: shows engines to their users, resumes them for owners; quarantines and purges them for administrators."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from enginehouse.contracts.replay import ReplayReport, ReplayRequest
from enginehouse.contracts.text import StorableText
from enginehouse.gateway.engines.engine_view import EngineSummary, EngineView
from enginehouse.gateway.http.dependencies import AdminCaller, AuthenticatedCaller, WiredGateway, fits
from enginehouse.gateway.http.sse import STREAM_HEADERS
from enginehouse.web.openapi import body_schema, problems
from enginehouse.web.requests import NoQueryAllowed, read_model
from enginehouse.web.responses import json_answer

router = APIRouter(prefix="/v1", tags=["engines"])

EnginePath = Annotated[str, Path(max_length=64)]


_CURSOR_PATTERN = "[a-z0-9@-]{1,64}"


class EngineQuery(BaseModel):
    """Query of GET /v1/engines."""

    model_config = ConfigDict(extra="forbid")

    cursor: Annotated[str, AfterValidator(fits(_CURSOR_PATTERN))] | None = Field(
        None,
        description="`next_cursor` of the page before.",
        json_schema_extra={"pattern": f"^{_CURSOR_PATTERN}$"},
    )
    limit: Annotated[int, Field(ge=1, le=1_000)] = Field(
        20, description="Engines of a page. A small number, because the store of each is asked for its workers."
    )


class EnginePage(BaseModel):
    """Engines that the caller may use, by id."""

    engines: list[EngineSummary]
    next_cursor: str | None


@router.get("/engines", response_model=EnginePage, responses=problems())
async def list_engines(
    gateway: WiredGateway, caller: AuthenticatedCaller, query: Annotated[EngineQuery, Query()]
) -> Response:
    """List the engines that the caller may use, its own and the shared ones: a page of them, by id."""
    left = [engine for engine in gateway.catalogue.visible_to(caller.name) if engine.id > (query.cursor or "")]
    page = left[: query.limit]
    next_cursor = page[-1].id if len(left) > len(page) else None
    return json_answer(EnginePage(engines=await gateway.engine_views.summaries(page, caller), next_cursor=next_cursor))


@router.get("/engines/{engine}", response_model=EngineView, responses=problems(404, 410), dependencies=[NoQueryAllowed])
async def read_engine(gateway: WiredGateway, caller: AuthenticatedCaller, engine: EnginePath) -> Response:
    """Show one engine with its card: input and output schema, version, limits. Administrators see every tenant's, and removed ones."""
    return json_answer(await gateway.engine_views.view(gateway.catalogue.shown_to(engine, caller), caller))


async def _lines(news: AsyncIterator[BaseModel]) -> AsyncIterator[bytes]:
    """Write progress and report as lines `{"progress": …}` and `{"report": …}`."""
    async for each in news:
        kind = b"report" if isinstance(each, ReplayReport) else b"progress"
        yield b'{"%b": %b}\n' % (kind, each.model_dump_json().encode())


@router.post(
    "/engines/{engine}/replay",
    response_model=ReplayReport,
    responses=problems(403, 404, 410, 415, 429, 503),
    openapi_extra=body_schema(ReplayRequest),
    dependencies=[NoQueryAllowed],
)
async def replay(request: Request, gateway: WiredGateway, caller: AuthenticatedCaller, engine: EnginePath) -> Response:
    """Run kept inputs of an engine once more on its version on trial, and tell what changes. For its owner.

    The answer is `application/x-ndjson`: lines `{"progress": {"done", "of"}}`, and `{"report": …}` as the last. Closing the
    connection ends the replay. It reaches no caller, statistic or webhook.
    """
    body = await read_model(request, ReplayRequest)
    news = await gateway.replays.start(engine, caller, body)
    return StreamingResponse(_lines(news), media_type="application/x-ndjson", headers=STREAM_HEADERS)


class QuarantineRequest(BaseModel):
    """The body of POST /v1/engines/{engine}/quarantine."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[StorableText, Field(min_length=1, max_length=500)]


@router.post(
    "/engines/{engine}/quarantine",
    response_model=EngineSummary,
    responses=problems(403, 404, 415),
    openapi_extra=body_schema(QuarantineRequest),
    dependencies=[NoQueryAllowed],
)
async def quarantine(request: Request, gateway: WiredGateway, caller: AdminCaller, engine: EnginePath) -> Response:
    """Stop an engine until it is resumed: jobs, processes and sidecar end, and its credentials are taken back. Its jobs stay queued."""
    body = await read_model(request, QuarantineRequest)
    stopped = await gateway.engine_operations.quarantine(engine, body.reason)
    return json_answer(await gateway.engine_views.summary(stopped, caller))


class ResumeQuery(BaseModel):
    """Query of POST /v1/engines/{engine}/resume."""

    model_config = ConfigDict(extra="forbid")

    unless_by_operator: bool = Field(
        False,
        description="Refuse to end a quarantine that only an operator may end, as for a tenant, to an administrator too.",
    )


@router.post(
    "/engines/{engine}/resume",
    response_model=EngineSummary,
    responses=problems(403, 404, 409, 410),
)
async def resume(
    gateway: WiredGateway, caller: AuthenticatedCaller, engine: EnginePath, query: Annotated[ResumeQuery, Query()]
) -> Response:
    """Give a paused or quarantined engine its jobs again, in order. Its owner may, unless an operator quarantined it; an administrator always."""
    resumed = await gateway.engine_operations.resume(caller, engine, unless_by_operator=query.unless_by_operator)
    return json_answer(await gateway.engine_views.summary(resumed, caller))


class Purged(BaseModel):
    """The number of jobs that a purge canceled."""

    canceled: int


@router.post(
    "/engines/{engine}/purge", response_model=Purged, responses=problems(403, 404), dependencies=[NoQueryAllowed]
)
async def purge(gateway: WiredGateway, caller: AdminCaller, engine: EnginePath) -> Response:
    """Cancel every job that waits for an engine."""
    return json_answer(Purged(canceled=await gateway.purge.purge(engine)))
