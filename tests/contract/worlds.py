"""The two worlds of the contract suites: fakes in memory, and a real daprd over Redis."""

import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.support.dapr import PORTS, DaprdHandle, start_daprd, start_redis
from tests.support.serving import serving
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.calls import ANSWERED_BY
from enginehouse.sidecar.base import Invocation, Invoked, Sidecar
from enginehouse.sidecar.dapr import DaprSidecar
from enginehouse.sidecar.delivery import delivery_app
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar

ENGINE = "shared--standard"
STORE = names.results_component(ENGINE)
PUBSUB = names.jobs_component(ENGINE)
TOPIC = names.job_topic(ENGINE)
FORBIDDEN_TOPIC = names.job_topic("acme--secret")
APP = names.app_id(ENGINE, "a")


class World(Protocol):
    """A sidecar of app APP with STORE and PUBSUB. It may publish to TOPIC and is subscribed to it."""

    def sidecar(self) -> Sidecar:
        """Return another connection to the sidecar."""

    async def arrival(self, event_id: str) -> dict[str, Any]:
        """Wait for the event with that id, and return it."""


def shown(method: str, path: str, query: str, mine: str | None, body: bytes) -> Invoked:
    """Return the answer of APP to calls: what it was asked. Its path `silent` answers as a sidecar would."""
    content = json.dumps([method, path, query, mine, body.decode("latin-1")]).encode()
    answered = [] if "silent" in path else [(ANSWERED_BY, "app")]
    return Invoked(418, [*answered, ("X-Mine", "back"), ("Content-Type", "text/x-mine")], content)


async def show_call(call: Invocation) -> Invoked:
    """Answer a call in memory."""
    mine = next((value for name, value in call.headers if name == "x-mine"), None)
    return shown(call.method, call.path, call.query, mine, call.body)


async def show_request(request: Request) -> Response:
    """Answer a call of a real sidecar."""
    path, query = request.scope["raw_path"].decode().removeprefix("/"), request.url.query
    answer = shown(request.method, path, query, request.headers.get("x-mine"), await request.body())
    return Response(answer.body, answer.status, dict(answer.headers))


class Inbox:
    """Keeps delivered events, by id."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}

    async def deliver(self, body: bytes) -> bool:
        """Take one delivery."""
        event = json.loads(body)
        self.events[event["id"]] = event
        return True

    async def arrival(self, event_id: str) -> dict[str, Any]:
        """Wait for the event with that id, and return it."""
        await until_async(lambda: event_id in self.events, f"event {event_id} arrives", 15)
        return self.events[event_id]


class FakeWorld(Inbox):
    """Everything in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._dapr = FakeDapr(components={STORE, PUBSUB}, missing={"no-such"})
        self._dapr.forbidden_topics.add((PUBSUB, FORBIDDEN_TOPIC))
        self._dapr.subscribe(TOPIC, self.deliver)
        self._dapr.apps[APP] = show_call

    def sidecar(self) -> Sidecar:
        """Return another fake sidecar over the same memory."""
        return FakeSidecar(self._dapr, APP)


COMPONENTS = f"""
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: {STORE}}}
scopes: [{APP}]
spec:
  type: state.redis
  version: v1
  metadata:
    - {{name: redisHost, envRef: ENGINEHOUSE_REDIS_HOST}}
    - {{name: redisPassword, envRef: ENGINEHOUSE_REDIS_PASSWORD}}
    - {{name: keyPrefix, value: {ENGINE}}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: {PUBSUB}}}
scopes: [{APP}]
spec:
  type: pubsub.redis
  version: v1
  metadata:
    - {{name: redisHost, envRef: ENGINEHOUSE_REDIS_HOST}}
    - {{name: redisPassword, envRef: ENGINEHOUSE_REDIS_PASSWORD}}
    - {{name: consumerID, value: {ENGINE}}}
    - {{name: allowedTopics, value: {TOPIC}}}
    - {{name: publishingScopes, value: {APP}={TOPIC}}}
    - {{name: subscriptionScopes, value: {APP}={TOPIC}}}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {{name: {ENGINE}}}
scopes: [{APP}]
spec:
  pubsubname: {PUBSUB}
  topic: {TOPIC}
  routes: {{default: /jobs}}
"""


class DaprWorld(Inbox):
    """A real daprd over a real Redis, with the app that gets its deliveries."""

    def __init__(self, daprd: DaprdHandle) -> None:
        super().__init__()
        self._daprd = daprd

    def sidecar(self) -> Sidecar:
        """Return another connection to the daprd."""
        return DaprSidecar(self._daprd.http_port, self._daprd.api_token)


@contextlib.contextmanager
def dapr_world(folder: Path) -> Iterator[DaprWorld]:
    """Run a DaprWorld during the block. All its files are under `folder`."""
    resources = folder / "components"
    resources.mkdir()
    (resources / "engine.yaml").write_text(COMPONENTS)
    token, port = secrets.token_hex(16), PORTS.take()
    inbox = Inbox()
    shows = Route("/call/one/{path:path}", show_request, methods=["GET", "PUT"])
    with contextlib.ExitStack() as stack:
        redis = start_redis(folder)
        stack.callback(redis.stop)
        stack.enter_context(serving(delivery_app({"/jobs": inbox.deliver}, token, lambda: True, [shows]), port))
        environment = {**redis.environment(), "APP_API_TOKEN": token}
        daprd = start_daprd(APP, [resources], folder / "daprd.log", env=environment, app_port=port)
        stack.callback(daprd.stop)
        world = DaprWorld(daprd)
        world.events = inbox.events
        yield world
