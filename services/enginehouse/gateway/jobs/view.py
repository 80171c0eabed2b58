"""Shows a job's row to its owner."""

from datetime import datetime
from typing import Any, TypedDict

import pydantic_core

from enginehouse.contracts.job import JobError, Metrics, Status, StatusReason
from enginehouse.contracts.moments import moment_of
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.ledger.rows import JobRow


class WebhookView(TypedDict):
    """A webhook of a job, with the state of its delivery."""

    event: str
    state: str
    attempts: int
    last_error: str | None


class JobView(TypedDict, total=False):
    """The known fields of `contracts.job.Job`, which are written as JSON without another check."""

    id: str
    engine: str
    version: str | None
    status: Status
    status_reason: StatusReason | None
    status_detail: str | None
    input: Any
    input_ref: str | None
    input_url: str
    output: Any
    output_url: str
    error: JobError | None
    attempts: int
    metrics: Metrics
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    cancel_requested: bool
    dead_lettered: bool
    retry_of: str | None
    retried_as: str | None
    webhooks: list[WebhookView]
    urls: dict[str, str]


def urls(job_id: str) -> dict[str, str]:
    """Return the paths to read, follow and cancel a job."""
    path = f"/v1/jobs/{job_id}"
    return {"get": path, "events": f"{path}/events", "cancel": f"{path}/cancel"}


def _json(text: str | None) -> Any:
    return None if text is None else pydantic_core.from_json(text)


def _reason(row: JobRow, engine: KnownEngine | None) -> StatusReason | None:
    """Explain why a queued job does not run yet; None for other jobs. A pause of its engine is named first."""
    if row.status is not Status.QUEUED:
        return None
    if engine is None or engine.takes_no_jobs:
        return StatusReason.ENGINE_PAUSED
    if row.status_reason:
        return row.status_reason
    if engine.is_asleep:
        return StatusReason.ENGINE_ASLEEP
    return StatusReason.WAITING_FOR_WORKER


def job_view(row: JobRow, engine: KnownEngine | None, *, with_input: bool = True) -> JobView:
    """Show a job to its owner."""
    reason = _reason(row, engine)
    queue_time = max(0.0, round(row.started_at - row.created_at, 6)) if row.started_at else None
    view = JobView(
        id=row.id,
        engine=row.engine,
        version=row.version,
        status=row.status,
        status_reason=reason,
        status_detail=engine.wait_reason if engine and reason is StatusReason.ENGINE_PAUSED else None,
        output=_json(row.output),
        error=row.error,
        attempts=row.attempts,
        metrics=Metrics(queue_time=queue_time, predict_time=row.predict_time and round(row.predict_time, 6)),
        created_at=moment_of(row.created_at),
        started_at=moment_of(row.started_at),
        finished_at=moment_of(row.finished_at),
        expires_at=moment_of(row.result_expires_at),
        cancel_requested=row.cancel_requested,
        dead_lettered=row.dead_lettered,
        retry_of=row.retry_of,
        retried_as=row.retried_as,
        urls=urls(row.id),
    )
    if with_input:
        view["input"] = _json(row.input)
        view["input_ref"] = row.input_ref
    return view
