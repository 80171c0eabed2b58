"""/v1/engines."""

from typing import Annotated, Any

import pydantic_core
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from enginehouse.contracts.engine import EngineCard, EngineState
from enginehouse.contracts.errors import EngineDoesNotExist, EnginehouseError
from enginehouse.gateway.engines.catalogue import KnownEngine
from enginehouse.gateway.gateway import GatewayState
from enginehouse.gateway.http.dependencies import (
    AdminCaller,
    AuthenticatedCaller,
    NoQueryAllowed,
    State,
    body_schema,
    problems,
    read_model,
)
from enginehouse.gateway.jobs import operations
from enginehouse.gateway.ledger.mirror import queue_counts

router = APIRouter(prefix="/v1", tags=["engines"])

EnginePath = Annotated[str, Path(max_length=64)]


class JobCounts(BaseModel):
    """Jobs of an engine: waiting and running now, ended since the gateway's ledger began."""

    queued: int
    running: int
    succeeded: int
    failed: int


class WorkerCounts(BaseModel):
    """Workers of an engine whose heartbeat lives."""

    idle: int
    running: int


class Queue(BaseModel):
    """What an engine has to do, and who does it."""

    jobs: JobCounts
    workers: WorkerCounts


class EngineView(BaseModel):
    """An engine that the caller may use."""

    id: str
    version: str | None = None
    description: str = ""
    state: str
    reason: str | None = Field(None, description="Why it gets no jobs, or cannot give their results.")
    health: str = Field(description="healthy, unhealthy, asleep (none needed at present), or unknown.")
    queue: Queue | None = None
    card: EngineCard | None = None


class EngineList(BaseModel):
    """All engines that the caller may use."""

    engines: list[EngineView]


def _json(content: Any) -> Response:
    return Response(pydantic_core.to_json(content), media_type="application/json")


async def _health(state: GatewayState, engine: KnownEngine) -> str:
    try:
        workers = await state.engines.read_workers(engine)
    except EnginehouseError:
        return "unknown"
    if any(worker.healthy for worker in workers):
        return "healthy"
    return "asleep" if not workers and engine.card and engine.card.idle_at_zero else "unhealthy"


async def _view(state: GatewayState, engine: KnownEngine, *, whole: bool) -> dict[str, Any]:
    health = await _health(state, engine)
    jobs = await state.ledger.read(queue_counts, engine.id)
    idle = sum(1 for worker in engine.workers if not worker.in_hand)
    view: dict[str, Any] = {
        "id": engine.id,
        "version": engine.card.version if engine.card else None,
        "description": engine.card.description if engine.card else "",
        "state": engine.state,
        "reason": engine.reason or (engine.problem if engine.state == EngineState.ACTIVE else None),
        "health": health,
        "queue": {"jobs": jobs, "workers": {"idle": idle, "running": len(engine.workers) - idle}},
    }
    if whole:
        view["card"] = engine.card
    return view


@router.get("/engines", response_model=EngineList, responses=problems(), dependencies=[NoQueryAllowed])
async def list_engines(state: State, caller: AuthenticatedCaller) -> Response:
    """The engines the caller may use: its own and the shared ones."""
    return _json(
        {"engines": [await _view(state, engine, whole=False) for engine in state.engines.visible_to(caller.name)]}
    )


@router.get("/engines/{engine}", response_model=EngineView, responses=problems(404), dependencies=[NoQueryAllowed])
async def read_engine(state: State, caller: AuthenticatedCaller, engine: EnginePath) -> Response:
    """One engine, with its card: input and output schema, version, limits."""
    return _json(await _view(state, state.engines.resolve(engine, caller.name), whole=True))


@router.get("/engines/{engine}/openapi.json", responses=problems(404), dependencies=[NoQueryAllowed])
async def engine_openapi(state: State, caller: AuthenticatedCaller, engine: EnginePath) -> Response:
    """The engine's own API, as it describes itself."""
    known = state.engines.resolve(engine, caller.name)
    if known.card is None or known.card.openapi is None:
        raise EngineDoesNotExist(f"{known.id} shows no API description")
    return _json(known.card.openapi)


class StateRequest(BaseModel):
    """The body of POST /v1/engines/{engine}/quarantine."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(min_length=1, max_length=500)]


@router.post(
    "/engines/{engine}/quarantine",
    response_model=EngineView,
    responses=problems(403, 404),
    openapi_extra=body_schema(StateRequest),
    dependencies=[NoQueryAllowed],
)
async def quarantine(request: Request, state: State, caller: AdminCaller, engine: EnginePath) -> Response:
    """Stop all delivery to an engine, over restarts too, until it is resumed. Its jobs stay queued."""
    body = await read_model(request, StateRequest)
    return _json(await _view(state, await operations.quarantine(state, engine, body.reason), whole=False))


@router.post(
    "/engines/{engine}/resume", response_model=EngineView, responses=problems(403, 404), dependencies=[NoQueryAllowed]
)
async def resume(state: State, caller: AdminCaller, engine: EnginePath) -> Response:
    """Let an engine have its jobs again, in order."""
    return _json(await _view(state, await operations.resume(state, engine), whole=False))


class Purged(BaseModel):
    """How many jobs a purge canceled."""

    canceled: int


@router.post(
    "/engines/{engine}/purge", response_model=Purged, responses=problems(403, 404), dependencies=[NoQueryAllowed]
)
async def purge(state: State, caller: AdminCaller, engine: EnginePath) -> Response:
    """Cancel every job that waits for an engine."""
    return _json({"canceled": await operations.purge(state, engine)})
