"""Pauses and time budgets of a gateway. Operators cannot set them; tests use other values."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from enginehouse.background import RESTART_SECONDS
from enginehouse.gateway.ledger.database import PATIENT, Patience
from enginehouse.gateway.notify.notifier import backoff_seconds


@dataclass(frozen=True, slots=True)
class Pace:
    """Pauses and budgets, in seconds, given to the parts when they are wired."""

    clock: Callable[[], float] = time.time
    """Seconds since the epoch, for the sweep and for records' times to live."""
    engines_poll_seconds: float = 1.0
    """Between two looks at engines: what other gateways decided, announced cards, and the sidecar's components, whose answer
    is the larger the more there are. They are looked at less often from 300 on (`Catalogue`), with 1,000 engines every 3 s."""
    task_restart_seconds: float = RESTART_SECONDS
    """Before a failed background task is started again."""
    broker_retry_seconds: float = 1.0
    """After a failed hand-over, the engine's jobs stay in the ledger for this time."""
    store_seconds: float = 3.0
    """For each use of an engine's store. A part of the sweep that needs more leaves the rest to the next sweep."""
    sample_every_seconds: float = 0.1
    """One ended job of each engine is sampled per interval. A restored store has lost everything after some moment."""
    outbox_idle_seconds: float = 2.0
    """Between two looks at the outbox while nothing wakes the notifier: notices of another gateway may be due."""
    notice_backoff: Callable[[int], float] = backoff_seconds
    """Takes the number of attempts; returns how long the notice waits for the next one."""
    clean_up_seconds: float = 600.0
    """Between two searches for rows and objects that are past their time."""
    ledger: Patience = PATIENT
    """Time limits for a PostgreSQL server."""


USUAL = Pace()
