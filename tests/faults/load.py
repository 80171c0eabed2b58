"""A steady stream of jobs, each submitted until it is accepted, and noted so that its end can be judged later."""

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from tests.faults.api import AWAY, Api, Away

_BATCH = 12
_BATCH_PAUSE_SECONDS = 2.0


@dataclass(slots=True)
class Sent:
    """A job that was answered 202."""

    key: str
    id: str
    engine: str
    accepted_at: float
    seen: list[dict[str, Any]] = field(default_factory=list)
    """Its final state, as often as it was read."""


@dataclass
class Load:
    """Submits about `per_second` jobs from `start` to `stop`. Most are short, some are long enough to be claimed.

    Beside them, `batches` names an engine that gets moments of work in batches: its events hand over several jobs each.
    """

    api: Api
    engines: list[str]
    per_second: float
    webhook: str | None = None
    batches: str | None = None
    seed: int = 0
    threads: int = 4
    name: str = "job"
    """The keys of its jobs begin with it."""
    accepted: dict[str, Sent] = field(default_factory=dict)
    """By key."""
    problems: list[str] = field(default_factory=list)
    _number: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _workers: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to submit."""
        self._workers = [
            threading.Thread(target=self._run, args=(random.Random(f"{self.seed}.{number}"),), name=f"load {number}")
            for number in range(self.threads)
        ]
        if self.batches:
            self._workers.append(threading.Thread(target=self._run_batches, args=(self.batches,), name="batches"))
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Submit no more; what has been begun is submitted to its end."""
        self._stopping.set()
        for worker in self._workers:
            worker.join()

    def present(self) -> list[Sent]:
        """What has been accepted so far."""
        with self._lock:
            return list(self.accepted.values())

    def _run(self, random_: random.Random) -> None:
        while not self._stopping.is_set():
            with self._lock:
                self._number += 1
                key = f"{self.name}-{self._number}"
            seconds = random_.choice([0, 0, 0, 0.02, 0.1, 0.3, 2.0 + 2 * random_.random()])
            self._submit(key, random_.choice(self.engines), round(seconds, 2))
            self._stopping.wait(random_.uniform(0.5, 1.5) * self.threads / self.per_second)

    def _run_batches(self, engine: str) -> None:
        number = 0
        while not self._stopping.wait(_BATCH_PAUSE_SECONDS):
            number += 1
            keys = [f"{self.name}-batch-{number}-{index}" for index in range(_BATCH)]
            bodies = [{"engine": engine, **self._body(key, 0)} for key in keys]
            answer = self._call("/v1/jobs/batch", {"jobs": bodies}, f"{self.name}-batch-{number}")
            if answer is not None:
                for key, job in zip(keys, answer["jobs"], strict=True):
                    self._note(key, job, engine)

    def _body(self, key: str, seconds: float) -> dict[str, Any]:
        return {"input": {"key": key, "seconds": seconds}, **({"webhook": self.webhook} if self.webhook else {})}

    def _submit(self, key: str, engine: str, seconds: float) -> None:
        answer = self._call(f"/v1/engines/{engine}/jobs", self._body(key, seconds), key)
        if answer is not None:
            self._note(key, answer, engine)

    def _note(self, key: str, job: dict[str, Any], engine: str) -> None:
        with self._lock:
            self.accepted[key] = Sent(key, job["id"], engine, time.time())

    def _call(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any] | None:
        """Submit until all of it is accepted; None if that is not to be."""
        give_up_at = time.monotonic() + 120
        while True:
            try:
                # Its key makes it safe to submit again what may have been accepted.
                status, answer = self.api.call("POST", path, body, headers={"Idempotency-Key": key})
                refused = [job["problem"] for job in answer.get("jobs", ()) if "problem" in job]
                if any(problem["status"] in AWAY for problem in refused):
                    raise Away(str(refused[0]))
                break
            except Away as error:
                if time.monotonic() > give_up_at:
                    self.problems.append(f"{key} was not accepted within two minutes: {error}")
                    return None
                time.sleep(0.2)
        if status not in (200, 202) or refused:
            self.problems.append(f"{key} was refused: {status} {refused or answer}")
            return None
        accepted: dict[str, Any] = answer
        return accepted
