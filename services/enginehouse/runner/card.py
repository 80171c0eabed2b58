"""Builds the engine's card from its engine.yaml, its author's example and its own description, and publishes it when it changes."""

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pydantic_core
import structlog

from enginehouse.background import Background
from enginehouse.contracts.engine import CARD_MAX_BYTES, CARD_MAX_DEPTH, EXAMPLE_FILE, EngineCard, EngineSpec
from enginehouse.contracts.errors import EnginehouseError, Unavailable
from enginehouse.contracts.events import ENGINE_ANNOUNCED, completion_event
from enginehouse.contracts.names import COMPLETIONS_TOPIC, Slot, card_key, results_component
from enginehouse.contracts.proofs import EngineKey
from enginehouse.json_schema import UnusableSchema
from enginehouse.runner.clients.base import EngineClient
from enginehouse.runner.pace import Pace
from enginehouse.runner.schema import Description, depth, stand_alone
from enginehouse.sidecar.base import Sidecar

_log = structlog.get_logger(__name__)


def deployment_of(spec: EngineSpec, content: str) -> str:
    """Return a hash that tells this deployment from one of another engine.yaml, or of other `content` beside it."""
    return hashlib.sha256(f"{spec.model_dump_json()}{content}".encode()).hexdigest()[:16]


class CardFault(NamedTuple):
    """A part of the engine's own description that its card does not carry."""

    part: str
    """`input_schema`, `output_schema`, `example` or `openapi`."""
    reason: str | None
    """Why the part cannot be used. None: it would make the card too large."""


def authors_example(spec: Path) -> Any:
    """Return the input that deploying puts beside the engine.yaml at `spec`; None if there is none that can be read."""
    try:
        return pydantic_core.from_json(spec.with_name(EXAMPLE_FILE).read_bytes())
    except (OSError, ValueError):
        return None


def build_card(spec: EngineSpec, slot: Slot, described: Description, deployment: str = "") -> EngineCard:
    """Return the engine's card. Parts of the engine's own description that exceed its bounds are left out and logged."""
    card, faults = draft_card(spec, slot, described, deployment)
    for part, reason in faults:
        if reason is None:
            _log.warning(
                "The engine's card is too large, so a part of it is left out",
                action="card_cut",
                engine_id=spec.id,
                part=part,
            )
        else:
            _log.warning(
                "A schema of the engine cannot be used, so every value passes",
                action="schema_unusable",
                engine_id=spec.id,
                which=part.removesuffix("_schema"),
                reason=reason,
            )
    return card


def draft_card(
    spec: EngineSpec, slot: Slot, described: Description, deployment: str = ""
) -> tuple[EngineCard, list[CardFault]]:
    """Return the engine's card, and which parts of its own description it does not carry."""
    openapi = described.openapi
    faults: list[CardFault] = []
    card = EngineCard(
        engine=spec.id,
        slot=slot,
        version=spec.version,
        deployment=deployment,
        description=spec.description,
        protocol=spec.protocol,
        labels=spec.labels,
        input_schema=_usable("input_schema", described.input_schema, openapi or {}, faults),
        output_schema=_usable("output_schema", described.output_schema, openapi or {}, faults),
        example=described.example,
        concurrency=spec.concurrency,
        execution_timeout_seconds=spec.execution_timeout_seconds,
        max_time_in_queue_seconds=spec.max_time_in_queue_seconds,
        max_queued_jobs=spec.max_queued_jobs,
        retry=spec.retry,
        batch=spec.batch,
        idle_at_zero=spec.scale.min == 0,
        openapi=dict(openapi) if openapi is not None else None,
    )
    for field, empty in (("openapi", None), ("example", None), ("output_schema", {}), ("input_schema", {})):
        if _fits(card):
            break
        faults.append(CardFault(field, None))
        card = card.model_copy(update={field: empty})
    return card, faults


def _usable(part: str, schema: Any, openapi: Mapping[str, Any], faults: list[CardFault]) -> dict[str, Any]:
    try:
        return stand_alone(schema, openapi)
    except UnusableSchema as error:
        faults.append(CardFault(part, str(error)))
        return {}


def _fits(card: EngineCard) -> bool:
    value = card.model_dump(mode="json")
    return depth(value) <= CARD_MAX_DEPTH and len(pydantic_core.to_json(value)) <= CARD_MAX_BYTES


class CardKeeper:
    """Keeps `card/<slot>` up to date, from the first time that the engine is healthy."""

    def __init__(
        self,
        sidecar: Sidecar,
        spec: EngineSpec,
        slot: Slot,
        pace: Pace,
        *,
        key: EngineKey,
        pubsub: str,
        content: str = "",
        example: Any = None,
    ) -> None:
        """Keep the card of `slot`. `example` is the author's, and goes before that of the engine's own description."""
        self._sidecar = sidecar
        self._spec = spec
        self._deployment = deployment_of(spec, content)
        self._slot: Slot = slot
        self._example = example
        self._key = key
        self._pubsub = pubsub
        self._pace = pace
        self._published: bytes | None = None
        self._stale = asyncio.Event()
        self._client: EngineClient | None = None
        self._background = Background()

    def refresh(self, client: EngineClient) -> None:
        """Build the card again from the replica behind `client`: it became healthy, perhaps with another version."""
        self._client = client
        self._stale.set()

    def forget(self, client: EngineClient, other: EngineClient | None) -> None:
        """Ask a replica no more, because it has left; if the card is that replica's, ask the `other`."""
        if self._client is client:
            self._client = other

    def announce(self) -> None:
        """Announce the card again, although it has not changed: perhaps it is now that of the active version."""
        self._published = None
        if self._client is not None:
            self._stale.set()

    def start(self) -> None:
        """Begin to keep the card."""
        self._background.keep("card", self._run)

    async def stop(self) -> None:
        """Stop keeping the card. It stays in the store, so that the gateway still knows an engine that is stopped."""
        await self._background.close()

    async def _run(self) -> None:
        while True:
            while self._client is None:
                self._stale.clear()
                await self._stale.wait()
            self._stale.clear()
            try:
                await self._publish()
                pause = self._pace.card_refresh_seconds
            except EnginehouseError as error:
                _log.warning(
                    "The engine's card cannot be published yet",
                    action="card_failed",
                    engine_id=self._spec.id,
                    error=str(error),
                )
                pause = self._pace.card_retry_seconds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stale.wait()

    async def _publish(self) -> None:
        """Write the card, and announce it if it has changed."""
        if self._client is None:
            raise Unavailable("no replica is there now")
        described = await self._client.describe()
        if self._example is not None:
            described = described._replace(example=self._example)
        card = build_card(self._spec, self._slot, described, self._deployment)
        value = card.model_dump_json().encode()
        await self._sidecar.put(results_component(self._spec.id), card_key(self._slot), value)
        if value == self._published:
            return
        event = completion_event(self._key, self._spec.id, ENGINE_ANNOUNCED, self._slot, None)
        self._published = value  # Before the event is out: whoever asks meanwhile for another one gets it.
        try:
            await self._sidecar.publish(self._pubsub, COMPLETIONS_TOPIC, event)
        except EnginehouseError:
            self._published = None
            raise
        _log.info("The engine's card is published", action="card_shown", engine_id=self._spec.id, slot=self._slot)
