"""Define the calls to a Dapr sidecar. `dapr.DaprSidecar` and `fake.FakeSidecar` implement them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from enginehouse.contracts.errors import Conflict, EnginehouseError, Unavailable

__all__ = ["Conflict", "Invocation", "Invoked", "Metadata", "NotPermitted", "Sidecar", "StateItem", "Unavailable"]


class NotPermitted(EnginehouseError):
    """The sidecar's scopes do not allow this call to this app."""

    code = "NOT_PERMITTED"
    retryable = False


@dataclass(frozen=True, slots=True)
class StateItem:
    """A value of a state store with its version."""

    value: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """Components and subscriptions that a sidecar has loaded now."""

    app_id: str
    components: frozenset[str] = field(default_factory=frozenset)
    subscribed_topics: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Invocation:
    """A request to another app."""

    method: str
    path: str
    """Percent-encoded, without a slash before it. Dapr decodes it once and drops a slash at its end."""
    query: str = ""
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    timeout_seconds: float = 10
    answer_max_bytes: int = 1024 * 1024
    hold: Callable[[int], None] | None = None
    """Called before more than 64 KiB of the answer are read, with the most bytes that it may have. May raise to end the call."""


@dataclass(frozen=True, slots=True)
class Invoked:
    """An app's own answer, whatever its status."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the first value of a header, whose name is in lower case."""
        return next((value for given, value in self.headers if given.lower() == name), None)


class Sidecar(Protocol):
    """Calls to a sidecar.

    All raise Unavailable if the sidecar, or the broker or store behind it, gives no answer in time or no valid answer.
    """

    async def start(self, timeout_seconds: float = 60) -> None:
        """Wait until the sidecar is ready, without blocking the event loop. Call this once, after a fork."""

    async def close(self) -> None:
        """Close the connection."""

    async def publish(self, pubsub: str, topic: str, event: bytes) -> None:
        """Publish one structured CloudEvent. Raise NotPermitted if this app may not publish there."""

    async def publish_many(self, pubsub: str, topic: str, events: Sequence[bytes]) -> list[bool]:
        """Publish several events in one round trip. Return for each, in order, whether the broker has it."""

    async def read(self, store: str, key: str) -> StateItem | None:
        """Return the present value, or None."""

    async def read_many(self, store: str, keys: Sequence[str]) -> dict[str, StateItem]:
        """Return the present values of the keys that exist, in one round trip."""

    async def create(self, store: str, key: str, value: bytes, ttl_seconds: int) -> None:
        """First-write a key that must not exist. Raise Conflict if it does, or if the store cannot tell."""

    async def replace(self, store: str, key: str, value: bytes, etag: str, ttl_seconds: int) -> None:
        """First-write a key over exactly the version `etag`. Raise Conflict if it has another version by now.

        If the key is gone by now, the result depends on the store: Redis writes it.
        """

    async def put(self, store: str, key: str, value: bytes, ttl_seconds: int | None = None) -> None:
        """Last-write a key that decides nothing (card, heartbeat). Do not use this for a job's record."""

    async def delete(self, store: str, key: str) -> None:
        """Remove a key, whether it exists or not."""

    async def invoke(self, app_id: str, call: Invocation) -> Invoked:
        """Send a request to another app and return its answer. Only a call that changes nothing may be sent twice.

        An answer without the header ANSWERED_BY is an error of the sidecar's. Raise NotPermitted if the other app's access
        list refuses this app, and Unavailable if no answer of `answer_max_bytes` comes in time.
        """

    async def secret(self, store: str, name: str) -> str:
        """Return a secret's value. Raise NotPermitted if this app may not read the store; Unavailable if there is no value."""

    async def metadata(self) -> Metadata:
        """Return the components and subscriptions that the sidecar has loaded now."""
