"""Convert moments: aware and in UTC where they cross boundaries, seconds since the epoch in the ledger."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the present moment, in UTC."""
    return datetime.now(UTC)


def moment_of(seconds: float | None) -> datetime | None:
    """Turn seconds since the epoch into a moment; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def seconds_of(moment: datetime | None) -> float | None:
    """Turn a moment into seconds since the epoch; None stays None."""
    return None if moment is None else moment.timestamp()
