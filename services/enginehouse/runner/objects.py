"""Reads large inputs and stores large outputs by the signed URLs in the job: a runner holds no storage credentials.

Decision, 2026-11-22: an input by reference is checked to be JSON, in a process of its own, and its bytes are then handed to the engine unchanged.
Parsed, 64 MiB of JSON would take ten times that memory for as long as the job runs. Outputs above INLINE_MAX_BYTES go by
reference. They are bounded by `predict_max_bytes`, because an answer is read whole before it is checked.
"""

import asyncio
import base64
import codecs
import time
from dataclasses import replace
from urllib.parse import urlsplit

import aiohttp
import pydantic_core
import structlog

from enginehouse.checkers import Checkers, TooCostly
from enginehouse.contracts.engine import INLINE_MAX_BYTES
from enginehouse.contracts.errors import RequestError, Unavailable
from enginehouse.contracts.events import JobObjects
from enginehouse.contracts.job import JobErrorCode
from enginehouse.contracts.json_text import check_upload
from enginehouse.runner.attempt import Attempt
from enginehouse.runner.clients.wire import sendable
from enginehouse.runner.outcome import Failed, HandedBack, Outcome, Rejected, Succeeded, jittered
from enginehouse.runner.pace import Pace

_log = structlog.get_logger(__name__)

_TRANSFER_SECONDS = 300.0
_CPU_SECONDS = 20.0
"""Most processor time for the check of one upload: usual JSON of 64 MiB takes a few seconds."""
_UNAVAILABLE_DELAY_SECONDS = 5.0
_GONE = (403, 404, 410)
_WRITTEN_BEFORE = (409, 412)
_NOT_ALLOWED = 403


class _StoreUnavailable(Exception):
    """The object store did not take the object this time."""


class _Refused(Exception):
    """The object store will not take the object, however often it is sent."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the object store answered {status}")
        self.status = status


class ObjectAccess:
    """Reads and writes the objects of jobs. Made inside the event loop that uses it."""

    def __init__(self, pace: Pace, checkers: Checkers, *, record_max_bytes: int, answer_max_bytes: int) -> None:
        """Outputs up to `record_max_bytes` fit the job's record. An answer is read up to `answer_max_bytes`."""
        self._checkers = checkers
        self._record_max_bytes = record_max_bytes
        self._answer_max_bytes = answer_max_bytes
        self._store_tries = pace.output_store_tries
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=_TRANSFER_SECONDS, sock_connect=5),
            headers={"Accept-Encoding": "identity", "User-Agent": "enginehouse-runner"},
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    def output_max_bytes(self, objects: JobObjects) -> int:
        """Return the most bytes of an answer that a job can keep if it has an object for its output."""
        return min(self._answer_max_bytes, objects.max_bytes)

    def must_be_renewed(self, attempt: Attempt, objects: JobObjects) -> bool:
        """Return whether the URLs may end before the attempt does. The next hand-over brings new ones."""
        return (
            objects.expires_at is not None
            and time.time() + attempt.order.execution_timeout_seconds > objects.expires_at
        )

    async def fetch_input(self, objects: JobObjects, tenant: str) -> bytes | Outcome:
        """Return the input as JSON text, or the outcome of an attempt whose input cannot be fetched."""
        assert objects.input_url is not None
        try:
            async with self._session.get(objects.input_url, allow_redirects=False) as response:
                if response.status in _GONE:
                    message = f"the job's input is not in the object store any more ({response.status})"
                    return Failed(message, JobErrorCode.INPUT_UNAVAILABLE, retryable=False)
                if response.status != 200:
                    return HandedBack("the object store does not give the input", _UNAVAILABLE_DELAY_SECONDS)
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > objects.max_bytes:
                        return Rejected(f"the input is larger than the {objects.max_bytes} bytes that are allowed")
        except (aiohttp.ClientError, TimeoutError):
            return HandedBack("the object store cannot be reached", _UNAVAILABLE_DELAY_SECONDS)
        if not objects.input_is_json:
            return b'"' + await asyncio.to_thread(base64.b64encode, body) + b'"'
        return await self._as_json(bytes(body), tenant)

    async def _as_json(self, body: bytes, tenant: str) -> bytes | Outcome:
        """Return an upload's text, or the rejection of what is not JSON. Only small ones are parsed in this process."""
        try:
            if len(body) > INLINE_MAX_BYTES:
                await self._checkers.run(tenant, _CPU_SECONDS, check_upload, body, "input")
            else:
                check_upload(body, "input")
        except RequestError as error:
            return Rejected(str(error))
        except TooCostly:
            return Rejected(
                f"the input of {len(body)} bytes took more than {_CPU_SECONDS:g} s of processor time or too much memory to "
                "be read; send fewer and larger values"
            )
        except Unavailable:
            return HandedBack("the machine has no time to check the input", _UNAVAILABLE_DELAY_SECONDS)
        return body.removeprefix(codecs.BOM_UTF8)

    async def store_output(self, attempt: Attempt, objects: JobObjects, outcome: Outcome) -> Outcome:
        """Return `outcome`, after its output was moved to the job's own object if it is too large to be inline."""
        if not isinstance(outcome, Succeeded) or outcome.size <= INLINE_MAX_BYTES:
            return outcome
        if objects.output_url is None or objects.output_ref is None:
            return outcome
        body = outcome.output_json or pydantic_core.to_json(outcome.output)
        for tries in range(self._store_tries):
            try:
                await self._put(objects.output_url, body)
                return replace(outcome, output=None, output_json=None, output_ref=objects.output_ref)
            except _Refused as error:
                if len(body) <= self._record_max_bytes:
                    return outcome
                if error.status in _WRITTEN_BEFORE:
                    # A worker that died before it wrote the record has stored another output of the same hand-over. The
                    # next hand-over has an object of its own.
                    return HandedBack("an output of a former run of this hand-over is in the object store")
                return Failed(f"the engine answered, but its output could not be stored: {error}")
            except _StoreUnavailable as error:
                _log.warning(
                    "An output could not be stored yet",
                    action="output_not_stored",
                    job_id=attempt.job_id,
                    error=str(error),
                )
                if len(body) <= self._record_max_bytes:
                    return outcome  # It fits the record: keep it there, so that the job need not wait for the store.
                await asyncio.sleep(jittered(0.2 * 2**tries))
        return Failed(f"the engine answered, but its output of {len(body)} bytes could not be stored")

    async def _put(self, url: str, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        if (urlsplit(url).hostname or "").endswith(".blob.core.windows.net"):
            headers["x-ms-blob-type"] = "BlockBlob"  # Azure refuses a PUT without it.
        try:
            async with self._session.put(url, data=sendable(body), headers=headers, allow_redirects=False) as response:
                if response.status in (*_WRITTEN_BEFORE, _NOT_ALLOWED):
                    raise _Refused(response.status)
                if not 200 <= response.status < 300:
                    raise _StoreUnavailable(f"the object store answered {response.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _StoreUnavailable(f"the object store cannot be reached: {type(error).__name__}") from None
