"""Writes JSON answers, and the answers that several routes share."""

from typing import Any

import pydantic_core
from fastapi import Response

from enginehouse.contracts.job import Status
from enginehouse.gateway.intake.submission import AcceptedJob
from enginehouse.gateway.jobs.view import urls


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with `content` as JSON."""
    return Response(pydantic_core.to_json(content), status, headers, "application/json")


def accepted_view(job: AcceptedJob) -> dict[str, Any]:
    """Show a job that was just accepted."""
    return {"id": job.id, "engine": job.engine, "status": Status.QUEUED, "urls": urls(job.id)}


def accepted_answer(job: AcceptedJob) -> Response:
    """Answer 202 with the job that was accepted, and where to find it."""
    return json_answer(accepted_view(job), 202, {"Location": f"/v1/jobs/{job.id}"})
