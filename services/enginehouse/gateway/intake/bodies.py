"""Reads the bodies of requests and events: small ones at once, large ones in a process bounded in time and memory."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from enginehouse.checkers import Checkers, TooCostly
from enginehouse.contracts.engine import INLINE_MAX_BYTES
from enginehouse.contracts.errors import EnginehouseError, InputTooLarge
from enginehouse.contracts.job import JobRequest, RoutedJobRequest
from enginehouse.contracts.json_text import read_body, validated, wire_json
from enginehouse.gateway.intake.requested import RequestedJob, check_parameters

_CPU_SECONDS = 10.0
"""Most processor time for one body. The most costly 8 MiB that still fit the memory take about half of that."""
_ONE_MAX_BYTES = 16 * 1024
"""A body of one job up to this size is read at once: even if it is all small objects, that takes about a millisecond."""
BATCH_MAX_BYTES = INLINE_MAX_BYTES
"""A batch up to this size is read at once: its jobs would take longer to come back from a process than to read."""
BATCH_MAX = 1_000
_HINTS_MAX = 5
"""Items of a batch that are told the nearest name of a field that does not exist: to find it costs more than all the rest."""
Jobs = list[RequestedJob | EnginehouseError]
"""The jobs of a batch. An error stands in the place of one that cannot be accepted."""
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Item = TypeVar("Item")


class BatchRequest(BaseModel):
    """The body of POST /v1/jobs/batch."""

    model_config = ConfigDict(extra="forbid")

    jobs: Annotated[list[Any], Field(min_length=1, max_length=BATCH_MAX, description="Bodies of POST /v1/jobs.")]


class Bodies:
    """Reads what senders send. Only small bodies are ever parsed in the gateway's own process."""

    def __init__(self, checkers: Checkers) -> None:
        self._checkers = checkers

    async def read(
        self, tenant: str, read: Callable[..., T], body: bytes, *more: Any, at_once: int = _ONE_MAX_BYTES
    ) -> T:
        """Return `read(body, *more)`, with the inputs of a body above `at_once` bytes as JSON text.

        `read` is a function of a module. Raise RequestError, naming the fault.
        """
        if len(body) <= at_once:
            return read(body, *more)
        try:
            return await self._checkers.run(tenant, _CPU_SECONDS, _read_apart, read, body, *more)
        except TooCostly:
            raise InputTooLarge(
                f"The body has {len(body)} bytes, and reading it took more than {_CPU_SECONDS:g} s of processor time or "
                "too much memory; send fewer and larger values"
            ) from None


def _read_apart(read: Callable[..., T], body: bytes, *more: Any) -> T:
    found: T = _without_values(read(body, *more))
    return found


def _without_values(found: Any) -> Any:
    """Put inputs as checked JSON text into the place of their values, wherever jobs are found."""
    if isinstance(found, list):
        return [_compact_item(item) for item in found]
    return _compact(found) if isinstance(found, RequestedJob) else found


def _compact(job: RequestedJob) -> RequestedJob:
    request = job.request
    check_parameters(request)
    if request.input is None and request.input_ref is not None:
        return job
    input_json = wire_json("input", request.input)
    return job._replace(request=request.model_copy(update={"input": None}), input_json=input_json)


def _compact_item(job: RequestedJob | EnginehouseError) -> RequestedJob | EnginehouseError:
    if isinstance(job, EnginehouseError):
        return job
    try:
        return _compact(job)
    except EnginehouseError as error:
        return error


def job_in(body: bytes, model: type[JobRequest]) -> RequestedJob:
    """Read the body of a submit; raise RequestError, naming the fields that do not fit."""
    return _requested(read_body(model, body))


def jobs_in(body: bytes) -> Jobs:
    """Read the body of a batch; raise RequestError if it is none. Each of its jobs is read on its own."""
    return each_job(
        read_body(BatchRequest, body).jobs, lambda item, hint: _requested(validated(RoutedJobRequest, item, hint=hint))
    )


def each_job(items: Iterable[Item], read: Callable[[Item, bool], RequestedJob]) -> Jobs:
    """Return `read(item, hint)` for each item of a batch, or the error with which it refuses the item.

    `hint` says whether a refusal may name the nearest field.
    """
    jobs: Jobs = []
    refused = 0
    for item in items:
        try:
            jobs.append(read(item, refused < _HINTS_MAX))
        except EnginehouseError as error:
            jobs.append(error)
            refused += 1
    return jobs


def _requested(request: JobRequest) -> RequestedJob:
    engine = request.engine if isinstance(request, RoutedJobRequest) else None
    return RequestedJob(engine or "", request)
