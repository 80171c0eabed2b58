"""A Dapr in memory for unit tests. It passes the same contract suite as a real one, and fails on command."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from enginehouse.contracts.calls import ANSWERED_BY
from enginehouse.contracts.engine import INLINE_MAX_BYTES
from enginehouse.contracts.moments import now
from enginehouse.sidecar.base import Conflict, Invocation, Invoked, Metadata, NotPermitted, StateItem, Unavailable

App = Callable[[Invocation], Awaitable[Invoked]]
Subscriber = Callable[[bytes], Awaitable[bool]]


@dataclass(slots=True)
class _Entry:
    value: bytes
    version: int
    expires_at: float | None


class _Failure(NamedTuple):
    error: Exception
    after_doing: bool
    on: str | None


@dataclass
class FakeDapr:
    """The broker and the stores that several fake sidecars share."""

    components: set[str] = field(default_factory=set)
    stores: dict[str, dict[str, _Entry]] = field(default_factory=lambda: defaultdict(dict))
    published: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    handlers: dict[str, list[Subscriber]] = field(default_factory=lambda: defaultdict(list))
    apps: dict[str, App] = field(default_factory=dict)
    """Apps that can be called, by app id."""
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    """Values of each secret store."""
    forbidden_topics: set[tuple[str, str]] = field(default_factory=set)
    """Pairs of (pubsub, topic) to which no app may publish."""
    missing: set[str] = field(default_factory=set)
    """Components that no sidecar has loaded. Using one fails as with a real sidecar."""
    calls: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[_Failure]] = field(default_factory=lambda: defaultdict(list))
    _version: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def fail(
        self,
        method: str,
        error: Exception | None = None,
        *,
        on: str | None = None,
        times: int = 1,
        after_doing: bool = False,
    ) -> None:
        """Make the next `times` calls of `method` raise; with `on`, only those for this key or topic.

        Name the key wherever something in the background makes the same call: it could take the failure instead.
        With `after_doing` the effect happens and only the answer is lost.
        """
        self.failures[method] += [_Failure(error or Unavailable("made to fail"), after_doing, on)] * times

    def subscribe(self, topic: str, handler: Subscriber) -> None:
        """Deliver every later event on `topic` to `handler`, again and again while it returns False."""
        self.handlers[topic].append(handler)

    def next_version(self) -> int:
        """Return a version that no entry has had before."""
        self._version += 1
        return self._version

    def deliver(self, topic: str, event: bytes) -> None:
        """Give an event to the subscribers, each in a task of its own."""
        for handler in self.handlers[topic]:
            task = asyncio.create_task(self._deliver(handler, event))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, handler: Subscriber, event: bytes) -> None:
        while not await handler(event):
            await asyncio.sleep(0.01)


class FakeSidecar:
    """One app's view of a FakeDapr."""

    def __init__(self, world: FakeDapr, app_id: str = "app") -> None:
        self._world = world
        self._app_id = app_id

    async def start(self, timeout_seconds: float = 60) -> None:
        """Do nothing: the fake is always ready."""

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    async def _enter(self, method: str, component: str | None = None, *on: str) -> Exception | None:
        """Count the call. Raise a planned failure now, or return one to raise after the effect."""
        self._world.calls[method] += 1
        await asyncio.sleep(0)
        if component in self._world.missing:
            raise Unavailable(f"sidecar: component {component} is not loaded")
        planned = self._world.failures[method]
        failure = next((one for one in planned if one.on is None or one.on in on), None)
        if failure is None:
            return None
        planned.remove(failure)
        if not failure.after_doing:
            raise failure.error
        return failure.error

    async def publish(self, pubsub: str, topic: str, event: bytes) -> None:
        """Keep the event and give it to the subscribers."""
        late = await self._enter("publish", pubsub, topic)
        if (pubsub, topic) in self._world.forbidden_topics:
            raise NotPermitted(f"{self._app_id} may not publish to {topic}")
        self._world.published[topic].append(event)
        self._world.deliver(topic, event)
        if late:
            raise late

    async def publish_many(self, pubsub: str, topic: str, events: Sequence[bytes]) -> list[bool]:
        """Publish each event."""
        await self._enter("publish_many", pubsub, topic)
        taken = []
        for event in events:
            try:
                await self.publish(pubsub, topic, event)
                taken.append(True)
            except Unavailable:
                taken.append(False)
        return taken

    def _present(self, store: str, key: str) -> _Entry | None:
        entry = self._world.stores[store].get(key)
        if entry and entry.expires_at is not None and entry.expires_at <= now().timestamp():
            return None
        return entry

    async def read(self, store: str, key: str) -> StateItem | None:
        """Return the present value, or None."""
        await self._enter("read", store, key)
        entry = self._present(store, key)
        return StateItem(entry.value, str(entry.version)) if entry else None

    async def read_many(self, store: str, keys: Sequence[str]) -> dict[str, StateItem]:
        """Return the present values of the keys that exist."""
        await self._enter("read_many", store, *keys)
        found = {key: entry for key in keys if (entry := self._present(store, key))}
        return {key: StateItem(entry.value, str(entry.version)) for key, entry in found.items()}

    def _store(self, store: str, key: str, value: bytes, ttl_seconds: int | None) -> None:
        expires = None if ttl_seconds is None else now().timestamp() + ttl_seconds
        self._world.stores[store][key] = _Entry(value, self._world.next_version(), expires)

    async def create(self, store: str, key: str, value: bytes, ttl_seconds: int) -> None:
        """First-write a key that must not exist."""
        late = await self._enter("create", store, key)
        if self._present(store, key):
            raise Conflict(f"{store}: {key} exists")
        self._store(store, key, value, ttl_seconds)
        if late:
            raise late

    async def replace(self, store: str, key: str, value: bytes, etag: str, ttl_seconds: int) -> None:
        """First-write a key over exactly the version `etag`."""
        late = await self._enter("replace", store, key)
        entry = self._present(store, key)
        # Redis does the same: it writes a key that is gone.
        if entry is not None and str(entry.version) != etag:
            raise Conflict(f"{store}: {key} has another version")
        self._store(store, key, value, ttl_seconds)
        if late:
            raise late

    async def put(self, store: str, key: str, value: bytes, ttl_seconds: int | None = None) -> None:
        """Last-write a key."""
        await self._enter("put", store, key)
        self._store(store, key, value, ttl_seconds)

    async def delete(self, store: str, key: str) -> None:
        """Remove a key."""
        await self._enter("delete", store, key)
        self._world.stores[store].pop(key, None)

    async def invoke(self, app_id: str, call: Invocation) -> Invoked:
        """Call an app of this Dapr. Its access list allows everybody."""
        await self._enter("invoke", None, app_id)
        app = self._world.apps.get(app_id)
        if app is None:
            raise Unavailable(f"sidecar: no app {app_id}")
        try:
            async with asyncio.timeout(call.timeout_seconds):
                answer = await app(call)
        except TimeoutError:
            raise Unavailable(f"sidecar: no answer of {app_id} in {call.timeout_seconds:g} s") from None
        if answer.header(ANSWERED_BY.lower()) is None:
            raise Unavailable(f"sidecar: it answered {answer.status}")
        if len(answer.body) > call.answer_max_bytes:
            raise Unavailable(f"sidecar: the answer has more than {call.answer_max_bytes} bytes")
        if len(answer.body) > INLINE_MAX_BYTES and call.hold:
            call.hold(call.answer_max_bytes)
        return answer

    async def secret(self, store: str, name: str) -> str:
        """Return a value of the test's."""
        await self._enter("secret", store, name)
        if name not in self._world.secrets.get(store, {}):
            raise Unavailable(f"sidecar: {store} has no value for {name}")
        return self._world.secrets[store][name]

    async def metadata(self) -> Metadata:
        """Return the components and topics that the test has set."""
        await self._enter("metadata")
        return Metadata(self._app_id, frozenset(self._world.components), frozenset(self._world.handlers))
