"""What `mode: job` asks of an engine.yaml: a pod gets one job in all, over HTTP, and there is none without a job."""

from typing import Any, Literal

Mode = Literal["service", "job"]
"""How an engine runs: in replicas that take one job after another, or in a fresh pod for each job."""

ONE_JOB_PORT = 8800
"""Where such a pod takes its job. The engine in it listens on the port of every engine, and so needs no change."""


def with_one_at_once(content: Any) -> Any:
    """Return the content of an engine.yaml, with a concurrency of 1 where `mode: job` stands without one."""
    is_of_jobs = isinstance(content, dict) and content.get("mode") == "job"
    return {"concurrency": 1, **content} if is_of_jobs else content


def fit_one_job(field: str, value: Any) -> Any:
    """Return the value that a field has with `mode: job`. Raise ValueError if what is written does not go with it."""
    if field == "concurrency" and value > 1:
        raise ValueError(f"{value} does not go with `mode: job`, where a pod gets one job in all: remove it")
    if field == "batch" and value.max_size > 1:
        raise ValueError("does not go with `mode: job`, where a pod gets one job in all: remove it")
    if field == "open_inference" and value is not None and value.transport == "grpc":
        raise ValueError("transport grpc does not go with `mode: job`, where each call comes over HTTP: use rest")
    if field == "scale":
        if value.min and "min" in value.model_fields_set:
            raise ValueError(
                "min is 0 with `mode: job`, where a pod is made for each job: remove it; max is the most at once"
            )
        return value.model_copy(update={"min": 0})
    return value
