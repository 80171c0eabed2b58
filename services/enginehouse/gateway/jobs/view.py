"""Shows a job's row to its owner."""

from datetime import datetime
from typing import Any, TypedDict

import pydantic_core

from enginehouse.contracts.job import JobError, Status, StatusReason
from enginehouse.contracts.moments import moment_of
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.ledger.rows import JobRow, ListedJob


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
    image: str | None
    status: str
    status_reason: str | None
    status_detail: str | None
    input: Any
    input_ref: str | None
    input_url: str
    output: Any
    output_url: str
    error: JobError | dict[str, Any] | None
    attempts: int
    metrics: dict[str, float | None]
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


_KNOWN_REASONS = frozenset(StatusReason)
"""A gateway of a newer version may have stored a reason that this one does not know: it shows none."""


def _json(text: str | None) -> Any:
    return None if text is None else pydantic_core.from_json(text)


def _reason(row: JobRow | ListedJob, engine: KnownEngine | None) -> str | None:
    """Explain why a queued job does not run yet; None for other jobs. A pause of its engine is named first."""
    if row.status != Status.QUEUED:
        return None
    if engine is None or engine.takes_no_jobs:
        return StatusReason.ENGINE_PAUSED
    if row.status_reason in _KNOWN_REASONS:
        return row.status_reason
    if engine.is_asleep:
        return StatusReason.ENGINE_ASLEEP
    return StatusReason.WAITING_FOR_WORKER


def listed_view(row: ListedJob, engine: KnownEngine | None) -> JobView:
    """Show a job in a listing, without its input and output."""
    return _view(row, engine, output=None, error=_json(row.error))


def job_view(row: JobRow, engine: KnownEngine | None) -> JobView:
    """Show a job to its owner."""
    view = _view(row, engine, output=_json(row.output), error=row.error)
    view["input"] = _json(row.input)
    view["input_ref"] = row.input_ref
    view["image"] = row.image
    return view


def _view(row: JobRow | ListedJob, engine: KnownEngine | None, *, output: Any, error: Any) -> JobView:
    reason = _reason(row, engine)
    queue_time = max(0.0, round(row.started_at - row.created_at, 6)) if row.started_at else None
    return JobView(
        id=row.id,
        engine=row.engine,
        version=row.version,
        status=row.status,
        status_reason=reason,
        status_detail=engine.wait_reason if engine and reason == StatusReason.ENGINE_PAUSED else None,
        output=output,
        error=error,
        attempts=row.attempts,
        metrics={"queue_time": queue_time, "predict_time": row.predict_time and round(row.predict_time, 6)},
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
