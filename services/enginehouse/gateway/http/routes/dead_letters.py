"""/v1/dead-letters: what was given up, with the reason of each."""

import struct
from typing import Annotated, Any

import pydantic_core
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from enginehouse.contracts.errors import Forbidden, NotFound, RequestError
from enginehouse.contracts.job import Accepted, JobError
from enginehouse.gateway.gateway import GatewayState
from enginehouse.gateway.handover.dispatch import event_of
from enginehouse.gateway.http.dependencies import AuthenticatedCaller, NoQueryAllowed, State, problems, traceparent_of
from enginehouse.gateway.http.routes.jobs import accepted_view, idempotency_key
from enginehouse.gateway.jobs.view import moment
from enginehouse.gateway.ledger import read
from enginehouse.gateway.tenants.tenants import Caller

router = APIRouter(prefix="/v1", tags=["dead letters"])

LetterPath = Annotated[
    str, Path(pattern="^[0-9a-f-]{1,64}$", description="Its id: the job's, for a job's dead letter.")
]


class DeadLetterDoesNotExist(NotFound):
    """No such dead letter."""

    code = "DEAD_LETTER_DOES_NOT_EXIST"
    advice = "GET /v1/dead-letters lists them."


class DeadLetterView(BaseModel):
    """Something that was given up."""

    id: str
    engine: str | None
    job_id: str | None
    reason: str
    attempts: int
    error: JobError | None
    event: str | None = Field(None, description="What was delivered, as text; only when one is asked for.")
    created_at: AwareDatetime
    redriven_as: str | None


class DeadLetterPage(BaseModel):
    """Dead letters, without their events."""

    dead_letters: list[DeadLetterView]
    next_cursor: str | None


class DeadLetterQuery(BaseModel):
    """Query of GET /v1/dead-letters."""

    model_config = ConfigDict(extra="forbid")

    unparsable: bool = Field(False, description="What nobody could parse, and so is nobody's: administrators only.")
    cursor: (
        Annotated[
            str, Field(pattern=r"^[0-9a-f]{16}-[0-9a-f-]{1,64}$", description="`next_cursor` of the page before.")
        ]
        | None
    ) = None
    limit: Annotated[int, Field(ge=1, le=1_000)] = 50


def _cursor(row: Any) -> str:
    """Where a page ended: by time, since ids of what was no job say nothing of it; exactly, so as bits."""
    return f"{struct.pack('>d', row.created_at).hex()}-{row.id}"


def _after(cursor: str) -> tuple[float, str]:
    moment, _, letter_id = cursor.partition("-")
    return struct.unpack(">d", bytes.fromhex(moment))[0], letter_id


def _view(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "engine": row.engine,
        "job_id": row.job_id,
        "reason": row.reason,
        "attempts": row.attempts,
        "error": pydantic_core.from_json(row.error) if row.error else None,
        "event": getattr(row, "event", None),
        "created_at": moment(row.created_at),
        "redriven_as": row.redriven_as,
    }


async def _own(state: GatewayState, caller: Caller, letter_id: str) -> Any:
    row = await state.ledger.read(read.dead_letter, letter_id)
    is_admin = caller.key is not None and caller.key.admin
    if row is None or (row.tenant != caller.name and not (row.tenant is None and is_admin)):
        raise DeadLetterDoesNotExist(f"No dead letter {letter_id} of {caller.name}")
    return row


@router.get("/dead-letters", response_model=DeadLetterPage, responses=problems(403))
async def list_dead_letters(
    state: State, caller: AuthenticatedCaller, query: Annotated[DeadLetterQuery, Query()]
) -> Response:
    """The caller's dead letters, newest first."""
    if query.unparsable and (caller.key is None or not caller.key.admin):
        raise Forbidden("What nobody could parse is shown to administrators only")
    tenant = None if query.unparsable else caller.name
    after = _after(query.cursor) if query.cursor else None
    rows = await state.ledger.read(read.list_dead_letters, tenant, after, query.limit)
    page = {
        "dead_letters": [_view(row) for row in rows],
        "next_cursor": _cursor(rows[-1]) if len(rows) == query.limit else None,
    }
    return Response(pydantic_core.to_json(page), media_type="application/json")


@router.get(
    "/dead-letters/{letter_id}", response_model=DeadLetterView, responses=problems(404), dependencies=[NoQueryAllowed]
)
async def read_dead_letter(state: State, caller: AuthenticatedCaller, letter_id: LetterPath) -> Response:
    """One dead letter, with the event: as a job's last attempt was handed over, or what could not become a job."""
    row = await _own(state, caller, letter_id)
    view = _view(row)
    job = await state.ledger.read(read.job, row.job_id) if row.job_id else None
    if job is not None:
        # Without signed URLs: the attempt they were made for is over.
        view["event"] = await event_of({**job._asdict(), "attempts": max(job.attempts - 1, 0)}, None, 0)
    return Response(pydantic_core.to_json(view), media_type="application/json")


@router.post(
    "/dead-letters/{letter_id}/redrive",
    status_code=202,
    response_model=Accepted,
    responses=problems(404, 409, 410, 413, 429),
    dependencies=[NoQueryAllowed],
)
async def redrive(request: Request, state: State, caller: AuthenticatedCaller, letter_id: LetterPath) -> Response:
    """Submit the job again, as a new one; once."""
    row = await _own(state, caller, letter_id)
    if row.job_id is None:
        raise RequestError("This was never a job: nobody could parse it. Publish it again, corrected")
    accepted = await state.jobs.retry(caller, row.job_id, traceparent_of(request), idempotency_key(request), row.id)
    headers = {"Location": f"/v1/jobs/{accepted.id}"}
    return Response(pydantic_core.to_json(accepted_view(accepted)), 202, headers, "application/json")


@router.post(
    "/dead-letters/{letter_id}/discard", status_code=204, responses=problems(404), dependencies=[NoQueryAllowed]
)
async def discard(state: State, caller: AuthenticatedCaller, letter_id: LetterPath) -> Response:
    """Delete a dead letter; its job keeps its state."""
    row = await _own(state, caller, letter_id)
    await state.ledger.discard_dead_letter(row.id)
    return Response(status_code=204)
