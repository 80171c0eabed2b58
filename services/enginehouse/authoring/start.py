"""Wait until an engine under test is healthy, and say at once why it never will be."""

import asyncio
import time

import httpx2

from enginehouse.authoring.alone import EngineAlone
from enginehouse.authoring.findings import Over, Report, advice
from enginehouse.local.steps import Steps
from enginehouse.runner.clients.base import EngineClient

_LOOK_SECONDS = 0.1
_USUAL_SECONDS = 3.0
"""Until then, nothing need be said about an engine that is not healthy."""
_OTHER_PORT_SECONDS = 10.0
"""After so long, whatever else it listens on counts as the port that it means."""
_NO_SUCH_ROUTE = (404, 405, 501)
_LOOPBACK = ("127.0.0.1", "::1")
_REACHABLE = ("127.0.0.1", "0.0.0.0", "::")  # noqa: S104 - what an engine may listen on


async def wait_until_healthy(
    alone: EngineAlone, client: EngineClient, http: httpx2.AsyncClient, report: Report, steps: Steps, seconds: float
) -> None:
    """Report that it listens and is healthy. Raise Over, with the reason reported, if it ends or takes too long."""
    began = time.monotonic()
    wrong = await _wait(alone, client, http, steps, seconds)
    name = alone.spec.id
    steps.finish("start", f"{name} does not come up" if wrong else f"{name} is up", ok=wrong is None)
    if wrong:
        report.failed(*wrong)
        raise Over
    _report_addresses(alone, report)
    what = "GET /healthz answered 200" if alone.spec.protocol == "predict" else f"It was ready by {alone.spec.protocol}"
    report.ok("health", f"{what} after {time.monotonic() - began:.1f} s")


async def _wait(
    alone: EngineAlone, client: EngineClient, http: httpx2.AsyncClient, steps: Steps, seconds: float
) -> tuple[str, str, str] | None:
    """Return None once it is healthy; otherwise the check that failed, why, and the engine's own words."""
    began = time.monotonic()
    while not (health := await client.health()).ok:
        if ended := alone.how_it_ended():
            words = alone.words()
            return "start", f"It ended with {ended.rstrip('.')}{advice(words, alone)}", words
        waited = time.monotonic() - began
        if wrong := await _wrong_address(alone, http, waited) or await _no_route(alone, http):
            return (*wrong, "")
        if waited > seconds:
            return "health", f"After {seconds:g} s, {health.fault}", alone.words()
        usual = waited < _USUAL_SECONDS
        steps.update("start", f"starting {alone.spec.id}" + ("" if usual else f": {health.fault}"))
        await asyncio.sleep(_LOOK_SECONDS)
    return None


async def _wrong_address(alone: EngineAlone, http: httpx2.AsyncClient, waited: float) -> tuple[str, str] | None:
    listens = alone.listens()
    own = sorted(address for address, port in listens if port == alone.port)
    if own:
        if any(address in _REACHABLE for address in own):
            return None
        return "start", f"It listens on {own[0]} only, and must listen on 127.0.0.1."
    for port in sorted({port for _, port in listens}):
        if waited > _OTHER_PORT_SECONDS or await _status(http, f"http://127.0.0.1:{port}/healthz") == 200:
            return "start", (
                f"It listens on port {port}, and must listen on the port in its variable PORT, which is {alone.port} "
                "this time. Read that variable instead of a fixed number."
            )
    return None


async def _no_route(alone: EngineAlone, http: httpx2.AsyncClient) -> tuple[str, str] | None:
    if alone.spec.protocol != "predict":
        return None
    status = await _status(http, f"{alone.url}/healthz")
    if status not in _NO_SUCH_ROUTE:
        return None
    return "health", (
        f"GET /healthz answers {status}. An engine must have this route: it answers 200 once the engine can work, and 503 "
        "while it loads."
    )


async def _status(http: httpx2.AsyncClient, url: str) -> int | None:
    try:
        async with http.stream("GET", url) as answer:
            return answer.status_code
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return None


def _report_addresses(alone: EngineAlone, report: Report) -> None:
    open_to_all = sorted(port for address, port in alone.listens() if address not in _LOOPBACK)
    if open_to_all:
        ports = " and ".join(map(str, open_to_all))
        report.note(
            "start",
            f"It listens on port {ports} for every machine of the network. As a process it should listen on the address in "
            "its variable HOST, and without that on 127.0.0.1.",
        )
    else:
        report.ok("start", f"It listens on the port in its variable PORT, which was {alone.port}")
