"""Errors of the client: the contracts' exceptions, rebuilt from problem+json, and three of its own."""

import math
from collections.abc import Iterator
from typing import Any

import pydantic_core

from enginehouse.contracts.errors import EnginehouseError, RequestError, Unavailable
from enginehouse.contracts.job import Job


class JobFailed(EnginehouseError):
    """The job ended without a result. `job` is the job; `code` is the reason."""

    retryable = False
    advice = "Submit it again once the reason is gone."

    def __init__(self, job: Job) -> None:
        self.job = job
        # A canceled or expired job may carry no error of its own. Its status is then the reason.
        self.code = job.error.code if job.error else job.status.value.upper()  # type: ignore[misc]
        why = f": {job.error.message}" if job.error else ""
        super().__init__(f"Job {job.id} is {job.status} ({self.code}){why}")


class WaitOver(EnginehouseError, TimeoutError):
    """The job did not end within the time to wait for it. It continues."""

    code = "WAIT_OVER"
    advice = "Wait again with a longer timeout, or cancel the job."


class CannotConnect(Unavailable):
    """Nothing answers at the URL of Enginehouse."""

    code = "CANNOT_CONNECT"
    advice = "Is it running? 'enginehouse up' starts it here; ENGINEHOUSE_URL names another place."


def _below(kind: type[EnginehouseError]) -> Iterator[type[EnginehouseError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def _kind_of(code: str, status: int) -> type[EnginehouseError]:
    kinds: list[type[EnginehouseError]] = [EnginehouseError, *_below(EnginehouseError)]
    of_contracts = [kind for kind in kinds if kind.__module__ == EnginehouseError.__module__]
    fallback: type[EnginehouseError] = EnginehouseError
    if status < 500:
        fallback = RequestError
    elif status in (502, 503, 504):
        fallback = Unavailable
    return next((kind for kind in of_contracts if kind.code == code), fallback)


def retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header, or None if there is none that can be read."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def from_answer(status: int, body: bytes, retry_after_header: str | None) -> EnginehouseError:
    """Return the exception for an answer. An answer that is not problem+json comes from a proxy in between."""
    try:
        problem = pydantic_core.from_json(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        said = "it redirects, so it is not Enginehouse" if 300 <= status < 400 else body[:200].decode(errors="replace")
        problem = {"code": "", "detail": f"HTTP {status}: {said}"}
    return from_problem({**problem, "status": status}, retry_after(retry_after_header))


def from_problem(problem: dict[str, Any], retry_after_seconds: float | None = None) -> EnginehouseError:
    """Return the exception for a problem document. The document's fields override the defaults of the class."""
    status = problem.get("status")
    kind = _kind_of(str(problem.get("code")), status if isinstance(status, int) else 500)
    error = kind(str(problem.get("detail") or ""), retry_after_seconds=retry_after_seconds)
    for name in ("code", "retryable", "advice"):
        if problem.get(name) not in (None, ""):
            setattr(error, name, problem[name])
    return error
