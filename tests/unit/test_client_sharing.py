"""One client shared by processes, threads and event loops: everyone gets the answers to its own inputs."""

import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from tests.support.documents import ROOT
from tests.support.forking_client import HELD, RELEASE, ask, ask_async
from tests.support.gateway import GatewayWorld, gateway_world
from tests.support.gateway_socket import listening
from tests.support.scripted_runner import ScriptedRunner, succeed

from enginehouse.client import AsyncClient, Client
from enginehouse.contracts.events import HandedJob


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    released = asyncio.Event()

    async def answer(runner: ScriptedRunner, event: HandedJob) -> bool:
        if event.data.input == HELD:
            await runner.claim(event)
            await released.wait()
        elif event.data.input == RELEASE:
            released.set()
        return await succeed(runner, event)

    async with gateway_world(tmp_path) as made:
        made.runner.answer = answer
        yield made


@pytest.fixture
async def url(world: GatewayWorld) -> AsyncIterator[str]:
    async with listening(world) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_client_used_after_a_fork_opens_its_own_connections(world: GatewayWorld, url: str, kind: str) -> None:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.forking_client", url, world.keys["acme"], kind),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(program.communicate(), 100)
    assert out.decode() == "start 0 [0, 0, 0, 0] ['completed'] [0]\n"


async def test_threads_share_one_client(world: GatewayWorld, url: str) -> None:
    with ThreadPoolExecutor() as threads, Client(url, world.keys["acme"]) as client:
        loop = asyncio.get_running_loop()
        asked = [loop.run_in_executor(threads, ask, client, number) for number in range(4)]
        assert await asyncio.gather(*asked) == [0] * 4


async def test_event_loops_share_one_async_client_at_the_same_time_and_one_after_the_other(
    world: GatewayWorld, url: str
) -> None:
    client = AsyncClient(url, world.keys["acme"])

    async def ask_and_close(number: int) -> int:
        try:
            return await ask_async(client, number)
        finally:
            await client.aclose()

    with ThreadPoolExecutor(2) as threads:
        loop = asyncio.get_running_loop()
        # Four event loops in two threads.
        asked = [loop.run_in_executor(threads, asyncio.run, ask_and_close(number)) for number in range(4)]
        assert await asyncio.gather(ask_and_close(5), *asked) == [0] * 5


async def test_a_client_that_was_closed_opens_new_connections(world: GatewayWorld, url: str) -> None:
    client = AsyncClient(url, world.keys["acme"])
    for number in range(2):
        async with client:
            assert await client.run("echo", number) == {"echo": number}


def test_a_transport_of_the_callers_own_is_refused_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("http://gate", transport=httpx2.MockTransport(lambda request: httpx2.Response(404)))
    monkeypatch.setattr("os.getpid", lambda: 1)
    with pytest.raises(RuntimeError, match="make it anew"):
        client.engines()
