"""Every client of engines keeps the same promises, whatever it speaks: one suite for all of them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pydantic_core
import pytest
from tests.support.servers import SPOKEN, Deed, Spoken, StandIn, spec_of
from tests.support.waiting import until_async

from enginehouse.checkers import Checkers
from enginehouse.contracts.job import JobErrorCode
from enginehouse.runner.clients.base import Busy, Closed, EngineClient, Prediction, Unreachable
from enginehouse.runner.clients.choose import engine_client
from enginehouse.runner.clients.wire import Limits
from enginehouse.runner.clock import Clock
from enginehouse.runner.outcome import Failed, Rejected, Succeeded

LIMITS = Limits(predict_max_bytes=512 * 1024, output_max_bytes=256 * 1024)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(params=SPOKEN)
def spoken(request: pytest.FixtureRequest) -> Spoken:
    return SPOKEN[request.param]


@pytest.fixture
async def server(spoken: Spoken) -> AsyncIterator[StandIn]:
    made = StandIn(spoken)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client(spoken: Spoken, server: StandIn) -> AsyncIterator[EngineClient]:
    made = engine_client(spec_of(spoken), server.url, Checkers(), LIMITS, count_jobs=lambda _: None)
    yield made
    await made.close()


def job(spoken: Spoken) -> Prediction:
    return Prediction("job-1", spoken.input, traceparent=TRACE, tenant="acme")


def output_of(reply: Succeeded) -> Any:
    return reply.output if reply.output_json is None else pydantic_core.from_json(reply.output_json)


async def test_an_answer_is_the_result(spoken: Spoken, server: StandIn, client: EngineClient) -> None:
    reply = await client.predict(job(spoken))
    assert isinstance(reply, Succeeded)
    assert output_of(reply) == spoken.result("fine")
    assert reply.size > 0
    assert server.headers[0]["traceparent"] == TRACE
    assert client.address == server.url.removeprefix("http://")
    assert client.warning is None


async def test_a_large_input_and_a_large_result_pass(spoken: Spoken, server: StandIn, client: EngineClient) -> None:
    server.text = "y" * 100_000
    clock = Clock(30)
    async with clock.running():
        text = pydantic_core.to_json(spoken.input)
        reply = await client.predict(Prediction("job-1", None, data_json=text, clock=clock, tenant="acme"))
    assert isinstance(reply, Succeeded), reply
    assert output_of(reply) == spoken.result(server.text)
    assert b"hello" in (
        pydantic_core.to_json(server.bodies[0])
        if isinstance(server.bodies[0], dict)
        else server.bodies[0].SerializeToString()
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, Rejected("no such thing")),
        (404, Rejected("no such thing")),
        (429, Busy),
        (503, Busy),
        (500, Failed),
    ],
)
async def test_a_status_means_the_same(
    spoken: Spoken, server: StandIn, client: EngineClient, status: int, expected: object
) -> None:
    server.deed = status
    reply = await client.predict(job(spoken))
    if isinstance(expected, type):
        assert isinstance(reply, expected)
        assert not isinstance(reply, Failed) or (reply.retryable and "no such thing" in reply.message)
    else:
        assert reply == expected


@pytest.mark.parametrize(
    ("deed", "code"),
    [("nonsense", JobErrorCode.MALFORMED_ANSWER), ("too much", JobErrorCode.OUTPUT_TOO_LARGE)],
)
async def test_an_answer_of_no_use_is_final(
    spoken: Spoken, server: StandIn, client: EngineClient, deed: Deed, code: JobErrorCode
) -> None:
    server.deed = deed
    reply = await client.predict(job(spoken))
    assert isinstance(reply, Failed), reply
    assert (reply.code, reply.retryable) == (code, False)


async def test_a_result_has_no_more_bytes_than_its_job_can_keep(
    spoken: Spoken, server: StandIn, client: EngineClient
) -> None:
    server.text = "y" * 2_000
    reply = await client.predict(Prediction("job-1", spoken.input, output_max_bytes=1_500))
    assert isinstance(reply, Failed)
    assert reply.code is JobErrorCode.OUTPUT_TOO_LARGE
    assert "1500" in reply.message


async def test_a_closed_connection_is_told_from_one_that_was_never_made(
    spoken: Spoken, server: StandIn, client: EngineClient
) -> None:
    server.deed = "close"
    assert isinstance(await client.predict(job(spoken)), Closed)
    await server.stop()
    assert isinstance(await client.predict(job(spoken)), Unreachable)


async def test_a_call_that_is_given_up_is_closed(spoken: Spoken, server: StandIn, client: EngineClient) -> None:
    server.deed = "hang"
    call = asyncio.create_task(client.predict(job(spoken)))
    await server.entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await server.closed.wait()


async def test_health_is_what_the_server_says(spoken: Spoken, server: StandIn, client: EngineClient) -> None:
    health = await client.health()
    assert (health.ok, health.answered, health.fault) == (True, True, None)
    server.status = 503
    health = await client.health()
    assert (health.ok, health.answered) == (False, True)
    assert spoken.ready in (health.fault or "")
    await server.stop()
    assert "nothing listens on" in ((await client.health()).fault or "")


async def test_a_server_that_comes_back_is_well_again(spoken: Spoken, server: StandIn, client: EngineClient) -> None:
    await client.health()
    await server.stop()
    assert not (await client.health()).ok
    await server.start()

    async def well() -> bool:
        return (await client.health()).ok

    await until_async(well)


async def test_a_silent_server_has_not_answered(spoken: Spoken, server: StandIn, client: EngineClient) -> None:
    server.silent = True
    health = await client.health()
    assert (health.ok, health.answered) == (False, False)
    assert "no answer within 2 s" in (health.fault or "")
