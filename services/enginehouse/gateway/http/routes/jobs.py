"""/v1/jobs and /v1/engines/{engine}/jobs: submit, read, list, follow, cancel and retry jobs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.convertors import Convertor, register_url_convertor

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import Accepted, Job, JobRequest, RoutedJobRequest, Status
from enginehouse.contracts.names import JOB_ID_PATTERN
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.http.answers import accepted_answer, accepted_view, page_answer
from enginehouse.gateway.http.dependencies import (
    MAX_WAIT_SECONDS,
    AuthenticatedCaller,
    JobId,
    WiredGateway,
    fits,
    idempotency_key,
    read_jobs,
    traceparent_of,
    wait_seconds,
)
from enginehouse.gateway.http.openapi import LOCATION, MAX_KEY_LENGTH, parameters, submit_parameters
from enginehouse.gateway.http.sse import STREAM_HEADERS, EventStream
from enginehouse.gateway.intake.bodies import BATCH_MAX, BATCH_MAX_BYTES, BatchRequest, job_in, jobs_in
from enginehouse.gateway.intake.bodies import Jobs as RequestedJobs
from enginehouse.gateway.intake.requested import RequestedJob
from enginehouse.gateway.intake.submission import AcceptedJob, Submission
from enginehouse.gateway.jobs.follow import LAST
from enginehouse.gateway.jobs.jobs import Jobs
from enginehouse.gateway.ledger.read import Listing
from enginehouse.gateway.tenants.limits import check_not_suspended
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.web.openapi import body_schema, problems
from enginehouse.web.problems import Problem, problem_body
from enginehouse.web.requests import NoQueryAllowed, require_json
from enginehouse.web.responses import json_answer


class _JobSegment(Convertor[str]):
    """Matches a path segment that names a job, but not `batch`, which is a resource of its own."""

    regex = "(?!batch(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        """Return the segment as it is."""
        return value

    def to_string(self, value: str) -> str:
        """Return the segment as it is."""
        return value


register_url_convertor("job", _JobSegment())
router = APIRouter(prefix="/v1", tags=["jobs"])

EnginePath = Annotated[
    str, Path(description="'name' (your own engine, or else the shared one) or '<tenant>--<name>'.", max_length=64)
]
_SUBMIT_RESPONSES = {
    202: {"model": Accepted, "description": "Accepted: the job will reach a final state.", "headers": LOCATION},
    200: {"model": Job, "description": "With Prefer: wait, a job that ended in time.", "headers": LOCATION},
    **problems(403, 404, 409, 410, 413, 415, 429),
}


async def submit_job(request: Request, gateway: Gateway, caller: Caller, engine: str | None) -> Response:
    """Submit the job in the body to `engine`, or to the one that the body names."""
    require_json(request)
    job = await read_jobs(request, caller, job_in, RoutedJobRequest if engine is None else JobRequest)
    submission = Submission(
        caller,
        engine or job.engine or caller.tenant.default_engine,
        job.request,
        idempotency_key(request),
        traceparent=traceparent_of(request),
        input_json=job.input_json,
    )
    return await _submit(request, gateway.jobs, submission)


async def _submit(request: Request, jobs: Jobs, submission: Submission) -> Response:
    seconds = wait_seconds(request)
    if seconds:
        job = await jobs.submit_and_wait(submission, seconds)
        status = 200 if Status(job["status"]).is_final else 202
        return json_answer(job, status, {"Location": f"/v1/jobs/{job['id']}", "Preference-Applied": "wait"})
    return accepted_answer(await jobs.submit(submission))


@router.post(
    "/engines/{engine}/jobs",
    status_code=202,
    responses=_SUBMIT_RESPONSES,
    openapi_extra=body_schema(JobRequest) | submit_parameters("Prefer"),
    dependencies=[NoQueryAllowed],
)
async def submit_to_engine(
    request: Request, gateway: WiredGateway, caller: AuthenticatedCaller, engine: EnginePath
) -> Response:
    """Submit a job to the engine named in the path."""
    return await submit_job(request, gateway, caller, engine)


@router.post(
    "/jobs",
    status_code=202,
    responses=_SUBMIT_RESPONSES,
    openapi_extra=body_schema(RoutedJobRequest) | submit_parameters("Prefer"),
    dependencies=[NoQueryAllowed],
)
async def submit(request: Request, gateway: WiredGateway, caller: AuthenticatedCaller) -> Response:
    """Submit a job to the engine named in the body, or to `standard` if the body names none."""
    return await submit_job(request, gateway, caller, None)


_ACCEPTED_AT_ONCE = 50
_BATCH_KEY_MAX = MAX_KEY_LENGTH - len(f":{BATCH_MAX}")
"""The key of each job of a batch is the batch's key with the job's index."""


class RefusedItem(BaseModel):
    """An item of a batch that was refused."""

    problem: Problem


class BatchAnswer(BaseModel):
    """One answer for each item, in the same order."""

    jobs: list[Accepted | RefusedItem]


@router.post(
    "/jobs/batch",
    status_code=202,
    response_model=BatchAnswer,
    responses=problems(403, 413, 415),
    openapi_extra=body_schema(BatchRequest) | submit_parameters(longest_key=_BATCH_KEY_MAX),
    dependencies=[NoQueryAllowed],
)
async def submit_batch(request: Request, gateway: WiredGateway, caller: AuthenticatedCaller) -> Response:
    """Submit up to 1,000 jobs at once; each is accepted or refused on its own."""
    require_json(request)
    jobs = await read_jobs(request, caller, jobs_in, at_once=BATCH_MAX_BYTES)
    key, traceparent = idempotency_key(request, longest=_BATCH_KEY_MAX), traceparent_of(request)

    async def accept(job: RequestedJob, index: int) -> AcceptedJob:
        submission = Submission(
            caller,
            job.engine or caller.tenant.default_engine,
            job.request,
            f"{key}:{index}" if key else None,
            traceparent=traceparent,
            input_json=job.input_json,
        )
        return await gateway.jobs.submit(submission)

    return await batch_answer(gateway, caller, jobs, accept)


async def batch_answer(
    gateway: Gateway,
    caller: Caller,
    jobs: RequestedJobs,
    accept: Callable[[RequestedJob, int], Awaitable[AcceptedJob]],
) -> Response:
    """Accept each job of a batch by `accept(job, index)`, and answer for each in the same order."""
    check_not_suspended(caller)

    async def one(index: int, job: RequestedJob | EnginehouseError) -> dict[str, Any]:
        try:
            if isinstance(job, EnginehouseError):
                raise job
            return accepted_view(await accept(job, index))
        except EnginehouseError as error:
            return {"problem": problem_body(error)}

    answers: list[dict[str, Any]] = []
    for first in range(0, len(jobs), _ACCEPTED_AT_ONCE):
        part = enumerate(jobs[first : first + _ACCEPTED_AT_ONCE], first)
        # A tenant's batches take turns: all at once they would end no sooner, and fill the ledger's groups.
        async with gateway.batches[caller.name]:
            answers += await asyncio.gather(*(gateway.loop_time.share(caller.name, one(*item)) for item in part))
    return json_answer({"jobs": answers}, 202)


class WaitQuery(BaseModel):
    """Query of GET /v1/jobs/{job_id}."""

    model_config = ConfigDict(extra="forbid")

    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS, description="Seconds to wait for the job to end.")] = 0


@router.get("/jobs/{job_id:job}", response_model=Job, responses=problems(404, 410), openapi_extra=parameters("Prefer"))
async def read_job(
    request: Request,
    gateway: WiredGateway,
    caller: AuthenticatedCaller,
    job_id: JobId,
    query: Annotated[WaitQuery, Query()],
) -> Response:
    """Show a job. With ?wait=SECONDS or Prefer: wait=SECONDS, once it has ended or the time is over."""
    return json_answer(await gateway.jobs.read(caller, job_id, query.wait or wait_seconds(request)))


class ListQuery(BaseModel):
    """Query of GET /v1/jobs."""

    model_config = ConfigDict(extra="forbid")

    engine: Annotated[str, Field(max_length=64)] | None = None
    status: Status | None = None
    cursor: Annotated[str, AfterValidator(fits(JOB_ID_PATTERN))] | None = Field(
        None,
        description="`next_cursor` of the page before.",
        json_schema_extra={"pattern": f"^{JOB_ID_PATTERN}$"},
    )
    limit: Annotated[int, Field(ge=1, le=1_000)] = 50


class JobPage(BaseModel):
    """Jobs, newest first, without their inputs and outputs."""

    jobs: list[Job]
    next_cursor: str | None


@router.get("/jobs", response_model=JobPage, responses=problems(403, 404))
async def list_jobs(
    gateway: WiredGateway, caller: AuthenticatedCaller, query: Annotated[ListQuery, Query()]
) -> Response:
    """List the caller's own jobs, newest first; with ?engine=, those of one engine, also after its removal."""
    listing = Listing(caller.name, query.engine, query.status, query.cursor, query.limit)
    page = await gateway.jobs.list(caller, listing)
    return await page_answer("jobs", page.jobs, gateway.jobs.listed_view, page.next_cursor)


@router.get(
    "/jobs/{job_id:job}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "The follower has seen the last event: it need not come again."},
        **problems(404, 410, 429),
    },
    openapi_extra=parameters("Last-Event-ID"),
    dependencies=[NoQueryAllowed],
)
async def follow_job(request: Request, gateway: WiredGateway, caller: AuthenticatedCaller, job_id: JobId) -> Response:
    """Follow a job by server-sent events: start, the engine's reports, completed. Last-Event-ID resumes."""
    last = request.headers.get("last-event-id", "")
    after = int(last) if last.isascii() and last.isdigit() and len(last) <= 16 else 0
    job = await gateway.followers.find(caller, job_id)  # Answers 404 and 410 before the stream begins.
    if after >= LAST and job.status.is_final:
        return Response(status_code=204, headers=STREAM_HEADERS)  # A browser's EventSource comes again otherwise.
    return EventStream(gateway.followers, caller, job_id, after if after < LAST else 0)


@router.post(
    "/jobs/{job_id:job}/cancel",
    status_code=202,
    response_model=Job,
    responses=problems(404, 409, 410),
    dependencies=[NoQueryAllowed],
)
async def cancel_job(gateway: WiredGateway, caller: AuthenticatedCaller, job_id: JobId) -> Response:
    """Cancel a job: a queued job never runs, and a running job's call to the engine is closed."""
    return json_answer(await gateway.jobs.cancel(caller, job_id), 202)


@router.post(
    "/jobs/{job_id:job}/retry",
    status_code=202,
    responses={202: {"model": Accepted, "headers": LOCATION}, **problems(403, 404, 409, 410, 413, 429)},
    openapi_extra=submit_parameters(),
    dependencies=[NoQueryAllowed],
)
async def retry_job(request: Request, gateway: WiredGateway, caller: AuthenticatedCaller, job_id: JobId) -> Response:
    """Submit the same input again, as a new job."""
    accepted = await gateway.jobs.retry(
        caller, job_id, traceparent=traceparent_of(request), idempotency_key=idempotency_key(request)
    )
    return accepted_answer(accepted)
