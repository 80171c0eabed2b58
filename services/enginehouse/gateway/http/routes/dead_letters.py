"""/v1/dead-letters: jobs and deliveries that were given up, each with its reason."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from enginehouse.contracts.job import Accepted, JobError
from enginehouse.contracts.moments import moment_of
from enginehouse.gateway.http.answers import accepted_answer, page_answer
from enginehouse.gateway.http.dependencies import AuthenticatedCaller, WiredGateway, idempotency_key, traceparent_of
from enginehouse.gateway.http.openapi import LOCATION, submit_parameters
from enginehouse.gateway.jobs.dead_letters import CURSOR_PATTERN, check_cursor
from enginehouse.gateway.ledger.rows import DeadLetterRow
from enginehouse.web.openapi import problems
from enginehouse.web.requests import NoQueryAllowed
from enginehouse.web.responses import json_answer

router = APIRouter(prefix="/v1", tags=["dead letters"])

LetterPath = Annotated[
    str, Path(pattern="^[0-9a-f-]{1,64}$", description="Id of the dead letter; for a job's dead letter, the job's id.")
]


class DeadLetterView(BaseModel):
    """A job or delivery that was given up."""

    id: str
    engine: str | None
    job_id: str | None
    reason: str
    attempts: int
    error: JobError | None
    event: str | None = Field(None, description="The event as text; only if a single dead letter is read.")
    created_at: AwareDatetime
    redriven_as: str | None


class DeadLetterPage(BaseModel):
    """Dead letters, without their events."""

    dead_letters: list[DeadLetterView]
    next_cursor: str | None


class DeadLetterQuery(BaseModel):
    """Query of GET /v1/dead-letters."""

    model_config = ConfigDict(extra="forbid")

    unparsable: bool = Field(
        False, description="List deliveries that nobody could parse, which belong to no tenant: administrators only."
    )
    cursor: Annotated[str, AfterValidator(check_cursor)] | None = Field(
        None,
        description="`next_cursor` of the page before.",
        json_schema_extra={"pattern": f"^{CURSOR_PATTERN}$"},
    )
    limit: Annotated[int, Field(ge=1, le=1_000)] = 50


def _view(row: DeadLetterRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "engine": row.engine,
        "job_id": row.job_id,
        "reason": row.reason,
        "attempts": row.attempts,
        "error": row.error,
        "event": row.event,
        "created_at": moment_of(row.created_at),
        "redriven_as": row.redriven_as,
    }


@router.get("/dead-letters", response_model=DeadLetterPage, responses=problems(403))
async def list_dead_letters(
    gateway: WiredGateway, caller: AuthenticatedCaller, query: Annotated[DeadLetterQuery, Query()]
) -> Response:
    """List the caller's dead letters, newest first."""
    page = await gateway.dead_letters.list(caller, unparsable=query.unparsable, cursor=query.cursor, limit=query.limit)
    return await page_answer("dead_letters", page.letters, _view, page.next_cursor)


@router.get(
    "/dead-letters/{letter_id}", response_model=DeadLetterView, responses=problems(404), dependencies=[NoQueryAllowed]
)
async def read_dead_letter(gateway: WiredGateway, caller: AuthenticatedCaller, letter_id: LetterPath) -> Response:
    """Show one dead letter with its event: the job's, as it would be handed over again but without URLs, or the delivery that became no job."""
    return json_answer(_view(await gateway.dead_letters.read(caller, letter_id)))


@router.post(
    "/dead-letters/{letter_id}/redrive",
    status_code=202,
    responses={202: {"model": Accepted, "headers": LOCATION}, **problems(403, 404, 409, 410, 413, 429)},
    openapi_extra=submit_parameters(),
    dependencies=[NoQueryAllowed],
)
async def redrive(
    request: Request, gateway: WiredGateway, caller: AuthenticatedCaller, letter_id: LetterPath
) -> Response:
    """Submit the job of a dead letter again, as a new job. This is possible once."""
    accepted = await gateway.dead_letters.redrive(
        caller, letter_id, traceparent=traceparent_of(request), idempotency_key=idempotency_key(request)
    )
    return accepted_answer(accepted)


@router.post(
    "/dead-letters/{letter_id}/discard", status_code=204, responses=problems(404), dependencies=[NoQueryAllowed]
)
async def discard(gateway: WiredGateway, caller: AuthenticatedCaller, letter_id: LetterPath) -> Response:
    """Delete a dead letter; its job keeps its state."""
    await gateway.dead_letters.discard(caller, letter_id)
    return Response(status_code=204)
