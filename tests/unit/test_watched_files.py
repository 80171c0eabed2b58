"""Whoever follows files looks at them once when they are watched, and misses nothing from then on."""

import asyncio
from contextlib import aclosing
from pathlib import Path

from enginehouse.watched_files import changes_of


async def test_the_first_look_comes_when_the_files_are_watched(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with asyncio.timeout(20), aclosing(changes_of(tmp_path, stop_event=stop, step=10, debounce=20)) as told:
        assert await anext(told) == set()
        (tmp_path / "during the first look").touch()
        assert {Path(path).name for _, path in await anext(told)} == {"during the first look"}
        (tmp_path / "during the next one").touch()
        assert {Path(path).name for _, path in await anext(told)} == {"during the next one"}
        stop.set()
        assert [changes async for changes in told] == []


async def test_nothing_is_left_of_one_that_is_given_up(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with asyncio.timeout(20), aclosing(changes_of(tmp_path)) as told:
        await anext(told)
    assert asyncio.all_tasks() == before
