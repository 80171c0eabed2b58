"""Derived from `async_client.py` by `make fix`: do not edit."""

import os
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
from enginehouse.contracts.names import DEFAULT_ENGINE

DEFAULT_URL = "http://127.0.0.1:8080"
_LONGEST_WAIT_SECONDS = 60.0
"""What the server waits at most in one request; waiting longer is asking again."""

_BATCH_MAX = 1_000
"""What the server takes in one request."""


class Handle:
    """A job that was submitted. `job` is what was last known of it, None before the first look."""

    def __init__(self, client: "Client", job_id: str, engine: str, job: Job | None = None) -> None:
        self._client = client
        self.id = job_id
        self.engine = engine
        self.job = job

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.engine}: {self.job.status if self.job else 'submitted'}>"

    @property
    def done(self) -> bool:
        """Whether the job was seen to have ended."""
        return self.job is not None and self.job.status.is_final

    def refresh(self) -> Job:
        """Ask how the job stands now."""
        self.job = self._client.job(self.id)
        return self.job

    def wait(self, timeout_seconds: float | None = None) -> Job:
        """The job, once it has ended in whatever way. WaitOver when `timeout_seconds` are over; None: no limit."""
        if self.job is None or not self.job.status.is_final:
            self.job = self._client.wait(self.id, timeout_seconds)
        return self.job

    def result(self, timeout_seconds: float | None = None) -> Any:
        """The job's output, once it has succeeded. JobFailed if it ended otherwise.

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
        """What happens to the job, as it happens, until it has ended: see `client.events`."""
        for news in self._client.events(self.id):
            if news.kind == "completed":
                self.job = Job.model_validate(news.data)
            yield news

    def cancel(self) -> Job:
        """End the job; JobIsFinal if it has ended otherwise."""
        self.job = self._client.cancel(self.id)
        return self.job

    def retry(self) -> "Handle":
        """A new job with the same input; this one keeps its state."""
        return self._client.retry(self.id)


class Client(Operations):
    """A connection to Enginehouse as one tenant. Make one, use it for everything, close it.

    `url` and `api_key` default to ENGINEHOUSE_URL and ENGINEHOUSE_API_KEY. Requests that can be sent twice without
    harm are repeated when the connection breaks or the server asks for it; a submit carries an Idempotency-Key of its
    own, so that it can be, too.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 30,
        retries: RetryPlan | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = (url or os.environ.get("ENGINEHOUSE_URL") or DEFAULT_URL).rstrip("/")
        key = api_key or os.environ.get("ENGINEHOUSE_API_KEY", "")
        self._transport = Transport(self.url, key, timeout_seconds, retries or RetryPlan(), transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def submit(
        self,
        engine: str,
        input: Any = None,  # noqa: A002 - what it is called everywhere
        *,
        idempotency_key: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Handle:
        """Submit a job to `engine` ('name' or '<tenant>--<name>'). When this returns, it will reach a final state.

        `input` is whatever the engine's card says, as anything that can be written as JSON, pydantic models included.

        >>> with Client() as client:
        ...     handle = client.submit("standard", {"text": "So so."}, priority=9, max_time_in_queue_seconds=60)
        ...     handle.wait(timeout_seconds=30).status.value
        'succeeded'
        """
        return self._submit(engine, input, idempotency_key, 0, options)

    def run(
        self,
        engine: str = DEFAULT_ENGINE,
        input: Any = None,  # noqa: A002
        *,
        timeout_seconds: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Any:
        """Submit a job and give its output: one round trip for a quick one. JobFailed, WaitOver.

        >>> with Client() as client:
        ...     client.run("standard", {"text": "This is terrible!"}, timeout_seconds=30)["label"]
        'negative'
        """
        deadline = _deadline(timeout_seconds)
        handle = self._submit(engine, input, None, _wait_until(deadline), options)
        return handle.result(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def job(self, job_id: str) -> Job:
        """A job, as it stands now."""
        return self._get(Job, f"/v1/jobs/{path_part(job_id)}")

    def handle(self, job_id: str) -> Handle:
        """A handle of a job that was submitted earlier, or elsewhere."""
        job = self.job(job_id)
        return Handle(self, job.id, job.engine, job)

    def wait(self, job_id: str, timeout_seconds: float | None = None) -> Job:
        """A job, once it has ended. WaitOver when `timeout_seconds` are over; None: no limit."""
        deadline = _deadline(timeout_seconds)
        while True:
            seconds = _wait_until(deadline)
            job = self._get(Job, f"/v1/jobs/{path_part(job_id)}", {"wait": f"{seconds:.3f}"}, wait_seconds=seconds)
            if job.status.is_final:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitOver(f"Job {job_id} is still {job.status}; the time to wait for it is over")

    def jobs(
        self, *, engine: str | None = None, status: Status | str | None = None, limit: int | None = None
    ) -> Iterator[Job]:
        """Your jobs, newest first, without inputs and outputs; at most `limit`.

        >>> with Client() as client:
        ...     for job in client.jobs(engine="standard", limit=1):
        ...         print(job.engine)
        shared--standard
        """
        left = limit
        query = {"engine": engine, "status": str(status) if status else None, "cursor": None}
        while left is None or left > 0:
            size = min(left or 200, 200)
            given = {name: value for name, value in query.items() if value} | {"limit": str(size)}
            page = self._get(JobPage, "/v1/jobs", given)
            yield from page.jobs
            left = None if left is None else left - len(page.jobs)
            query["cursor"] = page.next_cursor
            if not page.next_cursor:
                return

    def events(self, job_id: str) -> Iterator[JobNews]:
        """What happens to a job, as it happens: start, what its engine tells on the way, and last `completed`.

        A connection that breaks is made again, and goes on after the last event that came.

        >>> with Client() as client:
        ...     handle = client.submit("standard", {"text": "I love it"})
        ...     for news in handle.events():
        ...         if news.kind == "completed":
        ...             news.data["output"]["label"]
        'positive'
        """
        yield from self._transport.events(f"/v1/jobs/{path_part(job_id)}/events")

    def output(self, job: Job) -> Any:
        """The output of a job that has succeeded: the one it carries, or the large one that it names."""
        if job.output_url is None:
            return job.output
        return pydantic_core.from_json(self._transport.request("GET", job.output_url, signed=True))

    def submit_batch(
        self, jobs: Sequence[BatchJob], *, idempotency_key: str | None = None
    ) -> "list[Handle | EnginehouseError]":
        """Submit many jobs, up to 1,000 in a request. For each, in order: its handle, or why it was refused.

        >>> with Client() as client:
        ...     texts = ["I love it", "I hate it"]
        ...     handles = client.submit_batch([{"engine": "standard", "input": {"text": text}} for text in texts])
        ...     for handle in handles:
        ...         if isinstance(handle, Handle):
        ...             handle.result(timeout_seconds=30)["label"]
        'positive'
        'negative'
        """
        key = idempotency_key or str(uuid.uuid4())
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
        """Bring in a large input; the key that is returned goes into `input_ref` of a submit.

        JSON (`application/json`, the default for a file named *.json) becomes the input itself; anything else reaches
        the engine as base64 text.
        """
        if not isinstance(content, bytes | Path):
            raise TypeError(f"content must be bytes, or the Path of a file to read, not {type(content).__name__}")
        if isinstance(content, Path):
            content_type = content_type or ("application/json" if content.suffix == ".json" else None)
            content = content.read_bytes()
        body = {"content_type": content_type or "application/octet-stream"}
        upload = Upload.model_validate_json(self._transport.request("POST", "/v1/uploads", body=body))
        self._transport.request("PUT", upload.url, content=content, signed=True)
        return upload.key

    def cancel(self, job_id: str) -> Job:
        """End a job; one that is canceled already is fine. JobIsFinal if it has ended otherwise."""
        try:
            content = self._transport.request("POST", f"/v1/jobs/{path_part(job_id)}/cancel")
        except JobIsFinal:
            job = self.job(job_id)
            if job.status is Status.CANCELED:
                return job  # Perhaps by our own request, whose answer was lost.
            raise
        return Job.model_validate_json(content)

    def retry(self, job_id: str) -> Handle:
        """A new job with the same input as one that has ended."""
        content = self._transport.request("POST", f"/v1/jobs/{path_part(job_id)}/retry", safe=False)
        accepted = Accepted.model_validate_json(content)
        return Handle(self, accepted.id, accepted.engine)

    def redrive(self, letter_id: str) -> Handle:
        """A new job with the input of one that was given up: see `dead_letters`."""
        path = f"/v1/dead-letters/{path_part(letter_id)}/redrive"
        accepted = Accepted.model_validate_json(self._transport.request("POST", path, safe=False))
        return Handle(self, accepted.id, accepted.engine)

    def engines(self) -> list[EngineInfo]:
        """The engines you may use: your own and the shared ones.

        >>> with Client() as client:
        ...     "shared--standard" in [engine.id for engine in client.engines()]
        True
        """
        return self._get(EnginePage, "/v1/engines").engines

    def engine(self, name: str) -> EngineInfo:
        """One engine, with its card: input and output schema, version, limits."""
        return self._get(EngineInfo, f"/v1/engines/{path_part(name)}")

    def _submit(self, engine: str, value: Any, key: str | None, wait_seconds: float, options: SubmitOptions) -> Handle:
        body = dict(options) if "input_ref" in options else {"input": value, **options}
        headers = {"idempotency-key": key or str(uuid.uuid4())}
        if wait_seconds > 0:
            headers["prefer"] = f"wait={wait_seconds:.3f}"
        path = f"/v1/engines/{path_part(engine)}/jobs"
        content = self._transport.request("POST", path, body=body, headers=headers, wait_seconds=wait_seconds)
        accepted = Accepted.model_validate_json(content)
        return Handle(self, accepted.id, accepted.engine, _whole_job(content))


def _whole_job(content: bytes) -> Job | None:
    """The job, if a submit was answered with all of it: only where the server was asked to wait, and did."""
    return Job.model_validate_json(content) if "created_at" in pydantic_core.from_json(content) else None


def _deadline(timeout_seconds: float | None) -> float | None:
    return None if timeout_seconds is None else time.monotonic() + timeout_seconds


def _wait_until(deadline: float | None) -> float:
    """How long the next request may ask the server to wait."""
    if deadline is None:
        return _LONGEST_WAIT_SECONDS
    return min(_LONGEST_WAIT_SECONDS, max(0.0, deadline - time.monotonic()))
