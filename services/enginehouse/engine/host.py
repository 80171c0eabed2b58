"""Run an engine's methods: load it, predict in threads or in the event loop, turn exceptions into answers."""

import asyncio
import functools
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import pydantic_core

from enginehouse.contracts.errors import InvalidInput
from enginehouse.contracts.program import CONCURRENCY_VARIABLE
from enginehouse.engine.author_trace import author_trace
from enginehouse.engine.base import Engine
from enginehouse.engine.codec import Answer, BatchCodec, Codec, error_answer, failure, join_results
from enginehouse.engine.loop_watch import LoopWatch, WatchPace
from enginehouse.engine.plain import BadResult
from enginehouse.engine.signature import read_signature
from enginehouse.engine.stream import Canceled, Lines, drain, drain_async
from enginehouse.engine.threads import Threads, Work

log = logging.getLogger("enginehouse.engine")

_CANCELED = error_answer(409, {"message": "canceled", "retryable": False})
_DEFAULT_CONCURRENCY = 4
_CAUGHT = (Exception, SystemExit)
"""Exceptions of a prediction that do not end the process: a library's sys.exit() must not end other jobs."""


@dataclass(frozen=True, slots=True)
class HostPace:
    """Waiting times of the host, in seconds."""

    cancel_seconds: float = 1.0
    """A canceled prediction that ends within this time is reported as stopped."""
    watch: WatchPace = field(default_factory=WatchPace)


@dataclass(eq=False, slots=True)
class _Running:
    """A prediction that can be canceled: a task of the event loop, or work in a thread."""

    ids: set[str]
    """Jobs that wait for it: several if it is a batch."""
    task: "asyncio.Task[Any] | None" = None
    work: Work | None = None
    steps: bool = False
    """Whether it looks at each of its steps whether it is canceled."""
    canceled: bool = False


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
            raise ValueError(f"ENGINE_SLOTS is called {CONCURRENCY_VARIABLE} now: rename it")
        self._threads = Threads(_concurrency(engine_class))
        self._codec = Codec(self.signature.predict)
        batch, update = self.signature.batch, self.signature.update
        self._batch_codec = BatchCodec(self.signature.predict.input_type, batch) if batch else None
        self._update_codec = Codec(update) if update else None
        self._watch = LoopWatch(_async_methods(engine_class), pace.watch)
        self._running: dict[str, _Running] = {}
        """Predictions that can be canceled, by the ids of their jobs."""
        self._canceled_early: set[str] = set()
        """Ids that were canceled while work waited for a thread, which may be theirs: a body is read in the thread."""
        self.in_hand = 0
        """Number of inputs in work that somebody may wait for."""

    @property
    def abandoned(self) -> int:
        """Return the number of threads that still work on a prediction that was canceled."""
        return self._threads.abandoned

    @property
    def concurrency(self) -> int | None:
        """Return how many predictions run at once; None if no number of threads limits it."""
        return None if self.signature.predict.is_async else self._threads.count

    @property
    def warning(self) -> str | None:
        """Return a sentence on what slows the engine's jobs; None if nothing is known."""
        return self._watch.warning

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
            self._watch.start()

    def close(self) -> None:
        """Release the threads. Waiting predictions are not started."""
        self._threads.close()
        self._watch.close()

    async def predict(self, body: bytes, lines: Lines | None = None) -> Answer:
        """Answer the body of POST /predict. An engine that streams needs `lines`, which take its events."""
        self.in_hand += 1
        try:
            if self.signature.predict.is_async:
                return await self._predict_async(body, lines)
            work = self._threads.submit(lambda work: self._predict_blocking(body, lines, work))
            answer, error = await work.future
            if error is not None:
                raise error
            return answer  # type: ignore[no-any-return]
        finally:
            self.in_hand -= 1

    def _predict_blocking(self, body: bytes, lines: Lines | None, work: Work) -> Answer:
        # Reading and writing also happen in the thread: large bodies must not hold up the event loop.
        job_id, running = None, _Running(set(), work=work, steps=lines is not None)
        try:
            data, job_id, options = self._codec.read(body)
            self._begin(running, [job_id] if job_id is not None else [])
            result = self.engine.predict(data, **options)
            if lines is not None:
                result = drain(result, lines, lambda: running.canceled)
            return Answer(200, self._codec.write(result))
        except Canceled:
            return _CANCELED
        except _CAUGHT as error:
            return _error_of(error, job_id)
        finally:
            self._end(running)

    async def _predict_async(self, body: bytes, lines: Lines | None) -> Answer:
        job_id, running = None, _Running(set(), task=asyncio.current_task())
        try:
            data, job_id, options = self._codec.read(body)
            self._begin(running, [job_id] if job_id is not None else [])
            predicting = self.engine.predict(data, **options)
            result = await (predicting if lines is None else drain_async(predicting, lines))
            return Answer(200, self._codec.write(result))
        except _CAUGHT as error:
            return _error_of(error, job_id)
        except asyncio.CancelledError:
            if running.task is None or not running.canceled:
                raise
            running.task.uncancel()
            return _CANCELED
        finally:
            self._end(running)

    def _begin(self, running: _Running, job_ids: list[str]) -> None:
        """Let the prediction be canceled under these ids; raise Canceled if it was. May be called in a thread."""
        if len(job_ids) == 1 and job_ids[0] in self._canceled_early:
            self._canceled_early.discard(job_ids[0])
            raise Canceled
        running.ids.update(job_ids)
        for job_id in job_ids:
            self._running[job_id] = running

    def _end(self, running: _Running) -> None:
        """Forget a prediction. May be called in a thread."""
        for job_id in tuple(running.ids):
            # The same job may have been sent again meanwhile.
            if self._running.get(job_id) is running:
                del self._running[job_id]

    async def cancel(self, job_id: str) -> bool | None:
        """Cancel the prediction with that id.

        Return whether it holds up no other any more, within a second; None if none is running. An async prediction is
        canceled, and one that streams from a thread stops at its next step. Any other goes on in its thread, which is
        replaced; a batch only if all its jobs were canceled.
        """
        running = self._running.get(job_id)
        if not self._threads.are_waited_for:
            self._canceled_early.clear()
        elif running is None:
            self._canceled_early.add(job_id)
        if running is None:
            return None
        if len(running.ids) > 1:
            running.ids.discard(job_id)
            del self._running[job_id]
            return False
        running.canceled = True
        if running.task:
            running.task.cancel()
        if running.task or running.steps:
            await self._wait_for_end(job_id, running)
        if self._running.get(job_id) is not running:
            return True
        return running.work is not None and self._abandon(job_id, running, running.work)

    async def _wait_for_end(self, job_id: str, running: _Running) -> None:
        deadline = time.monotonic() + self._pace.cancel_seconds
        while self._running.get(job_id) is running and time.monotonic() < deadline:
            await asyncio.sleep(0.005)

    def _abandon(self, job_id: str, running: _Running, work: Work) -> bool:
        if not self._threads.abandon(work, _CANCELED):
            return False
        self._end(running)
        log.warning("Job %s was canceled and goes on in its thread; another thread takes its place", job_id)
        return True

    async def predict_batch(self, body: bytes) -> Answer:
        """Answer the body of POST /predict/batch: a result or an error for each item, in order."""
        assert self._batch_codec is not None
        method: Callable[..., Any] = getattr(self.engine, "predict_batch")  # noqa: B009 (optional, so not declared)
        count = 0
        try:
            items, ids, options = self._batch_codec.read(body)
            valid = [item for item in items if not isinstance(item, InvalidInput)]
            count = len(items)
            self.in_hand += count
            results = await self._call_batch(functools.partial(method, **options), valid, ids) if valid else []
            if isinstance(results, Answer):
                return results
            if len(results) != len(valid):
                raise BadResult(f"predict_batch answered {len(results)} results to {len(valid)} inputs")
            answer: Answer = await self._threads.run(self._write_batch, items, results)
            return answer
        except _CAUGHT as error:
            return _error_of(error, None)
        finally:
            self.in_hand -= count

    async def _call_batch(self, method: Callable[..., Any], valid: list[Any], ids: list[str]) -> Any:
        if inspect.iscoroutinefunction(method):
            return await method(valid)
        work = self._threads.submit(lambda _: method(valid))
        running = _Running(set(), work=work)
        self._begin(running, ids)
        try:
            results, error = await work.future
        finally:
            self._end(running)
        if error is not None:
            raise error
        return results

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
        return await self._threads.run(method, *arguments)


def _concurrency(engine_class: type[Engine]) -> int:
    """Return how many predictions run at the same time: as engine.yaml says, and no more than the class allows."""
    said = (os.environ.get(CONCURRENCY_VARIABLE), engine_class.concurrency)
    return min((int(number) for number in said if number), default=_DEFAULT_CONCURRENCY)


def _async_methods(engine_class: type[Engine]) -> dict[str, CodeType]:
    """Return the code of the methods of an engine class that run in the event loop, by name."""
    methods = {name: getattr(engine_class, name, None) for name in ("predict", "predict_batch", "update")}
    return {
        name: method.__code__
        for name, method in methods.items()
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)
    }


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
