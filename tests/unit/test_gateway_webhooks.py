"""Webhooks through the API are sent at a job's start and end, and repeated until they arrive, within a bound per job."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.support.dapr import PORTS
from tests.support.gateway import ECHO, STANDARD, GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.scripted_runner import ScriptedRunner, lose, never, retry
from tests.support.serving import serving
from tests.support.waiting import until_async

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.events import ENGINE_STATE_EVENTS, HandedJob
from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger.schema import notices
from enginehouse.gateway.pace import Pace
from enginehouse.registry.tenants import rotate_webhook_secret
from enginehouse.sidecar.fake import FakeDapr

STARTED, COMPLETED = "dev.enginehouse.job.started.v1", "dev.enginehouse.job.completed.v1"


class Receiver:
    """A tenant's own server, which answers what the test says."""

    def __init__(self) -> None:
        self.port = PORTS.take()
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self.status = 200
        self.received: list[tuple[dict[str, str], bytes]] = []

    async def hook(self, request: Request) -> Response:
        """Take one."""
        self.received.append((dict(request.headers), await request.body()))
        return Response(status_code=self.status)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.received]

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.received]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    with serving(Starlette(routes=[Route("/hook", made.hook, methods=["POST"])]), made.port):
        yield made
    PORTS.release(made.port)


@pytest.fixture
def secret(tmp_path: Path) -> str:
    return rotate_webhook_secret(tmp_path / "secrets", "acme")


@contextlib.asynccontextmanager
async def telling(folder: Path, **changes: Any) -> AsyncIterator[GatewayWorld]:
    settings = {"webhook_secrets_dir": folder / "secrets", "webhook_allow_inside": True, **changes}
    async with gateway_world(folder, **settings) as world:
        yield world


async def run_seen(world: GatewayWorld, job_id: str) -> None:
    """The job runs long enough to be seen running, then ends."""
    await world.until_status(job_id, Status.RUNNING)
    await world.runner.end(await world.delivered(job_id), output="long" * 100)
    await world.until_status(job_id, Status.SUCCEEDED)


async def webhooks(world: GatewayWorld, job_id: str, state: str, count: int = 1) -> list[dict[str, Any]]:
    """The job's webhooks, once so many are in that state."""

    async def settled() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = [hook for hook in (await world.job(job_id))["webhooks"] if hook["state"] == state]
        return found if len(found) >= count else None

    found: list[dict[str, Any]] = await until_async(settled)
    return found


async def due_now(world: GatewayWorld) -> None:
    """What waits to be told is due."""
    statement = notices.update().values(due_at=time.time() - 1)
    await world.gateway.ledger.database.transact(lambda connection: connection.execute(statement), durable=False)
    world.gateway.notifier.wake()


async def test_the_start_and_the_end_are_told_signed_and_thin(tmp_path: Path, receiver: Receiver, secret: str) -> None:
    async with telling(tmp_path) as world:
        world.runner.answer = never
        job_id = await world.submit(webhook=receiver.url, webhook_events_filter=["start", "completed"])
        await run_seen(world, job_id)
        done = await webhooks(world, job_id, "delivered", 2)
        assert [(hook["event"], hook["attempts"], hook["last_error"]) for hook in done] == [
            (STARTED, 1, None),
            (COMPLETED, 1, None),
        ]
        assert (await world.job(job_id))["status"] == "succeeded"
    assert [body["type"] for body in receiver.bodies] == [STARTED, COMPLETED]
    assert len(set(receiver.ids)) == 2
    for headers, body in receiver.received:
        said: Any = Webhook(secret).verify(body, headers)
        assert said["data"]["id"] == job_id
        assert set(said) == {"type", "timestamp", "data"}
        assert b"longlong" not in body


@pytest.mark.parametrize(("wanted", "told"), [(None, [COMPLETED]), (["start"], [STARTED])])
async def test_only_what_was_asked_for_is_told(
    tmp_path: Path, receiver: Receiver, secret: str, wanted: Any, told: list[str]
) -> None:
    async with telling(tmp_path) as world:
        world.runner.answer = never
        options = {"webhook_events_filter": wanted} if wanted else {}
        job_id = await world.submit(webhook=receiver.url, **options)
        await run_seen(world, job_id)
        await webhooks(world, job_id, "delivered")
        assert [hook["event"] for hook in (await world.job(job_id))["webhooks"]] == told
    assert [body["type"] for body in receiver.bodies] == told


@pytest.mark.parametrize("wanted", [["start"], ["start", "completed"]])
async def test_a_job_of_milliseconds_tells_its_start_as_well_and_first(
    tmp_path: Path, receiver: Receiver, secret: str, wanted: list[str]
) -> None:
    async with telling(tmp_path) as world:
        job_id = await world.submit(webhook=receiver.url, webhook_events_filter=wanted)
        await webhooks(world, job_id, "delivered", len(wanted))
    assert [body["type"] for body in receiver.bodies] == [STARTED, COMPLETED][: len(wanted)]
    assert receiver.bodies[0]["data"] == {"id": job_id, "engine": ECHO, "status": "running", "error": None}
    assert receiver.bodies[0]["timestamp"] <= receiver.bodies[-1]["timestamp"]


async def test_a_job_of_several_attempts_tells_its_start_once(tmp_path: Path, receiver: Receiver, secret: str) -> None:
    async with telling(tmp_path) as world:
        world.runner.answer = claim_and_retry
        job_id = await world.submit(
            webhook=receiver.url,
            webhook_events_filter=["start", "completed"],
            retry={"max_attempts": 3, "initial_delay_ms": 0},
        )
        await webhooks(world, job_id, "delivered", 2)
        assert (await world.job(job_id))["attempts"] == 3
    assert [body["type"] for body in receiver.bodies] == [STARTED, COMPLETED]


async def claim_and_retry(runner: ScriptedRunner, event: HandedJob) -> bool:
    """Run every second attempt for so long that it is seen running."""
    if event.attempt % 2 == 0:
        await runner.claim(event)
    return await retry(runner, event)


async def test_a_job_that_never_began_tells_no_start(tmp_path: Path, receiver: Receiver, secret: str) -> None:
    async with telling(tmp_path) as world:
        world.runner.answer = lose
        job_id = await world.submit(webhook=receiver.url, webhook_events_filter=["start", "completed"])
        await world.client().post(f"/v1/jobs/{job_id}/cancel")
        await webhooks(world, job_id, "delivered")
    assert [body["type"] for body in receiver.bodies] == [COMPLETED]


async def test_a_job_without_a_webhook_has_none(tmp_path: Path) -> None:
    async with telling(tmp_path) as world:
        assert (await world.job(await world.submit(), wait=5)).get("webhooks", []) == []


async def test_what_did_not_arrive_is_told_again_also_by_the_gateway_that_comes_after(
    tmp_path: Path, receiver: Receiver, secret: str
) -> None:
    receiver.status, dapr = 503, FakeDapr()
    async with telling(tmp_path, dapr=dapr, pace=Pace(notice_backoff=lambda attempts: 3_600)) as before:
        job_id = await before.submit(webhook=receiver.url)
        (hook,) = await webhooks(before, job_id, "pending")
        await until_async(lambda: receiver.received)

        async def noted() -> bool:
            (hook,) = (await before.job(job_id))["webhooks"]
            return bool(hook["last_error"] == "the receiver answered 503")

        await until_async(noted)
        assert (await before.job(job_id))["status"] == "succeeded"
    dapr.handlers.clear()
    receiver.status = 204
    async with telling(tmp_path, dapr=dapr) as world:
        await due_now(world)
        (hook,) = await webhooks(world, job_id, "delivered")
        assert hook["attempts"] == 2
        assert (await world.job(job_id))["status"] == "succeeded"
    assert len(receiver.received) == 2
    assert len(set(receiver.ids)) == 1


async def test_a_gateway_that_died_while_telling_is_followed_by_one_that_tells(
    tmp_path: Path, receiver: Receiver, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dapr = FakeDapr()
    async with telling(tmp_path, dapr=dapr) as before:
        telling_now = asyncio.Event()

        async def hang(notice: Any) -> None:
            telling_now.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(before.gateway.webhooks, "send", hang)
        job_id = await before.submit(webhook=receiver.url)
        await telling_now.wait()
    dapr.handlers.clear()
    async with telling(tmp_path, dapr=dapr) as world:
        assert (await world.job(job_id))["webhooks"][0]["state"] == "pending"
        await due_now(world)
        await webhooks(world, job_id, "delivered")


async def test_a_receiver_that_wants_no_more_gets_no_more_and_the_job_is_what_it_was(
    tmp_path: Path, receiver: Receiver, secret: str
) -> None:
    receiver.status = 410
    async with telling(tmp_path) as world:
        job_id = await world.submit(webhook=receiver.url)
        (hook,) = await webhooks(world, job_id, "failed")
        assert "410" in hook["last_error"]
        assert (await world.job(job_id))["status"] == "succeeded"
        await due_now(world)
    assert len(receiver.received) == 1


async def test_after_its_last_attempt_it_is_given_up_with_the_reason(
    tmp_path: Path, receiver: Receiver, secret: str
) -> None:
    receiver.status = 500
    async with telling(tmp_path, pace=Pace(notice_backoff=lambda attempts: -1, outbox_idle_seconds=0.01)) as world:
        job_id = await world.submit(webhook=receiver.url)
        (hook,) = await webhooks(world, job_id, "failed")
    assert (hook["attempts"], hook["last_error"]) == (20, "the receiver answered 500")
    assert len(receiver.received) == 20


async def test_a_receiver_that_hangs_does_not_hold_up_what_others_are_told(
    tmp_path: Path, receiver: Receiver, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate_webhook_secret(tmp_path / "secrets", "umbra")
    async with telling(tmp_path) as world:
        send, go = world.gateway.webhooks.send, asyncio.Event()

        async def slow(notice: Any) -> None:
            if notice.tenant == "acme":
                await go.wait()
            await send(notice)

        monkeypatch.setattr(world.gateway.webhooks, "send", slow)
        held = [await world.submit(number, webhook=receiver.url) for number in range(100)]
        for job_id in held:
            await world.job(job_id, wait=5)
        theirs = await world.submit(tenant="umbra", engine="standard", webhook=receiver.url)
        await world.gateway.notifier.send_event("umbra", "some.event", {})
        await until_async(lambda: receiver.received)
        await until_async(lambda: world.dapr.published["finished.umbra"])
        assert receiver.bodies[0]["data"]["id"] == theirs
        go.set()
        await webhooks(world, held[-1], "delivered")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/hook", "http://10.1.2.3/", "https://[::1]/", "http://169.254.169.254/latest"]
)
async def test_an_inside_address_is_refused_and_nothing_stored(tmp_path: Path, secret: str, url: str) -> None:
    async with telling(tmp_path, webhook_allow_inside=False) as world:
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1, "webhook": url})
        problem_of(answer, 422, "WEBHOOK_REFUSED")
        assert (await world.stored())["jobs"] == 0


@pytest.mark.parametrize("url", ["http://ex..com/", f"http://{'a' * 70}.com/", "http://☃ß/", "http://a/\u0001"])
async def test_an_address_that_nothing_can_be_sent_to_is_refused(tmp_path: Path, secret: str, url: str) -> None:
    async with telling(tmp_path) as world:
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1, "webhook": url})
        problem_of(answer, 422, "WEBHOOK_REFUSED")


async def test_a_name_that_leads_inside_is_told_as_one_that_leads_nowhere(
    tmp_path: Path, receiver: Receiver, secret: str
) -> None:
    async with telling(tmp_path, webhook_allow_inside=False) as world:
        job_id = await world.submit(webhook=f"http://localhost:{receiver.port}/hook")

        async def tried() -> dict[str, Any] | None:
            found: list[dict[str, Any]] = (await world.job(job_id))["webhooks"]
            return found[0] if found and found[0]["last_error"] else None

        hook = await until_async(tried)
        assert hook["state"] == "pending"
        assert hook["last_error"] == "localhost has no address outside of the platform"
        assert (await world.job(job_id))["status"] == "succeeded"
    assert receiver.received == []


async def test_a_notice_that_nothing_can_be_sent_for_stops_no_other(
    tmp_path: Path, receiver: Receiver, secret: str
) -> None:
    async with telling(tmp_path) as world:
        world.runner.answer = lose
        bad = await world.submit(webhook=receiver.url)
        good = await world.submit(webhook=receiver.url)
        for job_id in (bad, good):
            await world.runner.end(await world.delivered(job_id), tell=False)
        # As it was stored by a gateway that knew less about addresses.
        options = json.loads(await options_of(world, bad))
        await world.change(bad, options=json.dumps({**options, "webhook": "http://ex..com/"}))
        await world.aged(bad, 60)
        await world.aged(good, 60)
        await world.sweep()
        (hook,) = await webhooks(world, bad, "failed")
        assert "cannot be used" in hook["last_error"]
        await webhooks(world, good, "delivered")


async def options_of(world: GatewayWorld, job_id: str) -> str:
    query = f"SELECT options FROM jobs WHERE id = '{job_id}'"
    return str(await world.gateway.ledger.read(lambda connection: connection.exec_driver_sql(query).scalar_one()))


async def test_without_a_secret_a_webhook_is_refused_with_the_way_to_one(tmp_path: Path) -> None:
    async with telling(tmp_path) as world:
        answer = await world.client().post("/v1/engines/echo/jobs", json={"input": 1, "webhook": "https://a.example/"})
        assert "webhook-secret acme" in problem_of(answer, 422, "WEBHOOK_REFUSED")["detail"]


async def test_a_canceled_job_is_told_too(tmp_path: Path, receiver: Receiver, secret: str) -> None:
    async with telling(tmp_path) as world:
        world.runner.answer = never
        job_id = await world.submit(webhook=receiver.url)
        await world.until_status(job_id, Status.RUNNING)
        await world.client().post(f"/v1/jobs/{job_id}/cancel")
        await webhooks(world, job_id, "delivered")
    assert [body["data"]["status"] for body in receiver.bodies] == ["canceled"]


async def test_an_owner_is_told_what_becomes_of_its_engine(tmp_path: Path, receiver: Receiver, secret: str) -> None:
    async with telling(tmp_path) as world:
        path = tmp_path / "tenants/acme/tenant.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "webhook": receiver.url}))
        world.gateway.tenants.load()
        admin = world.client("admin")
        await admin.post(f"/v1/engines/{ECHO}/quarantine", json={"reason": "it lies"})
        await admin.post(f"/v1/engines/{STANDARD}/quarantine", json={"reason": "somebody else's"})
        await admin.post(f"/v1/engines/{ECHO}/resume")
        await until_async(lambda: len(receiver.received) == 2)

        async def nothing_is_kept() -> bool:
            count = "SELECT count(*) FROM notices WHERE channel = 'webhook'"
            found = await world.gateway.ledger.read(lambda connection: connection.exec_driver_sql(count).scalar_one())
            return bool(found == 0)

        await until_async(nothing_is_kept)
    told: list[Any] = [Webhook(secret).verify(body, headers) for headers, body in receiver.received]
    assert {(said["type"], said["data"]["engine"], said["data"]["reason"]) for said in told} == {
        (ENGINE_STATE_EVENTS[EngineState.QUARANTINED], ECHO, "it lies"),
        (ENGINE_STATE_EVENTS[EngineState.ACTIVE], ECHO, None),
    }
