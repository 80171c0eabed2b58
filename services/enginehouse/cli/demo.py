"""`enginehouse demo`: start everything, put real jobs through the API, show what came back and what is refused, stop."""

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any

import httpx2
import typer
from rich.table import Table
from rich.text import Text

from enginehouse.cli.console import Steps, out
from enginehouse.cli.running import DEFAULT_HOME, HomeOption, run
from enginehouse.local.errors import LocalError
from enginehouse.local.home import Home
from enginehouse.local.ports import PortPool
from enginehouse.local.running import RunOptions, run_stack
from enginehouse.local.stack import Stack

_KNOWN_SECONDS = 60
_WAIT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Example:
    """One job of the demo: `engine` as a caller names it, and an input that fits its card."""

    engine: str
    input: Any


EXAMPLES = [
    Example("shared--standard", {"text": "What a wonderful day, everything simply works!"}),
    Example("shared--standard", {"text": "The train leaves at nine."}),
    Example("shared--standard", {"text": "The service was slow and the food was terrible."}),
    Example("shared--standard", {"text": "It's not bad at all, I rather like it :)"}),
]
"""More engines: more rows. Those of `services/engines` are deployed for the demo if a row names them."""

REFUSED = [
    ("an engine that does not exist", Example("no-such-engine", {"text": "Hello?"})),
    ("an input that does not fit the engine's schema", Example("shared--standard", {"text": 42})),
]


def demo(
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[int, typer.Option(help="Of the API, on 127.0.0.1. Default: any that is free.")] = 0,
) -> None:
    """Start everything, run real jobs, show them, and stop again. Uses the stack that runs in the home, if one does."""
    place = Home.at(home)
    run(_demo(place, port))


async def _demo(home: Home, port: int) -> None:
    if home.is_running():
        local = home.read_local()
        out.print(f"Using what runs in {home.path}.")
        await show(local["url"], local["api_key"])
        return
    began = time.monotonic()
    steps, pool = Steps(), PortPool()
    options = RunOptions(port or pool.take(), {example.engine.rpartition("--")[2] for example in EXAMPLES})

    async def work(stack: Stack) -> None:
        steps.finish("up", f"everything is up after {time.monotonic() - began:.1f} s")
        steps.close()
        await show(stack.url, home.read_local()["api_key"])

    with steps:
        await run_stack(home, options, steps, work)


async def show(url: str, key: str) -> None:
    """Submit the examples and print what became of them; LocalError if a job did not succeed."""
    try:
        await _show(url, key)
    except httpx2.HTTPError as error:
        raise LocalError(
            f"The API at {url} did not answer: {error!r}", "The logs folder of the home says more."
        ) from None


async def _show(url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=_WAIT_SECONDS + 10, trust_env=False) as client:
        for engine in dict.fromkeys(example.engine for example in EXAMPLES):
            await _until_known(client, engine)
        jobs = await asyncio.gather(*(_submit(client, example) for example in EXAMPLES))
        out.print(_table(jobs))
        for what, example in REFUSED:
            await _show_refusal(client, what, example)
        await _show_card(client, EXAMPLES[0].engine)
    failed = [job for job in jobs if job.get("status") != "succeeded"]
    if failed:
        raise LocalError(f"{len(failed)} of {len(jobs)} jobs did not succeed.", f"The first: {failed[0]}")


async def _until_known(client: httpx2.AsyncClient, engine: str) -> None:
    """An engine is known to the gateway a moment after its sidecar has loaded the engine's store."""
    deadline = time.monotonic() + _KNOWN_SECONDS
    while True:
        answer = await client.get(f"/v1/engines/{engine}")
        if answer.is_success and answer.json().get("card"):
            return
        if time.monotonic() > deadline:
            raise LocalError(f"The gateway does not know {engine}: {answer.text[:300]}", "See 'enginehouse status'.")
        await asyncio.sleep(0.05)


async def _submit(client: httpx2.AsyncClient, example: Example) -> dict[str, Any]:
    answer = await client.post(
        f"/v1/engines/{example.engine}/jobs",
        json={"input": example.input},
        headers={"Prefer": f"wait={_WAIT_SECONDS}"},
    )
    job: dict[str, Any] = answer.json()
    return {"engine": example.engine, "input": example.input, **job}


def _table(jobs: list[dict[str, Any]]) -> Table:
    table = Table(header_style="bold")
    for name, may_wrap in [
        ("engine", False),
        ("input", True),
        ("result", True),
        ("queue time", False),
        ("predict time", False),
    ]:
        table.add_column(name, no_wrap=not may_wrap)
    for job in jobs:
        metrics = job.get("metrics") or {}
        result = job.get("output") if job.get("status") == "succeeded" else job.get("error") or job
        table.add_row(
            Text(job["engine"]),
            Text(_brief(job["input"])),
            Text(_brief(result)),
            _milliseconds(metrics.get("queue_time")),
            _milliseconds(metrics.get("predict_time")),
        )
    return table


def _brief(value: Any) -> str:
    """Flat values of an object, without the names that say the same in every row."""
    if not isinstance(value, dict):
        return str(value)[:80]
    flat = [item for item in value.values() if not isinstance(item, dict | list)]
    return ", ".join(str(item) for item in flat)[:80]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f} ms"


async def _show_refusal(client: httpx2.AsyncClient, what: str, example: Example) -> None:
    answer = await client.post(f"/v1/engines/{example.engine}/jobs", json={"input": example.input})
    problem = answer.json()
    out.print(Text(f"\nRefused: {what}", style="bold"))
    out.print(Text(f"  {answer.status_code} {problem.get('code')}: {problem.get('detail')}"), soft_wrap=True)


async def _show_card(client: httpx2.AsyncClient, engine: str) -> None:
    answer = await client.get(f"/v1/engines/{engine}")
    card = answer.json()["card"]
    out.print(Text(f"\n{engine} {card['version']}: {card['description']}"), soft_wrap=True)
