"""Background tasks: failures are logged, tasks that must go on are restarted, and all end with their owner."""

import asyncio

import structlog

from enginehouse.background import Background


async def test_what_can_finish_in_time_finishes_and_the_rest_is_cancelled() -> None:
    background = Background()
    finished: list[str] = []

    async def work(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        finished.append(name)

    background.start(work("short", 0))
    long = background.start(work("long", 3_600))
    await background.close(finish_seconds=0.2)
    assert finished == ["short"]
    assert long.cancelled()


async def test_what_a_closing_task_starts_is_ended_too() -> None:
    background = Background()
    later: list[asyncio.Task[None]] = []

    async def starts_another() -> None:
        try:
            await asyncio.sleep(3_600)
        finally:
            later.append(background.start(asyncio.sleep(3_600)))

    background.start(starts_another())
    await asyncio.sleep(0)
    await asyncio.wait_for(background.close(), 20)
    assert later[0].cancelled()


async def test_a_failure_is_logged() -> None:
    background = Background()

    async def fails() -> None:
        raise RuntimeError("broken")

    with structlog.testing.capture_logs() as logs:
        background.start(fails())
        await background.close(finish_seconds=1)
    assert [(line["action"], "broken" in line["event"]) for line in logs] == [("task_failed", True)]


async def test_a_kept_task_is_started_again_until_it_ends_by_itself() -> None:
    background = Background()
    runs: list[int] = []

    async def fails_twice() -> None:
        runs.append(len(runs))
        if len(runs) < 3:
            raise RuntimeError("broken")

    with structlog.testing.capture_logs() as logs:
        background.keep("example", fails_twice, restart_seconds=0.001)
        await background.close(finish_seconds=5)
    assert len(runs) == 3
    assert [line["task"] for line in logs] == ["example", "example"]
