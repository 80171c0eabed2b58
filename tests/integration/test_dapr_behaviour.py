"""Facts about brokers under Dapr after a failed delivery, and proof that our settings lose no job by them."""

import base64
import contextlib
import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis as redis_client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.support.dapr import PORTS, DaprdHandle, RedisHandle, start_daprd, start_redis
from tests.support.serving import serving
from tests.support.waiting import until

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.bundle import render_engine, render_tenant, write_bundle
from enginehouse.sidecar.dapr import DaprSidecar

ROOT = Path(__file__).resolve().parents[2]
ENGINE = "acme--behaviour"
APP = names.app_id(ENGINE, "a")
TOPIC = names.job_topic(ENGINE)
CORE = [ROOT / "components/local", ROOT / "dapr/subscriptions", ROOT / "dapr/resiliency"]


class Engine:
    """The app of an engine, which answers the n-th delivery of an event as the event's plan says."""

    ANSWERS: dict[str, Callable[[], Response]] = {
        "acknowledge": lambda: JSONResponse({"status": "SUCCESS"}),
        "status RETRY": lambda: JSONResponse({"status": "RETRY"}),
        "status DROP": lambda: JSONResponse({"status": "DROP"}),
        "an unknown status": lambda: JSONResponse({"status": "LATER"}),
        "500": lambda: Response(status_code=500),
        "422": lambda: JSONResponse({"detail": []}, status_code=422),
        "429": lambda: Response(status_code=429),
        "404": lambda: Response(status_code=404),
    }

    def __init__(self) -> None:
        self.deliveries: dict[str, int] = defaultdict(int)
        self.app = Starlette(
            routes=[Route("/jobs", self._jobs, methods=["POST"]), Route("/healthz", lambda _: Response())]
        )

    async def _jobs(self, request: Request) -> Response:
        event = await request.json()
        self.deliveries[event["id"]] += 1
        plan = event["data"]["answers"]
        return self.ANSWERS[plan[min(self.deliveries[event["id"]], len(plan)) - 1]]()


class Gateway:
    """The app of the gateway, which keeps everything that it receives."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = defaultdict(list)
        names_and_paths = ["/completions", "/dead-letters", "/requests/acme"]
        self.app = Starlette(
            routes=[
                *(Route(path, self._keep, methods=["POST"]) for path in names_and_paths),
                Route("/healthz", lambda _: Response()),
            ]
        )

    async def _keep(self, request: Request) -> Response:
        self.bodies[request.url.path].append(await request.body())
        return JSONResponse({"status": "SUCCESS"})

    def has(self, path: str, marker: str) -> bool:
        """Return whether a body with `marker` reached `path`, raw or as an event."""
        return any(marker.encode() in self._raw(body) for body in self.bodies[path])

    @staticmethod
    def _raw(body: bytes) -> bytes:
        event = json.loads(body)
        return body + base64.b64decode(event.get("data_base64", ""))


class World:
    """The core and one engine, as they are deployed, with scripted apps."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.engine, self.gateway = Engine(), Gateway()
        self._folder, self._stack = folder, stack
        self.redis: RedisHandle = start_redis(folder)
        stack.callback(self.redis.stop)
        spec = EngineSpec(tenant="acme", name="behaviour", concurrency=16, execution_timeout_seconds=1)
        write_bundle(folder / "engine", render_engine(spec, "."))
        write_bundle(folder / "tenant", render_tenant(Tenant(name="acme")))
        port = PORTS.take()
        stack.enter_context(serving(self.gateway.app, port))
        resources = [*CORE, folder / "engine/gateway", folder / "tenant/gateway"]
        self.core = self.daprd(names.GATEWAY_APP, resources, port)
        stack.callback(self.core.stop)
        self.engine_port = PORTS.take()

    def start_engine(self) -> None:
        """Run the engine's app and sidecar."""
        self._stack.enter_context(serving(self.engine.app, self.engine_port))
        self._stack.callback(self.engine_daprd().stop)

    def engine_daprd(self) -> DaprdHandle:
        """Start a sidecar of the engine's app."""
        return self.daprd(
            APP,
            [self._folder / "engine/engine", self._folder / "engine/slots/a/dapr", ROOT / "dapr/resiliency"],
            self.engine_port,
        )

    def daprd(self, app_id: str, resources: list[Path], port: int) -> DaprdHandle:
        log = self._folder / f"daprd-{app_id}-{secrets.token_hex(3)}.log"
        return start_daprd(app_id, resources, log, env=self.redis.environment(), app_port=port)

    async def publish(self, event_id: str, *answers: str) -> None:
        """Publish an event for the engine, as the gateway does."""
        event = {"specversion": "1.0", "id": event_id, "type": "t", "source": "/g", "data": {"answers": answers}}
        sidecar = DaprSidecar(self.core.http_port, self.core.api_token)
        await sidecar.start(20)
        await sidecar.publish(names.GATEWAY_JOBS_COMPONENT, TOPIC, json.dumps(event).encode())
        await sidecar.close()

    def add_to_stream(self, topic: str, payload: bytes) -> None:
        """Put bytes on a topic without a sidecar, as a stranger with the broker's address would."""
        address = self.redis.address
        with redis_client.Redis(address.host, address.port, password=address.password) as client:
            client.xadd(topic, {"data": payload})

    def delivered(self, event_id: str, times: int) -> Callable[[], bool]:
        return lambda: self.engine.deliveries[event_id] >= times


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("behaviour"), stack)


@pytest.fixture
def event_id() -> str:
    return names.new_job_id()


async def test_a_job_published_before_the_engine_ever_ran_is_kept(world: World, event_id: str) -> None:
    await world.publish(event_id, "acknowledge")
    world.start_engine()
    until(world.delivered(event_id, 1), "the early job")


async def test_every_failed_delivery_comes_again_until_it_is_acknowledged(world: World, event_id: str) -> None:
    failures = ["500", "422", "429", "status RETRY", "an unknown status"]
    for failure in failures:
        await world.publish(f"{event_id} {failure}", failure, failure, "acknowledge")
    for failure in failures:
        until(world.delivered(f"{event_id} {failure}", 3), f"the third delivery after {failure}")
        assert not world.gateway.has("/dead-letters", f"{event_id} {failure}")


@pytest.mark.parametrize("answer", ["status DROP", "404"])
async def test_what_dapr_drops_at_once_is_in_the_dead_letters(world: World, event_id: str, answer: str) -> None:
    # Without a reason, so the runner answers neither, and dead-letters by itself.
    await world.publish(event_id, answer)
    until(lambda: world.gateway.has("/dead-letters", event_id), "the dropped job among dead letters")
    assert world.engine.deliveries[event_id] == 1


@pytest.mark.parametrize("garbage", [b"garbage %s", b'{"id": "%s"', b"\xff\xfe %s", b'"%s"', b"[1, %s]"])
async def test_what_is_no_cloud_event_reaches_the_dead_letters_raw(world: World, event_id: str, garbage: bytes) -> None:
    world.add_to_stream(TOPIC, garbage % event_id.encode())
    until(lambda: world.gateway.has("/dead-letters", event_id), "the garbage among dead letters")
    await world.publish(f"{event_id} next", "acknowledge")
    until(world.delivered(f"{event_id} next", 1), "the job after the garbage")


async def test_a_strangers_event_that_would_crash_a_subscriber_arrives_raw(world: World, event_id: str) -> None:
    for trace in ({"traceid": 5}, {"traceparent": {"a": 1}}):
        event = {"specversion": "1.0", "id": event_id, "type": "t", "source": "/s", **trace}
        world.add_to_stream(names.requests_topic("acme"), json.dumps(event).encode())
    until(lambda: len(world.gateway.bodies["/requests/acme"]) >= 2, "both events")
    assert world.gateway.has("/requests/acme", event_id)
    assert world.core.process.poll() is None


async def test_a_job_in_hand_survives_the_restart_of_its_app(
    world: World, event_id: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with contextlib.ExitStack() as stack:
        other = World(tmp_path_factory.mktemp("restart"), stack)
        with serving(other.engine.app, other.engine_port):
            stack.callback(other.engine_daprd().stop)
            await other.publish(event_id, "500", "acknowledge")
            until(other.delivered(event_id, 1), "the first delivery")
        # Nothing listens now: what daprd has in hand finds a closed port.
        await other.publish(f"{event_id} later", "acknowledge")
        with serving(other.engine.app, other.engine_port):
            until(other.delivered(event_id, 2), "the job in hand")
            until(other.delivered(f"{event_id} later", 1), "the job published meanwhile")
        assert not other.gateway.has("/dead-letters", event_id)


async def test_a_job_whose_sidecar_was_killed_is_delivered_by_the_next_one(
    event_id: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("killed")
        other = World(folder, stack)
        jobs = folder / "engine/slots/a/dapr/jobs.yaml"
        # The same file with shorter clocks: the real ones are half a minute and more.
        jobs.write_text(
            _with_setting(_with_setting(jobs.read_text(), "processingTimeout", "2s"), "redeliverInterval", "500")
        )
        stack.enter_context(serving(other.engine.app, other.engine_port))
        first = other.engine_daprd()
        await other.publish(event_id, "500", "acknowledge")
        until(other.delivered(event_id, 1), "the first delivery")
        first.kill()
        stack.callback(other.engine_daprd().stop)
        until(other.delivered(event_id, 2), "the delivery by the second sidecar")


def _with_setting(text: str, name: str, value: str) -> str:
    lines = text.splitlines()
    at = next(index for index, line in enumerate(lines) if line.strip() == f"- name: {name}")
    indent = lines[at + 1][: len(lines[at + 1]) - len(lines[at + 1].lstrip())]
    lines[at + 1] = f"{indent}value: {json.dumps(value)}"
    return "\n".join(lines)
