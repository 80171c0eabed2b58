"""Chooses the client of an engine by the protocol in its engine.yaml: the one place that knows them all."""

from collections.abc import Callable

from enginehouse.checkers import Checkers
from enginehouse.contracts.engine import EngineSpec
from enginehouse.runner.clients.base import EngineClient
from enginehouse.runner.clients.batch import BatchingEngine
from enginehouse.runner.clients.http import HttpEngine
from enginehouse.runner.clients.json_call import JsonEngine
from enginehouse.runner.clients.open_inference import OpenInferenceEngine
from enginehouse.runner.clients.open_inference_grpc import OpenInferenceGrpcEngine
from enginehouse.runner.clients.openai import OpenAIEngine
from enginehouse.runner.clients.wire import Limits, Wire


def engine_client(
    spec: EngineSpec, url: str, checkers: Checkers, limits: Limits, *, count_jobs: Callable[[int], object]
) -> EngineClient:
    """Return the client of the replica at `url`. `count_jobs` hears how many jobs share a call. Call inside the event loop."""
    if (tensors := spec.open_inference) is not None and tensors.transport == "grpc":
        return OpenInferenceGrpcEngine(url, tensors, checkers, limits)
    wire = Wire(url, checkers, limits)
    if tensors is not None:
        return OpenInferenceEngine(wire, tensors)
    if spec.openai is not None:
        return OpenAIEngine(wire, spec.openai)
    if spec.json_call is not None:
        return JsonEngine(wire, spec.json_call)
    client, batch = HttpEngine(wire), spec.batch
    if batch.max_size == 1:
        return client
    return BatchingEngine(
        client,
        calls=spec.concurrency,
        max_size=batch.max_size,
        max_delay_seconds=batch.max_delay_ms / 1000,
        count_jobs=count_jobs,
    )
