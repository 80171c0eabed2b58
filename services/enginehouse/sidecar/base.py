"""Define the calls to a Dapr sidecar. `dapr.DaprSidecar` and `fake.FakeSidecar` implement them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from enginehouse.contracts.errors import Conflict, EnginehouseError, Unavailable

__all__ = ["Conflict", "Metadata", "NotPermitted", "Sidecar", "StateItem", "Unavailable"]


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

    async def metadata(self) -> Metadata:
        """Return the components and subscriptions that the sidecar has loaded now."""
