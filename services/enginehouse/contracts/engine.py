"""An engine: its engine.yaml, its card, its workers' heartbeats and its HTTP bodies."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)

from enginehouse.contracts.base import StrictModel, WireModel
from enginehouse.contracts.errors import InvalidName
from enginehouse.contracts.job import MAX_EXECUTION_SECONDS, MAX_QUEUE_SECONDS, RetryPolicy
from enginehouse.contracts.kept_json import KeptObject
from enginehouse.contracts.names import EngineId, Slot, check_name
from enginehouse.contracts.one_job import Mode, fit_one_job, with_one_at_once
from enginehouse.contracts.problem import Problem
from enginehouse.contracts.program import (
    Artifact,
    CodeModule,
    LocalRun,
    ModelFile,
    Program,
    has_digest,
)
from enginehouse.contracts.protocols import JsonCall, OpenAI, OpenInference, ProtocolName, check_options
from enginehouse.contracts.quantities import Cpu, Memory, parse_quantity
from enginehouse.contracts.selector import LABEL_NAME_PATTERN, LABEL_VALUE_PATTERN, LABELS_MAX

ENGINE_PORT = 8000
CONTAINER_USER, CONTAINER_GROUP = 1000, 3000
"""Whom an engine runs as in a container, whatever its image says."""
EXAMPLE_FILE = "example.json"
"""File of an engine's folder with an input: it is tried before a version gets jobs, and shown on the card."""
ENGINE_WARNING_HEADER = "X-Engine-Warning"
"""Header of an engine's answers with a sentence on what slows its jobs. Its runner shows it to the owner."""
ENGINE_WARNING_MAX_CHARS = 300
CARD_MAX_BYTES = 64 * 1024
CARD_MAX_DEPTH = 32
INLINE_MAX_BYTES = 64 * 1024
"""Inputs and outputs up to this size travel inside the message; larger ones travel by reference."""

HEARTBEAT_SECONDS = 5
WORKER_TTL_SECONDS = 15

_PYTHON = re.compile(r"3\.(1[1-9]|[2-9]\d)(\.\d{1,3})?")
"""Versions that the engine package works with."""

WINDOW_MIN, WINDOW_FACTOR = 32, 4
"""An engine's window, unless the gateway's settings say otherwise: so many jobs, or so many for each job that its workers
can run at once. It keeps the workers busy while the gateway learns of ends and hands over the next jobs."""

JOBS_AT_ONCE_MAX = 1_024
"""Most jobs that a replica is given at once, whatever its concurrency and batch size."""


_PROGRAMS = ("run", "module", "model")
"""The fields of which one says what runs as a process."""
Labels = Annotated[
    dict[
        Annotated[str, Field(pattern=f"^{LABEL_NAME_PATTERN}$")],
        Annotated[str, Field(pattern=f"^{LABEL_VALUE_PATTERN}$")],
    ],
    Field(max_length=LABELS_MAX),
]


SECRETS_MAX = 32
_SECRET_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def check_secret_name(name: str) -> str:
    """Return `name` if a secret may have it; otherwise raise InvalidName with the rule."""
    if not _SECRET_NAME.fullmatch(name):
        raise InvalidName(f"{name[:70]!r} is not a secret's name: up to 64 of A-Z, 0-9 and '_', starting with a letter")
    return name


class Resources(StrictModel):
    """Limits of one replica, in the notation of Kubernetes. For processes only the memory is enforced."""

    cpu: Cpu = "1"
    memory: Memory = "512Mi"
    gpu: Annotated[int, Field(ge=0, le=16)] = Field(0, description="Whole GPUs.")

    @property
    def memory_bytes(self) -> int:
        """Return the memory in bytes."""
        return int(parse_quantity(self.memory))

    @property
    def scratch_bytes(self) -> int:
        """Return the size of /tmp in a container, all that an engine can write to: half of its memory, of which it is a part."""
        return self.memory_bytes // 2


class Batch(StrictModel):
    """How many waiting jobs the runner may pass to one call of `predict_batch`, and how long it may wait for them."""

    max_size: Annotated[int, Field(ge=1, le=256)] = 1
    max_delay_ms: Annotated[int, Field(ge=0, le=1_000)] = 5


class Scale(StrictModel):
    """How many replicas there may be. With `min: 0` an engine without replicas counts as asleep, which is healthy."""

    min: Annotated[int, Field(ge=0, le=100)] = 1
    max: Annotated[int, Field(ge=1, le=100)] = Field(
        default_factory=lambda others: max(1, others.get("min", 1)), description="Default: `min`, at least 1."
    )

    @field_validator("max")
    @classmethod
    def _not_below_min(cls, most: int, info: ValidationInfo) -> int:
        least = info.data.get("min", 0)
        if most < least:
            raise ValueError(f"{most} is less than min, which is {least}: raise max, or leave it out")
        return most


class EngineSpec(StrictModel):
    """The content of engine.yaml: everything that Enginehouse must know to run an engine."""

    # The field `json` has another name in Python, where every model has a method `json`.
    model_config = ConfigDict(serialize_by_alias=True)
    renamed: ClassVar[Mapping[str, str]] = {"slots": "concurrency"}

    tenant: str
    name: str
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")] = "v1"
    description: Annotated[str, Field(max_length=500)] = ""
    run: LocalRun | None = Field(None, description="How `enginehouse up` starts the engine as a process.")
    module: CodeModule | None = Field(None, description="In place of `run`: a wheel or zip file with the engine.")
    model: ModelFile | None = Field(None, description="In place of `run`: a model file, and no code.")
    image: Annotated[str, Field(min_length=1, max_length=300)] | None = Field(
        None,
        description="Container image, for containers and Kubernetes; by its digest if it is all that there is.",
    )
    fetch: Annotated[list[Artifact], Field(max_length=50)] = Field(
        default_factory=list, description="Files that deploying brings into the folder, from where its tenant may read."
    )
    python: str | None = Field(
        None,
        description="Version of the Python that its process needs, such as `3.12`; fetched if this machine has none. "
        "Default: the Python that runs Enginehouse.",
    )
    mode: Mode = Field("service", description="`job`: in Kubernetes, a fresh pod for each job. `service`: replicas.")
    protocol: ProtocolName = Field("predict", description="How the runner calls the engine.")
    open_inference: OpenInference | None = Field(None, validate_default=True)
    openai: OpenAI | None = Field(None, validate_default=True)
    json_call: JsonCall | None = Field(None, alias="json", validate_default=True)
    labels: Labels = Field(default_factory=dict, description="Names and values by which many engines are selected.")
    secrets: Annotated[list[str], Field(max_length=SECRETS_MAX)] = Field(
        default_factory=list,
        description="Names of the secrets that it reads; `enginehouse engines secret set` sets values.",
    )
    concurrency: Annotated[int, Field(ge=1, le=256)] = Field(
        4, description="Jobs that one replica works on at the same time. With `mode: job` it is 1."
    )
    execution_timeout_seconds: Annotated[float, Field(gt=0, le=MAX_EXECUTION_SECONDS)] = 60
    max_time_in_queue_seconds: Annotated[int, Field(ge=1, le=MAX_QUEUE_SECONDS)] = 86_400
    max_queued_jobs: Annotated[int, Field(ge=1)] = Field(
        100_000, description="A submit beyond this number is answered 429 QUEUE_FULL."
    )
    retry: RetryPolicy = RetryPolicy()
    batch: Batch = Batch()
    scale: Scale = Field(Scale(), validate_default=True)
    resources: Resources = Resources()

    @field_validator("tenant", "name")
    @classmethod
    def _valid_name(cls, value: str, info: ValidationInfo) -> str:
        try:
            return check_name("tenant" if info.field_name == "tenant" else "engine", value)
        except InvalidName as error:
            # A ValueError, so that the other mistakes of the file are found as well.
            raise ValueError(str(error)) from None

    @field_validator("secrets")
    @classmethod
    def _secrets(cls, names: list[str], info: ValidationInfo) -> list[str]:
        if names and info.data.get("model") is not None:
            raise ValueError("belongs to engines with code: nothing that serves a `model` reads secrets")
        try:
            named = [check_secret_name(name) for name in names]
        except InvalidName as error:
            raise ValueError(str(error)) from None
        if twice := next((name for name in named if named.count(name) > 1), None):
            raise ValueError(f"{twice} is there twice")
        return named

    @field_validator("python", mode="before")
    @classmethod
    def _python(cls, value: Any) -> Any:
        # YAML reads an unquoted 3.12 as a number. No version that is allowed ends in a zero that this would lose.
        text = str(value) if isinstance(value, float) else value
        if text is None or (isinstance(text, str) and _PYTHON.fullmatch(text)):
            return text
        raise ValueError(f'{value!r} is not a version of Python from 3.11 on; write one in quotes, such as "3.12"')

    @field_validator("python")
    @classmethod
    def _for_python(cls, python: str | None, info: ValidationInfo) -> str | None:
        run: LocalRun | None = info.data.get("run")
        if python is not None and run is not None and not run.program.is_python:
            raise ValueError(f"belongs to engines in Python, and `run` starts {run.command[0]!r}: remove it")
        return python

    @field_validator("protocol")
    @classmethod
    def _served_by_us(cls, protocol: ProtocolName, info: ValidationInfo) -> ProtocolName:
        named = next((name for name in ("module", "model") if info.data.get(name) is not None), None)
        if named and protocol != "predict":
            raise ValueError(f"is predict where `{named}` says what runs; a server of another protocol needs `run`")
        return protocol

    @field_validator("module", "model")
    @classmethod
    def _one_program(cls, value: Any, info: ValidationInfo) -> Any:
        others = [name for name in _PROGRAMS if name != info.field_name and info.data.get(name) is not None]
        if value is not None and others:
            raise ValueError(f"says what runs, and so does `{others[0]}`: keep one of them")
        return value

    @field_validator("image")
    @classmethod
    def _image_is_fixed(cls, image: str | None, info: ValidationInfo) -> str | None:
        has_program = any(info.data.get(name, ...) is not None for name in _PROGRAMS)
        if image is not None and not has_program and not has_digest(image):
            raise ValueError(
                f"{image!r} may become another image: name it by its digest, such as registry.example/team/engine@sha256:…"
            )
        return image

    @field_validator("fetch")
    @classmethod
    def _fetched_once(cls, fetch: list[Artifact]) -> list[Artifact]:
        files = [artifact.file for artifact in fetch]
        if twice := sorted({file for file in files if files.count(file) > 1}):
            raise ValueError(f"{twice[0]!r} is fetched twice; a file has one source")
        return fetch

    @field_validator("open_inference", "openai", "json_call")
    @classmethod
    def _options(cls, value: Any, info: ValidationInfo) -> Any:
        check_options(str(info.field_name).removesuffix("_call"), value, info.data.get("protocol"))
        return value

    @field_validator("retry")
    @classmethod
    def _delays_grow(cls, retry: RetryPolicy) -> RetryPolicy:
        if retry.initial_delay_ms > retry.max_delay_ms:
            raise ValueError(
                f"initial_delay_ms, {retry.initial_delay_ms}, is more than max_delay_ms, {retry.max_delay_ms}, which "
                "would hold from the first retry on: raise max_delay_ms"
            )
        return retry

    @field_validator("batch")
    @classmethod
    def _batches_of_predict(cls, batch: Batch, info: ValidationInfo) -> Batch:
        protocol = info.data.get("protocol", "predict")
        if batch.max_size > 1 and protocol != "predict":
            raise ValueError(
                f"belongs to protocol predict, and this engine's protocol is {protocol}: remove it, and set concurrency to "
                "the number of jobs that the server is given at once; it makes its own batches of them"
            )
        if batch.max_size > 1 and info.data.get("model") is not None:
            raise ValueError("belongs to engines with predict_batch, and what serves a `model` has none: remove it")
        return batch

    @model_validator(mode="before")
    @classmethod
    def _one_at_once(cls, content: Any) -> Any:
        return with_one_at_once(content)

    @field_validator("open_inference", "concurrency", "batch", "scale")
    @classmethod
    def _one_job_each(cls, value: Any, info: ValidationInfo) -> Any:
        return fit_one_job(str(info.field_name), value) if info.data.get("mode") == "job" else value

    @property
    def id(self) -> str:
        """Return the engine id, `<tenant>--<engine>`."""
        return str(EngineId(self.tenant, self.name))

    @property
    def program(self) -> Program | None:
        """Return what runs as a process; None: the engine exists as an image only."""
        part = self.run or self.module or self.model
        return part.program if part else None

    @property
    def one_job_each(self) -> bool:
        """Say whether each job gets a replica of its own, which then ends."""
        return self.mode == "job"

    @property
    def jobs_at_once(self) -> int:
        """Return how many jobs one replica can have in hand: a full batch for each call that it works on."""
        return max(self.concurrency, min(self.concurrency * self.batch.max_size, JOBS_AT_ONCE_MAX))


class EngineState(StrEnum):
    """Whether an engine gets jobs."""

    ACTIVE = "active"
    PAUSED = "paused"
    """The breaker stopped the engine. Its jobs wait; after a while single jobs are let through as probes."""
    QUARANTINED = "quarantined"
    """The engine is stopped until it is resumed: by an operator, or by its owner if the breaker stopped it."""
    RETIRED = "retired"
    """The engine was removed."""


class Control(WireModel):
    """The gateway's orders to an engine's runners, under the state key `control`."""

    stopped: StrictBool = Field(False, description="True while the engine is quarantined. Runners then begin no job.")


class EngineCard(WireModel):
    """Describes one slot of an engine to the gateway. Cards come from tenants, so they are bounded before use."""

    engine: str
    slot: Slot
    version: str
    deployment: str = Field("", description="Differs from that of any other deployment with other content.")
    description: str = ""
    protocol: str = Field("predict", description="How the runner calls the engine: a `ProtocolName`.")
    labels: dict[str, str] = Field(default_factory=dict)
    input_schema: dict[str, Any] = Field(default_factory=dict, description="JSON Schema 2020-12 of `input`.")
    output_schema: dict[str, Any] = Field(default_factory=dict)
    example: Any = None
    concurrency: int = 1
    execution_timeout_seconds: float = 60
    max_time_in_queue_seconds: int = 86_400
    max_queued_jobs: int = 100_000
    retry: RetryPolicy = RetryPolicy()
    batch: Batch = Batch()
    idle_at_zero: bool = False
    openapi: KeptObject | None = Field(None, description="OpenAPI document of the engine, if it fits into the card.")

    @property
    def speaks_tensors(self) -> bool:
        """Say whether its inputs and outputs are infer requests and their answers."""
        return self.protocol == "open-inference"


class Heartbeat(WireModel):
    """A worker's sign of life, under the state key `worker/<worker>`.

    It is renewed every HEARTBEAT_SECONDS, and gone WORKER_TTL_SECONDS after the last.
    """

    worker: str
    slot: Slot
    version: str
    concurrency: int = Field(description="Jobs that the worker can have in hand at the same time.")
    in_hand: list[str] = Field(
        default_factory=list, description="Ids of jobs that were delivered and are not settled yet."
    )
    idle_since: AwareDatetime | None = Field(
        None, description="Moment since which the worker has had no job in hand. None: it is busy."
    )
    healthy: bool = Field(description="Whether the engine answers its health check.")
    asleep: bool = Field(
        False, description="Whether the engine has no replica, not even one that is ill: one comes when there are jobs."
    )
    subscribed: bool = Field(description="Whether this slot receives the engine's jobs.")
    on_trial: bool = Field(
        False, description="Whether this slot receives the jobs that are sent to the version on trial."
    )
    jobs_per_event: int = Field(1, ge=1, description="How many jobs the worker takes in one event.")
    warning: Annotated[str, Field(max_length=ENGINE_WARNING_MAX_CHARS)] | None = Field(
        None, description="What slows the engine's jobs, in the engine's own words."
    )
    problem: Problem | None = Field(None, description="Why the engine cannot work. It may quote the engine's output.")
    at: AwareDatetime


class WorkerList(WireModel):
    """The names of an engine's workers, under the state key `workers`. They lead to the heartbeats."""

    workers: list[str] = Field(default_factory=list)


class PredictRequest(BaseModel):
    """Body of POST /predict, as an engine receives it."""

    model_config = ConfigDict(extra="ignore")

    data: Any
    id: str | None = None
    parameters: dict[str, Any] | None = None
