"""A gateway for fuzzers: one tenant sends anything, and another one has secrets of which nothing may come back."""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import httpx2
import pydantic_core
from sqlalchemy import select
from tests.support.gateway import PRIVATE, STANDARD, GatewayWorld, gateway_world, make_tenant
from tests.support.problems import anonymous
from tests.support.scripted_runner import fail, succeed
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.job import Status
from enginehouse.contracts.tenant import Limits
from enginehouse.gateway.ledger.schema import jobs

MARKER = "the-victims-secret-4711"
VICTIMS_JOB = "VICTIMS-JOB"
"""Stands for the id of a job of the victim, which is another one in each run."""
_FUZZER = "fuzzer"
_MEMBERS_MAX, _BATCH_MAX_BYTES = 50, 48 * 1024
_AT_ONCE = 16

Body = tuple[str, bytes, str]
"""Path, body, content type."""
_BATCHES = {
    ("/v1/events", "application/cloudevents+json"): (b"[", b"]", "/v1/events", "application/cloudevents-batch+json"),
    ("/v1/jobs", "application/json"): (b'{"jobs":[', b"]}", "/v1/jobs/batch", "application/json"),
}
"""What can travel together, and how: before and after its members, path, content type."""


def checked(answer: httpx2.Response) -> httpx2.Response:
    """Check that an answer is no failure, holds nothing of the victim's, and is JSON if it says so. Return it."""
    assert answer.status_code < 500, (answer.status_code, answer.content[:500])
    shown = answer.content + repr(answer.headers).encode()
    assert MARKER.encode() not in shown, shown
    if answer.content and "json" in answer.headers.get("content-type", ""):
        json.loads(answer.content)
    return answer


class FuzzedGateway:
    """A gateway that one tenant sends anything, on which another one has jobs with secrets in them."""

    def __init__(self, world: GatewayWorld) -> None:
        self.world = world
        self.accepted: set[str] = set()
        """The ids of the jobs that the fuzzer was told to be accepted."""
        self._victims: list[str] = []
        self._victims_rows: list[tuple[str, str]] = []

    async def keep_secrets(self) -> None:
        """Give the victim jobs that succeeded and failed, of its own engine and of a shared one, with the marker in all."""
        world = self.world
        for engine in (PRIVATE, STANDARD):
            for answer in (succeed, fail):
                world.runners[engine].answer = answer
                job = await world.submit(MARKER, tenant="umbra", engine=engine, parameters={MARKER: MARKER})
                await until_async(partial(self._has_ended, job))
                self._victims.append(job)
            world.runners[engine].answer = succeed
        self._victims_rows = await self._rows("umbra")

    async def _has_ended(self, job: str) -> bool:
        return Status((await self.world.job(job, tenant="umbra"))["status"]).is_final

    async def send_bodies(self, bodies: Sequence[Body]) -> None:
        """Send bodies, together where the API takes them together, and check every answer and the tenant's own pages."""
        together, alone = _sorted(bodies)
        for kind, members in together:
            if not await self._send_batch(kind, members):
                alone += [(kind[0], member, kind[1]) for member in members]
        for at in range(0, len(alone), _AT_ONCE):
            await asyncio.gather(*(self._send(body) for body in alone[at : at + _AT_ONCE]))
        newest = max(self.accepted, default="x")
        for page in ("/v1/jobs", f"/v1/jobs/{newest}"):
            checked(await self.world.client(_FUZZER).get(page))

    async def _send(self, body: Body) -> None:
        answer = await self._post(*body)
        if answer.status_code == 202:
            found = json.loads(answer.content)
            self.accepted.update(job["id"] for job in found.get("jobs", [found]) if "id" in job)

    async def _send_batch(self, kind: tuple[str, str], members: list[bytes]) -> bool:
        """Send members as one request. Return False if it was refused as a whole, so that no member has an answer."""
        before, after, path, content_type = _BATCHES[kind]
        answer = await self._post(path, before + b",".join(members) + after, content_type)
        if answer.status_code != 202:
            return False
        found = json.loads(answer.content)["jobs"]
        assert len(found) == len(members), (len(found), members)
        for member, one in zip(members, found, strict=True):
            assert "id" in one or one["problem"]["status"] < 500, (member, one)
            self.accepted.update({one["id"]} if "id" in one else ())
        return True

    async def _post(self, path: str, body: bytes, content_type: str) -> httpx2.Response:
        body = body.replace(VICTIMS_JOB.encode(), self._victims[0].encode())
        headers = {"Content-Type": content_type}
        return checked(await self.world.client(_FUZZER).post(path, content=body, headers=headers))

    async def send_headers(self, method: str, path: str, headers: list[tuple[str, bytes]]) -> None:
        """Send one request with these headers, and check its answer."""
        own = [(b"authorization", f"Bearer {self.world.keys[_FUZZER]}".encode())]
        body = b'{"input":1}' if method == "POST" else b""
        async with anonymous(self.world, [*own, *((name.encode(), value) for name, value in headers)]) as client:
            answer = await client.request(method, path.replace(VICTIMS_JOB, self._victims[0]), content=body)
        checked(answer)
        # 200: a header asked to wait until the job has ended.
        if method == "POST" and answer.status_code in (200, 202) and (job := json.loads(answer.content).get("id")):
            self.accepted.add(job)

    async def settle(self) -> None:
        """Check that the ledger has exactly the jobs that were accepted, all of them ended, and the victim's untouched."""

        async def is_settled() -> bool:
            await self.world.sweep()
            return all(Status(status).is_final for _, status in await self._rows(_FUZZER))

        await until_async(is_settled, "every job has ended", 120, poll_seconds=0.2)
        found = {job for job, _ in await self._rows(_FUZZER)}
        assert found == self.accepted, (found - self.accepted, self.accepted - found)
        assert await self._rows("umbra") == self._victims_rows
        for event in self.world.dapr.published[names.finished_topic(_FUZZER)]:
            assert MARKER.encode() not in event, event

    async def _rows(self, tenant: str) -> list[tuple[str, str]]:
        query = select(jobs.c.id, jobs.c.status).where(jobs.c.tenant == tenant).order_by(jobs.c.id)
        return await self.world.gateway.ledger.read(
            lambda connection: [(row.id, row.status) for row in connection.execute(query)]
        )


def _sorted(bodies: Sequence[Body]) -> tuple[list[tuple[tuple[str, str], list[bytes]]], list[Body]]:
    """Return the bodies that can travel together, in groups, and the others."""
    groups: list[tuple[tuple[str, str], list[bytes]]] = []
    for kind in _BATCHES:
        members: list[bytes] = []
        for path, body, content_type in bodies:
            if (path, content_type) != kind or len(body) > _BATCH_MAX_BYTES // 4 or not _is_json(body):
                continue
            if len(members) == _MEMBERS_MAX or sum(map(len, members)) + len(body) > _BATCH_MAX_BYTES:
                groups.append((kind, members))
                members = []
            members.append(body)
        groups += [(kind, members)] if members else []
    sent = {(kind, body) for kind, members in groups for body in members}
    alone = [body for body in bodies if ((body[0], body[2]), body[1]) not in sent]
    return groups, alone


def _is_json(body: bytes) -> bool:
    try:
        pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError:
        return False
    return not body.startswith(b"\xef\xbb\xbf")


@contextlib.asynccontextmanager
async def fuzzed_gateway(folder: Path) -> AsyncIterator[FuzzedGateway]:
    """Run a gateway with secrets of a victim, and check at the end that every accepted job is accounted for."""
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        key = make_tenant(Path(fresh) / "tenants", _FUZZER, limits=Limits(submits_per_second=1e9, jobs_in_flight=10**9))
        async with gateway_world(Path(fresh), engines=[STANDARD, f"{_FUZZER}--echo", PRIVATE]) as world:
            world.keys[_FUZZER] = key
            gateway = FuzzedGateway(world)
            await gateway.keep_secrets()
            yield gateway
            await gateway.settle()
