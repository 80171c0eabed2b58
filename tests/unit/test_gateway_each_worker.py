"""A broadcast is repeated until each worker of an engine has answered it, and says so if one cannot be reached."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import cycle

from tests.support.waiting import until_async

from enginehouse.contracts.calls import ReplicaAnswer, WorkerAnswer
from enginehouse.contracts.errors import EngineUnavailable
from enginehouse.gateway.engines.each_worker import EachWorker

_LONG = 60.0


class _Workers:
    """Workers that calls reach in this order, again and again. Those in `slow` answer once `may_answer` is set."""

    def __init__(self, reached: Sequence[str], slow: str = "") -> None:
        self.living = set(reached)
        self.slow, self.may_answer = slow, asyncio.Event()
        self.calls, self.done = Counter[str](), Counter[str]()
        self._reached = cycle(reached)

    async def call(self) -> WorkerAnswer:
        worker = next(self._reached)
        self.calls[worker] += 1
        if worker == "broken":
            raise EngineUnavailable("it is away")
        if self.calls[worker] == 1:
            self.done[worker] += 1
            if worker in self.slow:
                await self.may_answer.wait()
        elif worker in self.slow and not self.may_answer.is_set():
            return WorkerAnswer(worker=worker, replicas=None)
        return WorkerAnswer(worker=worker, replicas=[ReplicaAnswer(replica=worker, status=200)])

    async def names(self) -> set[str]:
        return set(self.living)

    def each(self, repeat_seconds: float = _LONG) -> EachWorker:
        return EachWorker(self.names, self.call, repeat_seconds)


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_one_worker_is_called_once() -> None:
    workers = _Workers(["a"])
    asked = workers.each()
    await asked.ask(_in(_LONG))
    assert (list(asked.answers), workers.calls) == (["a"], {"a": 1})


async def test_calls_are_repeated_until_chance_has_reached_every_worker() -> None:
    workers = _Workers(["a", "a", "a", "b", "a", "c"])
    asked = workers.each()
    await asked.ask(_in(_LONG))
    assert (set(asked.answers), asked.missing) == ({"a", "b", "c"}, set())


async def test_a_slow_worker_keeps_no_other_waiting() -> None:
    workers = _Workers(["a", "a", "b"], slow="a")
    asked = workers.each()
    asking = asyncio.create_task(asked.ask(_in(_LONG)))
    await until_async(lambda: asked.answers)
    assert set(asked.answers) == {"b"}
    workers.may_answer.set()
    await asking
    assert (set(asked.answers), workers.done) == ({"a", "b"}, {"a": 1, "b": 1})


async def test_a_worker_that_no_call_reaches_is_named() -> None:
    workers = _Workers(["a"])
    workers.living = {"a", "b"}
    asked = workers.each(repeat_seconds=0.2)
    await asked.ask(_in(_LONG))
    assert (set(asked.answers), asked.missing) == ({"a"}, {"b"})


async def test_a_worker_that_ends_is_not_waited_for() -> None:
    workers = _Workers(["a"])
    workers.living = {"a", "b"}
    asked = workers.each()
    asking = asyncio.create_task(asked.ask(_in(_LONG)))
    await until_async(lambda: asked.answers)
    workers.living = {"a"}
    await asking
    assert (set(asked.answers), asked.missing) == ({"a"}, set())


async def test_a_call_that_fails_is_repeated_a_few_times_only() -> None:
    workers = _Workers(["broken", "broken", "a", "broken"])
    workers.living = {"a"}
    asked = workers.each()
    await asked.ask(_in(_LONG))
    assert (set(asked.answers), asked.missing) == ({"a"}, set())
    workers = _Workers(["broken"])
    asked = workers.each()
    await asked.ask(_in(_LONG))
    assert (asked.missing, {str(failure) for failure in asked.failures}) == ({"broken"}, {"it is away"})
    assert workers.calls == {"broken": 5}


async def test_a_worker_that_does_not_answer_in_time_is_named() -> None:
    workers = _Workers(["a"], slow="a")
    asked = workers.each()
    await asked.ask(_in(0.1))
    assert (asked.answers, asked.missing) == ({}, {"a"})


async def test_many_slow_workers_are_asked_at_the_same_time() -> None:
    names = "abcdefghijkl"
    workers = _Workers(names, slow=names)
    asked = workers.each()
    asking = asyncio.create_task(asked.ask(_in(_LONG)))
    await until_async(lambda: len(workers.done) == len(names))
    workers.may_answer.set()
    await asking
    assert (set(asked.answers), set(workers.done.values())) == (set(names), {1})
