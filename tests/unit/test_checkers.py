"""Checks of strangers' data run in bounded processes: what costs too much is given up, and harms nothing else."""

import asyncio
import os
import time

import jsonschema_rs
import psutil
import pytest
from tests.support.waiting import until_async

from enginehouse.checkers import Checkers, TooCostly


def process_of(_: bytes) -> int:
    return os.getpid()


def spin(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


def fill(count: int) -> int:
    return len([[] for _ in range(count)])


def double(levels: int) -> bool:
    """Validate by a schema whose references double at each level. It holds the interpreter."""
    definitions = {f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(levels)}
    schema = {"$ref": "#/$defs/l0", "$defs": {**definitions, f"l{levels}": {"type": "integer"}}}
    return jsonschema_rs.validator_for(schema).is_valid(1)


def refuse(text: str) -> None:
    raise ValueError(text)


async def test_a_check_runs_in_another_process_which_serves_again() -> None:
    checkers = Checkers()
    first = await checkers.run("acme", 5, process_of, b"x" * 1_000_000)
    assert first != os.getpid()
    assert await checkers.run("acme", 5, process_of, b"") == first


async def test_processes_end_when_there_is_nothing_to_check() -> None:
    checkers = Checkers(idle_seconds=0.1)
    used = await asyncio.gather(*(checkers.run(owner, 5, process_of, b"") for owner in ("acme", "zoo")))
    await until_async(lambda: not any(psutil.pid_exists(process) for process in used))
    assert await checkers.run("acme", 5, process_of, b"") not in used


async def test_what_a_check_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="no good"):
        await Checkers().run("acme", 5, refuse, "no good")


@pytest.mark.parametrize(("check", "argument"), [(spin, 60), (fill, 200_000_000), (double, 60)])
async def test_a_check_that_costs_too_much_is_given_up(check: object, argument: int) -> None:
    checkers = Checkers()
    began = time.monotonic()
    with pytest.raises(TooCostly):
        await checkers.run("acme", 1, check, argument)  # type: ignore[arg-type]
    assert time.monotonic() - began < 60
    assert await checkers.run("acme", 5, spin, 0) == "done"


async def test_one_owner_never_has_all_processes() -> None:
    checkers = Checkers(at_once=2)
    async with asyncio.TaskGroup() as group:
        greedy = [group.create_task(checkers.run("acme", 30, spin, 0.5)) for _ in range(6)]
        await asyncio.sleep(0.1)
        assert await checkers.run("globex", 5, spin, 0) == "done"
        assert sum(task.done() for task in greedy) < 6
