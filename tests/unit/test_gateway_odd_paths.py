"""Names, ids and keys with odd characters are not found or refused by all routes, and never a failure to try again."""

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from tests.support.gateway import GatewayWorld, gateway_world
from tests.support.gateway_socket import exchange, listening

from enginehouse.contracts.names import new_job_id

ODD = {
    "null": "%00",
    "null inside": "a%00b",
    "dots": "..",
    "escaped dots": "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "slashes": "a%2Fb%5Cc",
    "controls": "%01%1b%5b2J%7f",
    "line ends": "a%0d%0aX-A:%20b",
    "unicode": "%E2%80%AE%F0%9F%98%80",
    "no unicode": "%ff%fe",
    "surrogate": "%ed%a0%80",
    "percent": "%",
    "half an escape": "%zz",
    "quotes": "'%22;--",
    "wildcards": "%25_*?",
    "long": "a" * 5_000,
    "longer than a column": "%C3%A9" * 600,
    "number": "9" * 400,
    "an id with more": "{id}%00",
    "an id in capitals": "{ID}",
}
PATHS = [
    ("GET", "/v1/jobs/{}"),
    ("GET", "/v1/jobs/{}/events"),
    ("POST", "/v1/jobs/{}/cancel"),
    ("POST", "/v1/jobs/{}/retry"),
    ("GET", "/v1/jobs?cursor={}"),
    ("GET", "/v1/jobs?engine={}"),
    ("GET", "/v1/jobs?status={}"),
    ("GET", "/v1/engines/{}"),
    ("GET", "/v1/engines/{}/openapi.json"),
    ("POST", "/v1/engines/{}/jobs"),
    ("POST", "/v1/engines/{}/resume"),
    ("POST", "/v1/engines/{}/purge"),
    ("POST", "/v1/engines/{}/quarantine"),
    ("GET", "/v1/dead-letters/{}"),
    ("POST", "/v1/dead-letters/{}/redrive"),
    ("POST", "/v1/dead-letters/{}/discard"),
    ("GET", "/v1/dead-letters?cursor={}"),
    ("GET", f"/v1/objects/{{}}?expires=4000000000&signature={'0' * 64}"),
    ("PUT", f"/v1/objects/acme/uploads/{{}}?expires=4000000000&signature={'0' * 64}"),
    ("GET", f"/v1/objects/a?expires=4000000000&signature={'0' * 64}&job={{}}"),
    ("GET", "/{}"),
]


async def ask(world: GatewayWorld, port: int, method: str, path: str, tenant: str, body: str = '{"input":1}') -> str:
    head = f"{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {world.keys[tenant]}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return (await exchange(port, (head + body).encode())).decode()


@pytest.fixture
async def served(ledger_url: str, tmp_path: Path) -> AsyncIterator[tuple[GatewayWorld, int]]:
    objects = (tmp_path / "objects").as_uri()
    async with gateway_world(tmp_path, ledger_url=ledger_url, objects_url=objects) as world, listening(world) as port:
        yield world, port


async def test_odd_paths_are_not_found(served: tuple[GatewayWorld, int]) -> None:
    world, port = served
    job_id = new_job_id()
    for (method, path), odd in itertools.product(PATHS, ODD.values()):
        filled = path.format(odd.replace("{id}", job_id).replace("{ID}", job_id.upper()))
        answer = await ask(world, port, method, filled, "admin" if "purge" in path or "quarantine" in path else "acme")
        status = int(answer.split()[1])
        assert status in (400, 403, 404, 405, 422), (method, filled, answer)
        # What is no HTTP is refused before anything of ours sees it.
        assert '"retryable":false' in answer or status == 400, (method, filled, answer)


async def test_odd_references_are_refused(served: tuple[GatewayWorld, int]) -> None:
    world, port = served
    prefixes = ("", "acme/uploads/", "acme/uploads/../../umbra/inputs/")
    for odd, prefix, field in itertools.product(ODD.values(), prefixes, ("input_ref", "engine")):
        body = json.dumps({field: prefix + unquote(odd, errors="surrogateescape")})
        answer = await ask(world, port, "POST", "/v1/jobs", "acme", body)
        assert int(answer.split()[1]) in (400, 404, 422), (body, answer)
        assert '"retryable":false' in answer
