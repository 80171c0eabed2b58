"""Decides, from cards and heartbeats, which version of an engine is on trial and whether a trial has ended."""

import time
from collections.abc import Mapping

from enginehouse.contracts.engine import EngineCard, EngineState
from enginehouse.contracts.names import Slot
from enginehouse.gateway.engines.known_engine import KnownEngine

TRIAL_ABSENT_SECONDS = 60.0
"""A trial of which no worker has been seen for so long has ended. A runner and its sidecar start again sooner."""


def card_of_active(
    engine: KnownEngine, cards: Mapping[Slot, EngineCard], trial: KnownEngine | None
) -> EngineCard | None:
    """Return the card of the slot that receives the engine's jobs.

    While no worker says which slot that is, it is the slot known so far, or otherwise the first that is not on trial.
    """
    # A worker that was killed seems to receive jobs until its heartbeat runs out.
    latest = max((worker for worker in engine.workers if worker.subscribed), key=lambda worker: worker.at, default=None)
    slots = [latest.slot] if latest else []
    slots += [engine.card.slot] if engine.card else []
    slots += [slot for slot in cards if slot not in _slots_on_trial(engine, trial)]
    return next((cards[slot] for slot in slots if slot in cards), None)


def _slots_on_trial(engine: KnownEngine, trial: KnownEngine | None) -> set[Slot]:
    """Return the slots whose version is on trial. One whose workers are all gone stays so until the trial has ended."""
    slots = {worker.slot for worker in engine.workers_of_all_slots if worker.on_trial and not worker.subscribed}
    if trial and trial.card and trial.state != EngineState.RETIRED:
        slots.add(trial.card.slot)
    return slots


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
