"""Requests that no HTTP library would send, over a real socket: each is refused or ignored, and the next one works."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.support.gateway import GatewayWorld, gateway_world
from tests.support.gateway_socket import exchange, listening

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIMIT = 1_000


class Served:
    """A gateway on a port."""

    def __init__(self, world: GatewayWorld, port: int) -> None:
        self.world = world
        self.port = port

    async def send(self, *parts: bytes, headers: bytes = b"", close: bool = False) -> bytes:
        """POST /v1/engines/echo/jobs with these headers; `parts` are what follows them."""
        key = self.world.keys["acme"].encode()
        head = b"POST /v1/engines/echo/jobs HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer " + key + b"\r\n"
        return await exchange(self.port, head + headers + b"\r\n", *parts, close=close)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    async with gateway_world(folder, body_max_bytes=LIMIT) as world, listening(world) as port:
        yield Served(world, port)


def length(number: int) -> bytes:
    return b"Content-Length: %d\r\n" % number


CHUNKED = b"Transfer-Encoding: chunked\r\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


async def test_a_job_as_it_should_be(served: Served) -> None:
    body = b'{"input":"hello"}'
    assert (await served.send(body, headers=length(len(body)))).startswith(b"HTTP/1.1 202 ")
    parts = [chunk(body[:5]), chunk(body[5:]), b"0\r\n\r\n"]
    assert (await served.send(*parts, headers=CHUNKED)).startswith(b"HTTP/1.1 202 ")


REFUSED = {
    "a length that is no number": ([b"{}"], b"Content-Length: many\r\n", b"400"),
    "a negative length": ([b"{}"], b"Content-Length: -1\r\n", b"400"),
    "two lengths": ([b'{"input":1}'], length(11) + length(12), b"400"),
    "a length and chunks": ([chunk(b"{}"), b"0\r\n\r\n"], length(2) + CHUNKED, b"400"),
    "a length beyond the limit, with nothing sent": ([], length(LIMIT + 1), b"413"),
    "a length beyond all limits": ([], b"Content-Length: 999999999999999\r\n", b"413"),
    "a shorter length than the body": ([b'{"input":1}'], length(5), b"4"),
    "chunks beyond the limit": ([chunk(b"x" * 600)] * 2, CHUNKED, b"413"),
    "many small chunks beyond the limit": ([chunk(b"x") * (LIMIT + 1)], CHUNKED, b"413"),
    "a chunk that is none": ([b"zz\r\n{}\r\n"], CHUNKED, b"400"),
    "a header with a null byte": ([b"{}"], length(2) + b"X-A: \x00\r\n", b"400"),
    "a header of 100 kB": ([b"{}"], length(2) + b"X-A: " + b"a" * 100_000 + b"\r\n", b"431"),
    "10,000 headers": ([b"{}"], length(2) + b"".join(b"X-%d: a\r\n" % i for i in range(10_000)), b"431"),
}


@pytest.mark.parametrize(("parts", "headers", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_lying_or_monstrous_request_is_refused(
    served: Served, parts: list[bytes], headers: bytes, status: bytes
) -> None:
    before = await served.world.stored()
    answer = await served.send(*parts, headers=headers)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:300]
    assert b"Traceback" not in answer
    assert await served.world.stored() == before
    await test_a_job_as_it_should_be(served)


@pytest.mark.parametrize("headers", [length(100), CHUNKED])
async def test_a_body_that_never_comes_whole_stores_nothing(served: Served, headers: bytes) -> None:
    before = await served.world.stored()
    await served.send(b'{"input":', headers=headers, close=True)
    await test_a_job_as_it_should_be(served)
    assert (await served.world.stored())["jobs"] == before["jobs"] + 2


@pytest.mark.parametrize("name", [b"Authorization", b"Idempotency-Key", b"Content-Type"])
async def test_of_two_answers_to_one_question_neither_counts(served: Served, name: bytes) -> None:
    before = await served.world.stored()
    answer = await served.send(b'{"input":1}', headers=length(11) + 2 * (name + b": application/json\r\n"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer
    assert b"x-request-id" in answer
    assert name.lower() in answer
    assert await served.world.stored() == before


@pytest.mark.parametrize("line", [b"GET /v1/jobs HTTP/9.9", b"GE\x00T / HTTP/1.1", b"GET", b"\x16\x03\x01\x02\x00"])
async def test_what_is_not_http_is_answered_as_such(served: Served, line: bytes) -> None:
    answer = await exchange(served.port, line + b"\r\n\r\n")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    await test_a_job_as_it_should_be(served)


@pytest.mark.parametrize("given", [b"01890a5d-ac96-7b2a-8c4e-0123456789ab", b"abc.1", b"x" * 65, b"\xff", b"a b", b""])
async def test_a_callers_own_request_id_is_kept_where_it_can_be_one(served: Served, given: bytes) -> None:
    answer = await served.send(headers=length(0) + b"X-Request-Id: " + given + b"\r\n")
    (line,) = [line for line in answer.split(b"\r\n") if line.startswith(b"x-request-id: ")]
    assert (line == b"x-request-id: " + given) == (given[:1].isalnum() and len(given) <= 64 and b" " not in given)
