"""What the rest of Enginehouse may ask of a Dapr sidecar; `dapr.DaprSidecar` and `fake.FakeSidecar` both do it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from enginehouse.contracts.errors import Conflict, EnginehouseError, Unavailable

__all__ = ["Conflict", "Metadata", "NotPermitted", "Sidecar", "StateItem", "Unavailable"]


class NotPermitted(EnginehouseError):
    """The sidecar's scopes do not allow this app to do that."""

    code = "NOT_PERMITTED"
    retryable = False


@dataclass(frozen=True, slots=True)
class StateItem:
    """A value of a state store with its version."""

    value: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a sidecar has loaded at present."""

    app_id: str
    components: frozenset[str] = field(default_factory=frozenset)
    subscribed_topics: frozenset[str] = field(default_factory=frozenset)


class Sidecar(Protocol):
    """All calls raise Unavailable when the sidecar, or what stands behind it, does not answer in time, or not with sense."""

    async def start(self, timeout_seconds: float = 60) -> None:
        """Wait, without blocking the event loop, until the sidecar is ready. Called once, after fork."""

    async def close(self) -> None:
        """Let go of the connection."""

    async def publish(self, pubsub: str, topic: str, event: bytes) -> None:
        """Publish one structured CloudEvent. NotPermitted if this app may not."""

    async def publish_many(self, pubsub: str, topic: str, events: Sequence[bytes]) -> list[bool]:
        """Publish several in one round trip; for each, in order, whether the broker has it."""

    async def read(self, store: str, key: str) -> StateItem | None:
        """The present value, or None."""

    async def read_many(self, store: str, keys: Sequence[str]) -> dict[str, StateItem]:
        """The present values of those keys that exist, in one round trip."""

    async def create(self, store: str, key: str, value: bytes, ttl_seconds: int) -> None:
        """First-write a key that must not exist; Conflict if it does, or if the store cannot say."""

    async def replace(self, store: str, key: str, value: bytes, etag: str, ttl_seconds: int) -> None:
        """First-write a key over exactly the version `etag`; Conflict if it has another by now.

        Of a key that is gone by now nothing is promised: Redis writes it.
        """

    async def put(self, store: str, key: str, value: bytes, ttl_seconds: int | None = None) -> None:
        """Last-write a key that decides nothing (cards, heartbeats). Never a job's record."""

    async def delete(self, store: str, key: str) -> None:
        """Remove a key, whether it exists or not."""

    async def metadata(self) -> Metadata:
        """What the sidecar has loaded at present."""
