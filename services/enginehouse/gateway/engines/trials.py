"""Decides, from cards and heartbeats, which version of an engine is on trial and whether a trial has ended."""

import time
from collections.abc import Mapping

from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.names import Slot
from enginehouse.gateway.engines.known_engine import KnownEngine

TRIAL_ABSENT_SECONDS = 60.0
"""A trial of which no worker has been seen for so long has ended. A runner and its sidecar start again sooner."""


def card_of_active(engine: KnownEngine, cards: Mapping[Slot, EngineCard]) -> EngineCard | None:
    """Return the card of the slot that receives the engine's jobs, or otherwise of the first slot that has one."""
    # A worker that was killed seems to receive jobs until its heartbeat runs out.
    latest = max((worker for worker in engine.workers if worker.subscribed), key=lambda worker: worker.at, default=None)
    card = cards.get(latest.slot) if latest else None
    return card or next(iter(cards.values()), None)


def card_of_trial(engine: KnownEngine, cards: Mapping[Slot, EngineCard]) -> EngineCard | None:
    """Return the card of the version on trial; None while it has not shown its own, or if there is no such version."""
    worker = next((worker for worker in engine.workers_of_all_slots if worker.on_trial and not worker.subscribed), None)
    card = cards.get(worker.slot) if worker else None
    return card if card and worker and card.version == worker.version else None


def is_on_trial(engine: KnownEngine) -> bool:
    """Say whether a worker of the engine says that its version is on trial."""
    return any(worker.on_trial and not worker.subscribed for worker in engine.workers_of_all_slots)


def has_ended(trial: KnownEngine, engine: KnownEngine) -> bool:
    """Say whether a trial that no worker is on has ended: its version gets the engine's jobs, or was not seen for long."""
    return is_promoted(trial, engine) or time.monotonic() - trial.seen_on_trial_at > TRIAL_ABSENT_SECONDS


def is_promoted(trial: KnownEngine, engine: KnownEngine) -> bool:
    """Say whether the version that was on trial last is the active one now."""
    tried = trial.card
    if tried is None:
        return False
    active = engine.card
    return any(
        worker.subscribed and (worker.slot, worker.version) == (tried.slot, tried.version) for worker in engine.workers
    ) or (active is not None and (active.slot, active.deployment) == (tried.slot, tried.deployment))
