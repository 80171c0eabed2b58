"""Fixed data for the pages of the command: a client that answers from memory, processes and tenants that never change."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from enginehouse.client import AuditInfo, DeadLetterInfo, EngineInfo, Handle, JobNews, WaitOver
from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.errors import EngineDoesNotExist, InvalidInput
from enginehouse.contracts.job import Job, JobError, Metrics, Status
from enginehouse.contracts.tenant import ApiKey, Tenant

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
IDS = [f"01890a5d-ac96-7b2a-8c4e-01234567{number:04x}" for number in range(0x89AB, 0x89AF)]
LONG_NAME = "northwind--invoices-of-the-eastern-region-with-attachments"


def ago(**span: float) -> datetime:
    """Return a moment before NOW."""
    return NOW - timedelta(**span)


ENGINES = [
    EngineInfo.model_validate(fields)
    for fields in (
        {
            "id": "acme--ocr",
            "version": "1.4.2",
            "description": "Reads the text of a scanned page, of every page of a TIFF, and of a photograph of a page.",
            "state": "quarantined",
            "reason": "8 probes in a row failed; the last: PREDICT_ERROR. Deploy it repaired, or resume it: "
            "enginehouse engines resume acme--ocr",
            "health": "unhealthy",
            "queue": {"jobs": {"queued": 1204, "running": 0}, "workers": {"idle": 1, "running": 0}},
        },
        {
            "id": LONG_NAME,
            "version": "2026.11.1",
            "description": "Finds sender, sum and date.",
            "state": "active",
            "health": "asleep",
            "reason": "No replica runs: it starts with the next job.",
            "queue": {"jobs": {"queued": 0, "running": 0}, "workers": {"idle": 0, "running": 0}},
        },
        {
            "id": "shared--standard",
            "version": "1.0.0",
            "description": "Tells whether a text is positive or negative.",
            "state": "active",
            "health": "healthy",
            "queue": {"jobs": {"queued": 3, "running": 2}, "workers": {"idle": 0, "running": 2}},
        },
    )
]
CARD = EngineCard(
    engine="shared--standard",
    slot="a",
    version="1.0.0",
    input_schema={"type": "object", "properties": {"text": {"type": "string"}}},
    output_schema={"type": "object", "properties": {"label": {"type": "string"}}},
    example={"text": "I love it"},
    concurrency=4,
)
JOBS = [
    Job(id=IDS[0], engine="shared--standard", status=Status.QUEUED, created_at=ago(seconds=4)),
    Job(
        id=IDS[1],
        engine=LONG_NAME,
        status=Status.RUNNING,
        attempts=2,
        metrics=Metrics(queue_time=95.2),
        created_at=ago(minutes=3),
    ),
    Job(
        id=IDS[2],
        engine="acme--ocr",
        version="1.4.2",
        status=Status.FAILED,
        attempts=3,
        metrics=Metrics(queue_time=0.0025, predict_time=12.31),
        error=JobError(code="PREDICT_ERROR", message="RuntimeError: the picture of 12,000 x 60 pixels is too wide"),
        retried_as=IDS[3],
        created_at=ago(hours=5),
    ),
    Job(
        id=IDS[3],
        engine="shared--standard",
        version="1.0.0",
        status=Status.SUCCEEDED,
        attempts=1,
        output={"label": "positive", "score": 0.61},
        metrics=Metrics(queue_time=0.0064, predict_time=0.003),
        created_at=ago(days=2, hours=3),
    ),
]
LETTERS = [
    DeadLetterInfo(
        id=IDS[2],
        engine="acme--ocr",
        reason="PREDICT_ERROR",
        attempts=3,
        error=JOBS[2].error,
        event='{"id": "x", "data": {"image": ""}}',
        created_at=ago(minutes=59),
        redriven_as=IDS[3],
    ),
    DeadLetterInfo(id=IDS[1], engine=LONG_NAME, reason="WORKER_LOST", attempts=1, created_at=ago(days=9)),
]
_KEY = {"sha256": "0" * 64, "created_at": NOW}
TENANTS = [
    Tenant(
        name="acme", keys=[ApiKey(id="eh_acme_Xk3v9QwZ", **_KEY), ApiKey(id="eh_acme_B2f0aP1s", admin=True, **_KEY)]
    ),
    Tenant(name="globex"),
]


def process(name: str, kind: str, port: int, **fields: Any) -> dict[str, Any]:
    """Return a process as `status` shows it."""
    healthy = {"state": "running", "healthy": True, "pid": 4000 + port % 97, "restarts": 0, "uptime_seconds": 190.4}
    return {"name": name, "kind": kind, "port": port, **healthy, **fields}


PROCESSES = [
    process("gateway", "gateway", 8080),
    process("gateway.daprd", "sidecar", 20311),
    process(f"{LONG_NAME}--a.engine-0", "engine", 20417, healthy=False, restarts=7, uptime_seconds=3.2),
    process(f"{LONG_NAME}--a.engine-1", "engine", 20418, healthy=False, state="starting", pid=None, uptime_seconds=0),
    process("shared--standard--a.runner", "runner", 20655, uptime_seconds=7_300),
]
STATE = {
    "url": "http://127.0.0.1:8080",
    "grpc": "127.0.0.1:8090",
    "ready": True,
    "processes": PROCESSES,
    "engines": {
        "shared--standard": {"state": "running", "problem": None, "doing": None},
        LONG_NAME: {
            "state": "failing",
            "problem": "ModuleNotFoundError: there is no module named 'torch'",
            "doing": None,
        },
    },
    "refused": {},
    "unconfined": None,
}


AUDIT = [
    AuditInfo.model_validate({"writer": "gateway", "number": 12, "at": ago(minutes=1), **fields})
    for fields in (
        {
            "action": "POST /v1/engines/{engine}/jobs",
            "outcome": "ok",
            "by": "acme",
            "key": "eh_acme_Xk3v",
            "engine": LONG_NAME,
            "job": IDS[0],
            "ms": 3.21,
        },
        {
            "action": "job ended",
            "outcome": "failed",
            "tenant": "acme",
            "engine": "acme--ocr",
            "job": IDS[2],
            "ms": 61_000,
            "detail": "PREDICT_ERROR",
        },
        {"action": "refused calls", "outcome": "REFUSED", "times": 12_345, "ms": 60_000},
        {
            "action": "enginehouse tenant revoke",
            "outcome": "ok",
            "user": "ada",
            "tenant": "acme",
            "ms": 12,
            "detail": "key eh_acme_Xk3v",
        },
    )
]


class MemoryClient:
    """Answers as a client does. `waits` looks at a job find it unfinished; `interrupted` looks are broken off."""

    def __init__(self, waits: int = 0, interrupted: bool = False) -> None:
        self.waits = waits
        self.interrupted = interrupted
        self.called: list[tuple[str, str]] = []

    def __enter__(self) -> "MemoryClient":
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def engines(self, limit: int | None = None) -> list[EngineInfo]:
        return ENGINES

    def engine(self, name: str) -> EngineInfo:
        for found in ENGINES:
            if found.id in (name, f"shared--{name}"):
                return found.model_copy(update={"card": CARD})
        raise EngineDoesNotExist(f"No engine {name!r} that demo may use")

    def quarantine(self, engine: str, reason: str) -> EngineInfo:
        self.called.append(("quarantine", engine))
        return self.engine(engine)

    def resume(self, engine: str) -> EngineInfo:
        self.called.append(("resume", engine))
        return self.engine(engine)

    def purge(self, engine: str) -> int:
        self.called.append(("purge", engine))
        return 12

    def jobs(self, **query: Any) -> Iterator[Job]:
        yield from JOBS

    def job(self, job_id: str) -> Job:
        return next(job for job in JOBS if job.id == job_id)

    def submit(self, engine: str, value: Any, **options: Any) -> Handle:
        found = self.engine(engine)
        if not isinstance(value, dict):
            raise InvalidInput('input: 42 is not of type "object"')
        job = next(job for job in reversed(JOBS) if job.engine == found.id)
        return Handle(self, job.id, job.engine)  # type: ignore[arg-type]

    def wait(self, job_id: str, timeout_seconds: float | None = None) -> Job:
        if self.interrupted:
            raise KeyboardInterrupt
        self.waits -= 1
        if self.waits >= 0:
            raise WaitOver(f"Job {job_id} is still running after the time to wait for it")
        return self.job(job_id)

    def output(self, job: Job) -> Any:
        return job.output

    def events(self, job_id: str) -> Iterator[JobNews]:
        yield JobNews(kind="start", data={"attempt": 1})
        yield JobNews(kind="log", data="read the first page of many pages, and the second page after the first page")
        yield JobNews(kind="completed", data=self.job(job_id).model_dump(mode="json"))

    def dead_letters(self, **query: Any) -> Iterator[DeadLetterInfo]:
        yield from LETTERS

    def audit(self, **query: Any) -> Iterator[AuditInfo]:
        yield from AUDIT

    def dead_letter(self, letter_id: str) -> DeadLetterInfo:
        return LETTERS[0]

    def discard(self, letter_id: str) -> None:
        self.called.append(("discard", letter_id))
