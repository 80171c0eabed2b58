"""How fast a gateway does what it repeats. Operators set none of this; tests use other values."""

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
    """Between two looks at the components of the sidecar: a deployed engine is known this soon."""
    task_restart_seconds: float = RESTART_SECONDS
    """Before a background task that failed is started again."""
    broker_retry_seconds: float = 1.0
    """After a failed hand-over, the engine's jobs stay in the ledger for this time."""
    store_seconds: float = 3.0
    """For one engine's store to answer a part of the sweep; what is left then waits for the next sweep."""
    sample_every_seconds: float = 0.1
    """One ended job of an engine is sampled in this time: what a store loses, it loses from some moment on."""
    outbox_idle_seconds: float = 2.0
    """Between two looks at the outbox when nobody wakes the notifier: another gateway's notices may be due."""
    notice_backoff: Callable[[int], float] = backoff_seconds
    """How long a notice waits after so many attempts."""
    clean_up_seconds: float = 600.0
    """Between two searches for rows and objects that are past their time."""
    ledger: Patience = PATIENT


USUAL = Pace()
