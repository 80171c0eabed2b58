"""A job's row, as its owner sees it."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pydantic_core

from enginehouse.contracts.job import Status, StatusReason
from enginehouse.gateway.engines.catalogue import KnownEngine


def moment(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as a moment in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def urls(job_id: str) -> dict[str, str]:
    """Where a job can be read, followed and canceled."""
    path = f"/v1/jobs/{job_id}"
    return {"get": path, "events": f"{path}/events", "cancel": f"{path}/cancel"}


def _json(text: str | None) -> Any:
    return None if text is None else pydantic_core.from_json(text)


def _reason(row: Mapping[str, Any], engine: KnownEngine | None) -> str | None:
    """Why a queued job is not running yet. A pause holds back all jobs, whatever else is stored about one."""
    if row["status"] != Status.QUEUED.value:
        return None
    if engine is None or engine.takes_no_jobs:
        return StatusReason.ENGINE_PAUSED
    if row["status_reason"]:
        return str(row["status_reason"])
    if not engine.workers and engine.card and engine.card.idle_at_zero:
        return StatusReason.ENGINE_ASLEEP
    return StatusReason.WAITING_FOR_WORKER


def job_view(row: Mapping[str, Any], engine: KnownEngine | None, *, with_input: bool = True) -> dict[str, Any]:
    """The fields of `contracts.job.Job`, ready to be written as JSON."""
    started, finished, created = row["started_at"], row["finished_at"], row["created_at"]
    view = {
        "id": row["id"],
        "engine": row["engine"],
        "version": row["version"],
        "status": row["status"],
        "status_reason": _reason(row, engine),
        "output": _json(row.get("output")),
        "error": _json(row["error"]),
        "attempts": row["attempts"],
        "metrics": {
            "queue_time": max(0.0, round(started - created, 6)) if started else None,
            "predict_time": row["predict_time"] and round(row["predict_time"], 6),
        },
        "created_at": moment(created),
        "started_at": moment(started),
        "finished_at": moment(finished),
        "expires_at": moment(row["result_expires_at"]),
        "cancel_requested": bool(row["cancel_requested"]),
        "dead_lettered": bool(row["dead_lettered"]),
        "retry_of": row["retry_of"],
        "retried_as": row["retried_as"],
        "urls": urls(row["id"]),
    }
    if with_input:
        view["input"] = _json(row.get("input"))
        view["input_ref"] = row["input_ref"]
    return view


def is_expired(row: Mapping[str, Any]) -> bool:
    """Whether a job's result is past its time."""
    return row["result_expires_at"] is not None and row["result_expires_at"] <= time.time()
