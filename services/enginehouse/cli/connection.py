"""Connect a command to the API: by ENGINEHOUSE_URL and ENGINEHOUSE_API_KEY, or as the home's local tenant."""

from pathlib import Path

from enginehouse.client import Client
from enginehouse.client.retries import RetryPlan

_PATIENCE = RetryPlan(times=2, longest_retry_after_seconds=5)
"""Fewer retries than a program would use, because a person waits at the screen."""


def connected(home: Path | None) -> Client:
    """Return a client, for a `with` block."""
    return Client(home=home, retries=_PATIENCE)
