"""Derived from `async_client.py` by `make fix`: do not edit."""

import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import httpx2
import pydantic_core

from enginehouse.client.errors import JobFailed, WaitOver, from_problem
from enginehouse.client.models import (
    BatchAnswer,
    BatchJob,
    EngineInfo,
    EnginePage,
    JobNews,
    JobPage,
    SubmitOptions,
    Upload,
)
from enginehouse.client.retries import RetryPlan
from enginehouse.client.sync_operations import Operations, path_part
from enginehouse.client.sync_transport import Transport
from enginehouse.contracts.errors import EnginehouseError, JobIsFinal
from enginehouse.contracts.job import Accepted, Job, Status
from enginehouse.contracts.json_text import upload_json
from enginehouse.contracts.text import header_text
from enginehouse.homes import find_access

_LONGEST_WAIT_SECONDS = 60.0
"""Longest wait that the server allows in one request. A longer wait takes several requests."""

_BATCH_MAX = 1_000
_ENGINES_AT_ONCE = 1_000
"""Most jobs that the server takes in one request."""


class Handle:
    """A submitted job. `job` is its last known state, or None before the first look."""

    def __init__(self, client: "Client", job_id: str, engine: str, job: Job | None = None) -> None:
        self._client = client
        self.id = job_id
        self.engine = engine
        self.job = job

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.engine}: {self.job.status if self.job else 'submitted'}>"

    @property
    def done(self) -> bool:
        """Whether the last known state of the job is final."""
        return self.job is not None and self.job.status.is_final

    def refresh(self) -> Job:
        """Ask for the job's present state."""
        self.job = self._client.job(self.id)
        return self.job

    def wait(self, timeout_seconds: float | None = None) -> Job:
        """Wait until the job has ended, and return it. Raise WaitOver after `timeout_seconds`; None: no limit."""
        if self.job is None or not self.job.status.is_final:
            self.job = self._client.wait(self.id, timeout_seconds)
        return self.job

    def result(self, timeout_seconds: float | None = None) -> Any:
        """Wait for the job's output, and return it. Raise JobFailed if the job ends without one.

        >>> with Client() as client:
        ...     handle = client.submit("standard", {"text": "I love it"})
        ...     handle.result(timeout_seconds=30)["label"]
        'positive'
        """
        job = self.wait(timeout_seconds)
        if job.status is not Status.SUCCEEDED:
            raise JobFailed(job)
        return self._client.output(job)

    def events(self) -> Iterator[JobNews]:
        """Return the job's events as they come, until it has ended. See `client.events`."""
        for news in self._client.events(self.id):
            if news.kind == "completed":
                self.job = Job.model_validate(news.data)
            yield news

    def cancel(self) -> Job:
        """Cancel the job. Raise JobIsFinal if it has already ended otherwise."""
        self.job = self._client.cancel(self.id)
        return self.job

    def retry(self, *, idempotency_key: str | None = None) -> "Handle":
        """Submit the same input as a new job. This job keeps its state. See `client.retry`."""
        return self._client.retry(self.id, idempotency_key=idempotency_key)


class Client(Operations):
    """Connects to Enginehouse as one tenant. Make one client, use it for everything, close it.

    Threads, event loops and forked processes may share it.

    `url` and `api_key` default to ENGINEHOUSE_URL and ENGINEHOUSE_API_KEY, and those to what `enginehouse up` wrote into
    its home. `home` defaults to ENGINEHOUSE_HOME, and that to the nearest `.enginehouse` in the present folder or one
    above it. The key of a home is sent to the URL of that home only.

    A request that may safely be sent twice is repeated when the connection breaks or the server asks for it. This
    includes `submit`, because it carries an Idempotency-Key.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        home: Path | None = None,
        timeout_seconds: float = 30,
        retries: RetryPlan | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url, key = find_access(url, api_key, home)
        self._transport = Transport(self.url, key, timeout_seconds, retries or RetryPlan(), transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections of this process."""
        self._transport.close()

    def submit(
        self,
        engine: str | None,
        input: Any = None,  # noqa: A002 - the API and the engines call it so
        *,
        idempotency_key: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Handle:
        """Submit a job to `engine` ('name' or '<tenant>--<name>'; None: your default engine). When this returns, the job will reach a final state.

        `input` must fit the engine's card. It may be anything that can be written as JSON, also a pydantic model.

        >>> with Client() as client:
        ...     handle = client.submit("standard", {"text": "So so."}, priority=9, max_time_in_queue_seconds=60)
        ...     handle.wait(timeout_seconds=30).status.value
        'succeeded'
        """
        return self._submit(engine, input, idempotency_key, 0, options)

    def run(
        self,
        engine: str | None = None,
        input: Any = None,  # noqa: A002
        *,
        timeout_seconds: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Any:
        """Submit a job and return its output; a quick job takes one round trip. May raise JobFailed or WaitOver.

        Without `engine` it is your default engine: `standard`, unless your operator set another.

        >>> with Client() as client:
        ...     client.run("standard", {"text": "This is terrible!"}, timeout_seconds=30)["label"]
        'negative'
        """
        deadline = _deadline(timeout_seconds)
        handle = self._submit(engine, input, None, _wait_until(deadline), options)
        return handle.result(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def job(self, job_id: str) -> Job:
        """Return a job's present state."""
        return self._get(Job, f"/v1/jobs/{path_part(job_id)}")

    def handle(self, job_id: str) -> Handle:
        """Return a handle of a job that was submitted before."""
        job = self.job(job_id)
        return Handle(self, job.id, job.engine, job)

    def wait(self, job_id: str, timeout_seconds: float | None = None) -> Job:
        """Wait until a job has ended, and return it. Raise WaitOver after `timeout_seconds`; None: no limit."""
        deadline = _deadline(timeout_seconds)
        while True:
            seconds = _wait_until(deadline)
            job = self._get(Job, f"/v1/jobs/{path_part(job_id)}", {"wait": f"{seconds:.3f}"}, wait_seconds=seconds)
            if job.status.is_final:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitOver(_still_waiting(job))

    def jobs(
        self, *, engine: str | None = None, status: Status | str | None = None, limit: int | None = None
    ) -> Iterator[Job]:
        """Return your jobs, newest first, without inputs and outputs; at most `limit`.

        >>> with Client() as client:
        ...     for job in client.jobs(engine="standard", limit=1):
        ...         print(job.engine)
        shared--standard
        """
        query = {"engine": engine, "status": str(status) if status else None}
        yield from self._paged(JobPage, lambda page: page.jobs, "/v1/jobs", query, limit)

    def events(self, job_id: str) -> Iterator[JobNews]:
        """Return the events of a job as they come: start, events from its engine, and `completed` as the last.

        If the connection breaks, a new one continues after the last event that came.

        >>> with Client() as client:
        ...     handle = client.submit("standard", {"text": "I love it"})
        ...     for news in handle.events():
        ...         if news.kind == "completed":
        ...             news.data["output"]["label"]
        'positive'
        """
        yield from self._transport.events(f"/v1/jobs/{path_part(job_id)}/events")

    def output(self, job: Job) -> Any:
        """Return the output of a job that has succeeded. A large output is fetched from the object store."""
        if job.output_url is None:
            return job.output
        return pydantic_core.from_json(self._transport.request("GET", job.output_url, signed=True))

    def submit_batch(
        self, jobs: Sequence[BatchJob], *, idempotency_key: str | None = None
    ) -> "list[Handle | EnginehouseError]":
        """Submit many jobs, up to 1,000 per request. Return for each, in order, its handle or the error of its refusal.

        >>> with Client() as client:
        ...     texts = ["I love it", "I hate it"]
        ...     handles = client.submit_batch([{"engine": "standard", "input": {"text": text}} for text in texts])
        ...     for handle in handles:
        ...         if isinstance(handle, Handle):
        ...             handle.result(timeout_seconds=30)["label"]
        'positive'
        'negative'
        """
        key = _key_header(idempotency_key)["idempotency-key"]
        answers: list[Handle | EnginehouseError] = []
        for start in range(0, len(jobs), _BATCH_MAX):
            body = {"jobs": jobs[start : start + _BATCH_MAX]}
            headers = {"idempotency-key": f"{key}:{start}"}
            content = self._transport.request("POST", "/v1/jobs/batch", body=body, headers=headers)
            for answer in BatchAnswer.model_validate_json(content).jobs:
                if isinstance(answer, Accepted):
                    answers.append(Handle(self, answer.id, answer.engine))
                else:
                    answers.append(from_problem(answer.problem))
        return answers

    def upload(self, content: bytes | Path, *, content_type: str | None = None) -> str:
        """Upload a large input. Return its key, for `input_ref` of a submit.

        JSON (`application/json`, the default for a file named *.json) becomes the input itself; if it is none, NotJson
        is raised before anything is sent. Any other content reaches the engine as base64 text.
        """
        if not isinstance(content, bytes | Path):
            raise TypeError(f"content must be bytes, or the Path of a file to read, not {type(content).__name__}")
        if isinstance(content, Path):
            content_type = content_type or ("application/json" if content.suffix == ".json" else None)
            content = content.read_bytes()
        if content_type == "application/json":
            content = upload_json(content, "input")
        body = {"content_type": content_type or "application/octet-stream"}
        upload = Upload.model_validate_json(self._transport.request("POST", "/v1/uploads", body=body))
        self._transport.request("PUT", upload.url, content=content, signed=True)
        return upload.key

    def cancel(self, job_id: str) -> Job:
        """Cancel a job, or accept that it is canceled already. Raise JobIsFinal if it has ended otherwise."""
        try:
            content = self._transport.request("POST", f"/v1/jobs/{path_part(job_id)}/cancel")
        except JobIsFinal:
            job = self.job(job_id)
            if job.status is Status.CANCELED:
                return job  # Perhaps our own request canceled it, and its answer was lost.
            raise
        return Job.model_validate_json(content)

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Handle:
        """Submit the input of an ended job as a new job. The same `idempotency_key` again is the same new job."""
        return self._submit_again(f"/v1/jobs/{path_part(job_id)}/retry", idempotency_key)

    def redrive(self, letter_id: str, *, idempotency_key: str | None = None) -> Handle:
        """Submit the input of a dead letter as a new job; the same `idempotency_key` again is the same new job.

        Without a key, a second redrive raises AlreadyRedriven. See `dead_letters`.
        """
        return self._submit_again(f"/v1/dead-letters/{path_part(letter_id)}/redrive", idempotency_key)

    def _submit_again(self, path: str, key: str | None) -> Handle:
        accepted = Accepted.model_validate_json(self._transport.request("POST", path, headers=_key_header(key)))
        return Handle(self, accepted.id, accepted.engine)

    def engines(self, limit: int | None = None) -> list[EngineInfo]:
        """Return the engines you may use, at most `limit` of them: your own and the shared ones, by id.

        >>> with Client() as client:
        ...     "shared--standard" in [engine.id for engine in client.engines()]
        True
        """
        # A gateway of before, which knows no pages, takes no limit.
        size = None if limit is None else _ENGINES_AT_ONCE
        pages = self._paged(EnginePage, lambda page: page.engines, "/v1/engines", {}, limit, size)
        return list(pages)

    def engine(self, name: str) -> EngineInfo:
        """Return one engine with its card: input and output schema, version, limits."""
        return self._get(EngineInfo, f"/v1/engines/{path_part(name)}")

    def _submit(
        self, engine: str | None, value: Any, key: str | None, wait_seconds: float, options: SubmitOptions
    ) -> Handle:
        body = dict(options) if "input_ref" in options else {"input": value, **options}
        headers = _key_header(key)
        if wait_seconds > 0:
            headers["prefer"] = f"wait={wait_seconds:.3f}"
        path = "/v1/jobs" if engine is None else f"/v1/engines/{path_part(engine)}/jobs"
        content = self._transport.request("POST", path, body=body, headers=headers, wait_seconds=wait_seconds)
        accepted = Accepted.model_validate_json(content)
        return Handle(self, accepted.id, accepted.engine, _whole_job(content))


def _key_header(key: str | None) -> dict[str, str]:
    """Return the header that makes a request safe to repeat: with the caller's key, or a new one."""
    key = key or str(uuid.uuid4())
    return {"idempotency-key": header_text("idempotency_key", key.encode("utf-8", "surrogatepass"))}


def _whole_job(content: bytes) -> Job | None:
    """Return the whole job if the answer to a submit holds it.

    That is so if the server was asked to wait, and waited.
    """
    return Job.model_validate_json(content) if "created_at" in pydantic_core.from_json(content) else None


def _still_waiting(job: Job) -> str:
    """Say how far a job is that did not end in time, and why its engine does not work on it."""
    reason = f" ({job.status_reason})" if job.status_reason else ""
    detail = f": {job.status_detail}" if job.status_detail else ""
    return f"Job {job.id} is still {job.status}{reason} after the time to wait for it{detail}"


def _deadline(timeout_seconds: float | None) -> float | None:
    return None if timeout_seconds is None else time.monotonic() + timeout_seconds


def _wait_until(deadline: float | None) -> float:
    """Return how long the next request may ask the server to wait."""
    if deadline is None:
        return _LONGEST_WAIT_SECONDS
    return min(_LONGEST_WAIT_SECONDS, max(0.0, deadline - time.monotonic()))
