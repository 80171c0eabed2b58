"""Run an engine's methods: load it, predict in threads or in the event loop, turn exceptions into answers."""

import asyncio
import functools
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pydantic_core

from enginehouse.contracts.errors import InvalidInput
from enginehouse.engine.author_trace import author_trace
from enginehouse.engine.base import Engine
from enginehouse.engine.codec import Answer, BatchCodec, Codec, error_answer, failure, join_results
from enginehouse.engine.plain import BadResult
from enginehouse.engine.signature import read_signature
from enginehouse.engine.stream import Canceled, Lines, drain, drain_async

log = logging.getLogger("enginehouse.engine")

_CANCELED = error_answer(409, {"message": "canceled", "retryable": False})
_CAUGHT = (Exception, SystemExit)
"""Exceptions of a prediction that do not end the process: a library's sys.exit() must not end other jobs."""


@dataclass(frozen=True, slots=True)
class HostPace:
    """Waiting times of the host, in seconds."""

    cancel_seconds: float = 1.0
    """A canceled prediction that ends within this time is reported as stopped."""


class EngineHost:
    """Holds one engine and runs its methods. Knows HTTP statuses, and nothing more of HTTP."""

    def __init__(
        self,
        engine_class: type[Engine],
        on_load_failure: Callable[[], None] = lambda: None,
        pace: HostPace = HostPace(),
    ) -> None:
        self.signature = read_signature(engine_class)
        self.engine = engine_class()
        self.ready = False
        self._on_load_failure = on_load_failure
        self._pace = pace
        if "ENGINE_SLOTS" in os.environ:
            raise ValueError("ENGINE_SLOTS is called ENGINE_CONCURRENCY now: rename it")
        concurrency = int(os.environ.get("ENGINE_CONCURRENCY") or engine_class.concurrency)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="predict")
        self._codec = Codec(self.signature.predict)
        batch, update = self.signature.batch, self.signature.update
        self._batch_codec = BatchCodec(self.signature.predict.input_type, batch) if batch else None
        self._update_codec = Codec(update) if update else None
        self._running: dict[str, asyncio.Task[Any] | None] = {}
        """Predictions that can be canceled, by id. Those that stream from a thread have no task."""
        self._canceled: set[str] = set()
        self.in_hand = 0
        """Number of inputs in work, including those whose caller has gone."""

    async def load(self) -> None:
        """Load the engine, in a thread if `load` is not async. Log a failure and call `on_load_failure`."""
        try:
            if inspect.iscoroutinefunction(self.engine.load):
                await self.engine.load()
            else:
                await _in_daemon_thread(self.engine.load)
        except _CAUGHT as error:
            log.critical("The engine cannot be loaded: %s: %s\n%s", type(error).__name__, error, author_trace(error))
            self._on_load_failure()
        else:
            self.ready = True

    def close(self) -> None:
        """Release the threads. Waiting predictions are not started."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def predict(self, body: bytes, lines: Lines | None = None) -> Answer:
        """Answer the body of POST /predict. An engine that streams needs `lines`, which take its events."""
        self.in_hand += 1
        try:
            if self.signature.predict.is_async:
                return await self._predict_async(body, lines)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._predict_blocking, body, lines)
        finally:
            self.in_hand -= 1

    def _predict_blocking(self, body: bytes, lines: Lines | None) -> Answer:
        # Reading and writing also happen in the thread: large bodies must not hold up the event loop.
        job_id = None
        try:
            data, job_id, options = self._codec.read(body)
            result = self.engine.predict(data, **options)
            if lines is not None:
                result = self._drain(result, lines, job_id)
            return Answer(200, self._codec.write(result))
        except Canceled:
            return _CANCELED
        except _CAUGHT as error:
            return _error_of(error, job_id)

    def _drain(self, steps: Any, lines: Lines, job_id: str | None) -> Any:
        if job_id is None:
            return drain(steps, lines, lambda: False)
        self._running[job_id] = None
        try:
            return drain(steps, lines, lambda: job_id in self._canceled)
        finally:
            self._running.pop(job_id, None)
            self._canceled.discard(job_id)

    async def _predict_async(self, body: bytes, lines: Lines | None) -> Answer:
        job_id = task = None
        try:
            data, job_id, options = self._codec.read(body)
            if job_id is not None and (task := asyncio.current_task()):
                self._running[job_id] = task
            predicting = self.engine.predict(data, **options)
            result = await (predicting if lines is None else drain_async(predicting, lines))
            return Answer(200, self._codec.write(result))
        except _CAUGHT as error:
            return _error_of(error, job_id)
        except asyncio.CancelledError:
            if task is None or job_id not in self._canceled:
                raise
            task.uncancel()
            return _CANCELED
        finally:
            if job_id is not None:
                self._running.pop(job_id, None)
                self._canceled.discard(job_id)

    async def cancel(self, job_id: str) -> bool | None:
        """Cancel the prediction with that id.

        Return whether it has stopped within a second, or None if none is running.

        Only async predictions, and predictions that stream from a thread, can be canceled. The latter stop at their
        next step.
        """
        if job_id not in self._running:
            return None
        self._canceled.add(job_id)
        if task := self._running[job_id]:
            task.cancel()
        deadline = time.monotonic() + self._pace.cancel_seconds
        while job_id in self._running and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return job_id not in self._running

    async def predict_batch(self, body: bytes) -> Answer:
        """Answer the body of POST /predict/batch: a result or an error for each item, in order."""
        assert self._batch_codec is not None
        method: Callable[..., Any] = getattr(self.engine, "predict_batch")  # noqa: B009 (optional, so not declared)
        count = 0
        try:
            items, options = self._batch_codec.read(body)
            valid = [item for item in items if not isinstance(item, InvalidInput)]
            count = len(items)
            self.in_hand += count
            results = await self._call(functools.partial(method, **options), valid) if valid else []
            if len(results) != len(valid):
                raise BadResult(f"predict_batch answered {len(results)} results to {len(valid)} inputs")
            answer: Answer = await self._in_pool(self._write_batch, items, results)
            return answer
        except _CAUGHT as error:
            return _error_of(error, None)
        finally:
            self.in_hand -= count

    def _write_batch(self, items: list[Any], results: list[Any]) -> Answer:
        following = iter(results)
        ordered = [item if isinstance(item, InvalidInput) else next(following) for item in items]
        return Answer(200, join_results(self._write_item(item) for item in ordered))

    def _write_item(self, item: Any) -> bytes:
        try:
            if isinstance(item, BaseException):
                raise item
            return self._codec.write(item)
        except _CAUGHT as error:
            return pydantic_core.to_json({"error": failure(error)[1]})

    async def update(self, body: bytes) -> Answer:
        """Answer the body of POST /update, which is the argument of `update`."""
        assert self.signature.update is not None
        assert self._update_codec is not None
        method: Callable[..., Any] = getattr(self.engine, "update")  # noqa: B009 (optional, so not declared)
        has_argument = self.signature.update.input_type is not type(None)
        try:
            arguments = [self._update_codec.read(b'{"data":%b}' % (body or b"null")).data] if has_argument else []
            return Answer(200, self._update_codec.write(await self._call(method, *arguments)))
        except _CAUGHT as error:
            return _error_of(error, None)

    async def info(self) -> Any:
        """Return the engine's description of itself."""
        return await self._call(self.engine.info)

    async def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        if inspect.iscoroutinefunction(method):
            return await method(*arguments)
        return await self._in_pool(method, *arguments)

    async def _in_pool(self, function: Callable[..., Any], *arguments: Any) -> Any:
        def run() -> tuple[Any, BaseException | None]:
            # The exception is returned as a value, because a future cannot hold every kind (StopIteration, SystemExit).
            try:
                return function(*arguments), None
            except BaseException as error:
                return None, error

        result, error = await asyncio.get_running_loop().run_in_executor(self._pool, run)
        if error is not None:
            raise error
        return result


def _error_of(error: BaseException, job_id: str | None) -> Answer:
    status, body = failure(error)
    if status == 500:
        log.error("Job %s failed: %s\n%s", job_id or "without id", body["message"], author_trace(error))
    return error_answer(status, body)


async def _in_daemon_thread(function: Callable[[], None]) -> None:
    # A thread outside the pool, because the interpreter joins pool threads at exit, and a stop must not wait for a slow
    # load.
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    def run() -> None:
        error: BaseException | None = None
        try:
            function()
        except BaseException as raised:
            error = raised if not isinstance(raised, StopIteration) else RuntimeError("StopIteration")
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, name="load", daemon=True).start()
    await done
