"""The numbers that a runner counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 600)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class RunnerMetrics:
    """The metrics of one runner, in their own registry. The labels of the scraped target name the engine."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter(
            "enginehouse_runner_attempts", "Attempts by their outcome.", ["outcome"], registry=self.registry
        )
        self.deliveries = Counter(
            "enginehouse_runner_deliveries", "Deliveries by what was done.", ["action"], registry=self.registry
        )
        self.predict_seconds = Histogram(
            "enginehouse_runner_predict_seconds", "Time at the engine.", buckets=_BUCKETS, registry=self.registry
        )
        self.batch_jobs = Histogram(
            "enginehouse_runner_batch_jobs",
            "Jobs in one call of an engine that takes several at once.",
            buckets=_SIZES,
            registry=self.registry,
        )
        self.running = Gauge("enginehouse_runner_running", "Attempts under way.", registry=self.registry)

    def text(self) -> bytes:
        """Return all values in Prometheus' text format."""
        return generate_latest(self.registry)
