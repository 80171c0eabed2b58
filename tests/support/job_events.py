"""Job events as a gateway writes them."""

from collections.abc import Mapping
from datetime import datetime

from enginehouse.contracts.events import JobOrder, Order, job_event, order_text
from enginehouse.contracts.proofs import EngineKey


def jobs_event(
    key: EngineKey | None,
    engine_id: str,
    tenant: str,
    orders: Mapping[str, JobOrder],
    *,
    expires: datetime,
    attempt: int = 1,
    hand_over: int = 1,
    at: datetime | None = None,
) -> bytes:
    """Return the event that hands over these jobs, given with their orders."""
    handed = [
        Order(job_id, tenant, attempt, expires, order_text(order), hand_over=hand_over)
        for job_id, order in orders.items()
    ]
    return job_event(key, engine_id, handed, at)


def one_job_event(
    key: EngineKey | None,
    engine_id: str,
    tenant: str,
    job_id: str,
    order: JobOrder,
    *,
    expires: datetime,
    attempt: int = 1,
    at: datetime | None = None,
) -> bytes:
    """Return the event that hands over one job."""
    return jobs_event(key, engine_id, tenant, {job_id: order}, expires=expires, attempt=attempt, at=at)
