"""The aims: what is compared with what, and which number is good enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.benchmarks.results import BATCHES, FEW, IDLE, LISTINGS, MANY, ONE, SUBMIT, Results


@dataclass(frozen=True)
class Aim:
    """A number of one system, or with `other` its ratio to the number of another system in the same round."""

    what: str
    load: str
    measure: str
    system: str
    sign: Literal["≥", "≤"]
    limit: float
    other: str | None = None
    unit: str = ""

    def reached(self, results: Results) -> float | None:
        """Return the median of the rounds; None if it was not measured."""
        if self.other is None:
            return results.median(self.load, self.system, self.measure)
        return results.ratio(self.load, self.system, self.other, self.measure)

    def met(self, reached: float) -> bool:
        """Return whether this number is good enough."""
        return reached >= self.limit if self.sign == "≥" else reached <= self.limit


def _faster(what: str, load: str, other: str, limit: float) -> Aim:
    return Aim(what, load, "per_second", "enginehouse", "≥", limit, other)


def _flat(what: str, load: str, measure: str, system: str, other: str, limit: float) -> Aim:
    return Aim(what, load, measure, system, "≤", limit, other)


AIMS: Sequence[Aim] = (
    _faster("jobs/s, 64 callers, to Celery's", MANY, "celery", 3),
    _faster("jobs/s, 64 callers, to durable Celery's", MANY, "celery durable", 5),
    _faster("jobs/s, 64 callers, to Procrastinate's", MANY, "procrastinate", 5),
    _faster("jobs/s, 8 callers, to Celery's", FEW, "celery", 1.2),
    _flat("one job's p50, to Celery's", ONE, "p50_ms", "enginehouse", "celery", 1.3),
    _flat("CPU per job, 64 callers, to bare Dapr's", MANY, "cpu_ms", "enginehouse", "dapr", 0.8),
    _faster("jobs/s, 10,000 in batches of 1,000, submitted to all ended, to Celery's", BATCHES, "celery", 5),
    _flat("submit p50 with 1,000 engines, to that with 3", SUBMIT, "p50_ms", "1,000 engines", "3 engines", 1.1),
    _flat("submit p99 with 1,000 engines, to that with 3", SUBMIT, "p99_ms", "1,000 engines", "3 engines", 1.1),
    _flat("submit p99, filled ledger to an empty one", SUBMIT, "p99_ms", "filled ledger", "empty ledger", 1.3),
    _flat("one job's p50, filled ledger to an empty one", ONE, "p50_ms", "filled ledger", "empty ledger", 1.3),
    Aim("slowest listing, first page", LISTINGS, "first_page_ms", "the slowest", "≤", 20, unit=" ms"),
    Aim("slowest listing, deep page", LISTINGS, "deep_page_ms", "the slowest", "≤", 20, unit=" ms"),
    Aim(
        "idle gateway, filled ledger and 1,000 engines",
        IDLE,
        "core_percent",
        "filled ledger",
        "≤",
        3,
        unit=" % of a core",
    ),
    _flat("CPU per job over PostgreSQL, 2 gateways to 1", MANY, "cpu_ms", "2 gateways", "1 gateway", 1.1),
    _flat("CPU per job over PostgreSQL, 3 gateways to 1", MANY, "cpu_ms", "3 gateways", "1 gateway", 1.1),
    Aim("idle memory of the gateway, PSS", IDLE, "gateway_mib", "enginehouse", "≤", 100, unit=" MiB"),
    Aim("idle memory of a runner and its daprd, PSS", IDLE, "runner_mib", "enginehouse", "≤", 90, unit=" MiB"),
)
