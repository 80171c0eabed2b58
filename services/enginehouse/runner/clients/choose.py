"""Chooses the client of an engine by the protocol in its engine.yaml: the one place that knows them all.

Clients of ready-made servers bring packages that take more memory than all of a runner's own modules (gRPC alone 12 MB), so
each is imported only for an engine that needs it.
"""

from collections.abc import Callable

from enginehouse.checkers import Checkers
from enginehouse.contracts.engine import EngineSpec
from enginehouse.runner.clients.base import EngineClient
from enginehouse.runner.clients.batch import BatchingEngine
from enginehouse.runner.clients.http import HttpEngine
from enginehouse.runner.clients.wire import Limits, Wire


def engine_client(
    spec: EngineSpec, url: str, checkers: Checkers, limits: Limits, *, count_jobs: Callable[[int], object]
) -> EngineClient:
    """Return the client of the replica at `url`. `count_jobs` hears how many jobs share a call. Call inside the event loop."""
    client, batch = _ready_made(spec, url, checkers, limits), spec.batch
    if spec.one_job_each:
        from enginehouse.runner.clients.one_job import OneJobEngine

        return OneJobEngine(client or HttpEngine(Wire(url, checkers, limits)))
    if client is not None:
        return client
    if batch.max_size == 1:
        return HttpEngine(Wire(url, checkers, limits))
    return BatchingEngine(
        HttpEngine(Wire(url, checkers, limits)),
        calls=spec.concurrency,
        max_size=batch.max_size,
        max_delay_seconds=batch.max_delay_ms / 1000,
        count_jobs=count_jobs,
    )


def _ready_made(spec: EngineSpec, url: str, checkers: Checkers, limits: Limits) -> EngineClient | None:
    """Return the client of a server that was not made for Enginehouse; None for an engine with POST /predict."""
    if (tensors := spec.open_inference) is not None and tensors.transport == "grpc":
        from enginehouse.runner.clients.open_inference_grpc import OpenInferenceGrpcEngine

        return OpenInferenceGrpcEngine(url, tensors, checkers, limits)
    if tensors is not None:
        from enginehouse.runner.clients.open_inference import OpenInferenceEngine

        return OpenInferenceEngine(Wire(url, checkers, limits), tensors)
    if spec.openai is not None:
        from enginehouse.runner.clients.openai import OpenAIEngine

        return OpenAIEngine(Wire(url, checkers, limits), spec.openai)
    if spec.json_call is not None:
        from enginehouse.runner.clients.json_call import JsonEngine

        return JsonEngine(Wire(url, checkers, limits), spec.json_call)
    return None
