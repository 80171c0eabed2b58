"""Run a home's stack from preparation to the last process. Shared by `up`, `demo` and tests."""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass

from enginehouse.local import checkout
from enginehouse.local.containers.hardening import Sandbox
from enginehouse.local.errors import LocalError
from enginehouse.local.home import LOCAL_TENANT, Home
from enginehouse.local.ports import is_free
from enginehouse.local.stack import Stack
from enginehouse.local.steps import Steps
from enginehouse.private_files import write_private
from enginehouse.registry.bundle import is_retired
from enginehouse.registry.deploy import deploy_engine, is_deployed
from enginehouse.registry.tenants import add_key, has_key


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run a home."""

    port: int = 8080
    platform_engines: Collection[str] | None = None
    """Names of the engines that come with the system and are deployed. None: all."""
    wait_for_engines: bool = True
    """True: `while_running` begins when every engine is up. False: when the API takes jobs."""
    in_containers: bool = False
    """Whether engines run in containers of a Docker Engine, or as processes."""
    sandbox: Sandbox | None = None
    """What these containers run in."""


async def run_stack(
    home: Home, options: RunOptions, steps: Steps, while_running: Callable[[Stack], Awaitable[None]]
) -> None:
    """Start the stack of `home` and run `while_running`. Stop everything when that ends or this task is cancelled."""
    with home.lock(), private_files():
        home.keep_private()
        if not is_free(options.port):
            raise LocalError(f"Port {options.port} is taken.", "Choose another: --port PORT.")
        deploy_platform_engines(home, options.platform_engines)
        write_local(home, options.port)
        stack = Stack(home, options.port, steps, options.in_containers, options.sandbox)
        try:
            await stack.start()
            # What is deployed while the first engines are made starts at once, and does not wait for them.
            following = asyncio.create_task(stack.follow())
            working = asyncio.ensure_future(_work(stack, options, while_running))
            try:
                done, _ = await asyncio.wait({following, working}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                working.cancel()
                stack.quit()
                await asyncio.wait({following, working})
        finally:
            steps.update("stop", "stopping everything")
            await stack.stop()
            steps.finish("stop", "everything is stopped")


async def _work(stack: Stack, options: RunOptions, while_running: Callable[[Stack], Awaitable[None]]) -> None:
    await stack.say_ready(wait_for_engines=options.wait_for_engines)
    await while_running(stack)


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Let nobody but the owner read the files that this process and those that it starts write during the block.

    Redis writes inputs and results with whatever mode it is started with, and engines and daprd write logs of them.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def deploy_platform_engines(home: Home, wanted: Collection[str] | None) -> None:
    """Deploy the wanted engines whose bundle is missing or differs from the checkout."""
    for folder, spec in checkout.platform_engines().items():
        chosen = wanted is None or spec.name in wanted
        is_leaving = is_retired(home.engines / spec.id)
        if chosen and not is_leaving and not is_deployed(home.engines, folder, spec):
            deploy_engine(home.engines, folder)


def write_local(home: Home, port: int) -> None:
    """Write local.json: the API's URL and a key of the local tenant, made at the first start."""
    key = home.read_local().get("api_key", "")
    if not has_key(home.tenants, LOCAL_TENANT, key):
        key = add_key(home.tenants, LOCAL_TENANT, admin=True)
    local = {"url": f"http://127.0.0.1:{port}", "tenant": LOCAL_TENANT, "api_key": key}
    write_private(home.local_json, json.dumps(local, indent=2) + "\n")
