"""/v1/audit: shows tenants what was done by them or to what is theirs, and operators what everybody did."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from enginehouse.audit.read import CURSOR_PATTERN, check_cursor
from enginehouse.audit.read import Query as Wanted
from enginehouse.contracts.audit import ChainedEntry
from enginehouse.contracts.errors import Forbidden
from enginehouse.contracts.moments import moment_of, seconds_of
from enginehouse.contracts.names import JOB_ID_PATTERN
from enginehouse.contracts.text import StorableText
from enginehouse.gateway.http.answers import page_answer
from enginehouse.gateway.http.dependencies import AuthenticatedCaller, WiredGateway
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.web.openapi import problems

router = APIRouter(prefix="/v1", tags=["operations"])


def _written(moment: object) -> object:
    """Refuse a number of seconds, which pydantic would take for a moment."""
    if isinstance(moment, str) and moment.lstrip("+-").replace(".", "", 1).isdigit():
        raise ValueError("it must be a moment with its time zone, such as 2026-11-26T12:00:00Z")
    return moment


Moment = Annotated[AwareDatetime, BeforeValidator(_written)]


class AuditEntryView(BaseModel):
    """A call, an administrative act, or the end of a job."""

    writer: str = Field(description="Name of the chain that has the entry: of a gateway, the registry, or commands.")
    number: int = Field(description="Its place in that chain, from 1.")
    at: AwareDatetime = Field(description="When it was over.")
    action: str = Field(description="Method and route, command, or what a part did: `job ended`.")
    outcome: str = Field(description="`ok`, the code of the problem, or the final status of a job.")
    by: str | None = Field(description="Tenant of the key that was shown.")
    key: str | None = Field(
        description="First characters of that key. Of another tenant's key, only operators see them."
    )
    user: str | None = Field(description="User of the machine who gave a command. Only operators see it.")
    tenant: str | None = Field(description="Tenant whom it concerns.")
    engine: str | None
    version: str | None = Field(description="Version of the engine that worked on the job.")
    job: str | None
    status: int | None = Field(description="HTTP status of the answer.")
    ms: float | None = Field(description="How long it took, in ms; for the end of a job, since it was accepted.")
    request_id: str | None = Field(description="X-Request-Id of the answer.")
    times: int = Field(description="How many of its kind the entry stands for.")
    detail: str | None = Field(
        description="What an act changed, by names only; for a job that failed, the code of its error."
    )


class AuditPage(BaseModel):
    """Entries of the audit log, newest first."""

    entries: list[AuditEntryView]
    next_cursor: str | None = Field(
        description="Where to go on. A page may have few entries, or none, and yet a cursor."
    )


class AuditQuery(BaseModel):
    """Query of GET /v1/audit."""

    model_config = ConfigDict(extra="forbid")

    tenant: Annotated[StorableText, Field(max_length=64)] | None = Field(
        None, description="Only what was done by this tenant or concerns it; of another tenant, for operators only."
    )
    engine: Annotated[StorableText, Field(max_length=64)] | None = Field(None, description="`<tenant>--<engine>`.")
    job: Annotated[str, Field(pattern=f"^{JOB_ID_PATTERN}$")] | None = None
    action: Annotated[StorableText, Field(max_length=100)] | None = Field(
        None, description="A part of the action: `quarantine`, `DELETE`, `job ended`."
    )
    outcome: Annotated[StorableText, Field(max_length=64)] | None = None
    since: Moment | None = None
    until: Moment | None = None
    cursor: Annotated[str, AfterValidator(check_cursor)] | None = Field(
        None, description="`next_cursor` of the page before.", json_schema_extra={"pattern": f"^{CURSOR_PATTERN}$"}
    )
    limit: Annotated[int, Field(ge=1, le=1_000)] = 50


@router.get("/audit", response_model=AuditPage, responses=problems(403))
async def read_audit(
    gateway: WiredGateway, caller: AuthenticatedCaller, query: Annotated[AuditQuery, Query()]
) -> Response:
    """List what was done: a tenant sees what it did and what concerns it; operators see all."""
    if not caller.is_admin and query.tenant not in (None, caller.name):
        raise Forbidden("Only operators see what concerns other tenants")
    wanted = Wanted(
        concerns=None if caller.is_admin else caller.name,
        tenant=query.tenant,
        engine=query.engine,
        job=query.job,
        action=query.action,
        outcome=query.outcome,
        since=seconds_of(query.since),
        until=seconds_of(query.until),
    )
    page = await gateway.audit.read(wanted, query.cursor, query.limit)
    return await page_answer("entries", page.entries, lambda found: _view(found, caller), page.next_cursor)


def _view(found: ChainedEntry, caller: Caller) -> dict[str, object]:
    entry = found.entry
    sees_who = caller.is_admin or entry.by == caller.name
    return {
        "writer": found.writer,
        "number": found.number,
        "at": moment_of(entry.at),
        "action": entry.action,
        "outcome": entry.outcome,
        "by": entry.by,
        "key": entry.key if sees_who else None,
        "user": entry.user if caller.is_admin else None,
        "tenant": entry.tenant,
        "engine": entry.engine,
        "version": entry.version,
        "job": entry.job,
        "status": entry.status,
        "ms": entry.ms,
        "request_id": entry.request_id if sees_who else None,
        "times": entry.times,
        "detail": entry.detail,
    }
