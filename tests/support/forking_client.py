"""A program that shares one client with its forked children, also while it follows a job. Prints the wrong answers.

Run it as `python -m tests.support.forking_client URL KEY sync|async`. Its job `HELD` must end after a job `RELEASE`.
"""

import asyncio
import multiprocessing
import multiprocessing.pool
import sys
from collections.abc import Iterable

from enginehouse.client import AsyncClient, Client

HELD, RELEASE = "held", "release"
_FORK = multiprocessing.get_context("fork")
_CHILDREN = range(4)
_EACH = 25


def texts(who: object) -> list[str]:
    """Return inputs that nobody else sends."""
    return [f"{who}: {number}" for number in range(_EACH)]


def wrong(asked: Iterable[str], answered: Iterable[object]) -> int:
    """Return how many answers are not those to the inputs."""
    return sum(answer != {"echo": text} for text, answer in zip(asked, answered, strict=True))


def ask(client: Client, who: object) -> int:
    """Send many jobs through the sync client. Return the number of wrong answers."""
    return wrong(texts(who), [client.run("echo", text, timeout_seconds=30) for text in texts(who)])


async def ask_async(client: AsyncClient, who: object) -> int:
    """Send many jobs through the async client, ten at a time. Return the number of wrong answers."""
    bound = asyncio.Semaphore(10)

    async def one(text: str) -> object:
        async with bound:
            return await client.run("echo", text, timeout_seconds=30)

    return wrong(texts(who), await asyncio.gather(*map(one, texts(who))))


def _start(target: object, *arguments: object) -> multiprocessing.process.BaseProcess:
    process = _FORK.Process(target=lambda: sys.exit(target(*arguments)))  # type: ignore[operator]
    process.start()
    return process


def _codes(processes: Iterable[multiprocessing.process.BaseProcess]) -> list[int | None]:
    found = []
    for process in processes:
        process.join(60)
        found.append(process.exitcode)
    return found


def fork_sync(client: Client) -> None:
    """Fork in the middle of a stream of events; one more child reads the stream on."""
    news = client.submit("echo", HELD).events()
    first = next(news)
    client.run("echo", "before")
    children = [_start(ask, client, child) for child in _CHILDREN]
    follower = _start(lambda: [one.kind for one in news] != ["completed"])
    own = ask(client, "parent")
    codes = _codes(children)
    client.run("echo", RELEASE)
    print(first.kind, own, codes, [one.kind for one in news], _codes([follower]))


async def fork_async(client: AsyncClient) -> None:
    """Fork in the middle of a stream of events. A child runs an event loop of its own."""
    news = (await client.submit("echo", HELD)).events()
    first = await anext(news)
    await client.run("echo", "before")
    children = [_start(lambda child: asyncio.run(ask_async(client, child)), child) for child in _CHILDREN]
    own = await ask_async(client, "parent")
    codes = await asyncio.to_thread(_codes, children)
    await client.run("echo", RELEASE)
    print(first.kind, own, codes, [one.kind async for one in news], [0])
    await client.aclose()


if __name__ == "__main__":
    url, key, kind = sys.argv[1:]
    if kind == "sync":
        with Client(url, key) as made:
            fork_sync(made)
    else:
        asyncio.run(fork_async(AsyncClient(url, key)))
