"""Compares how two versions of an engine answered the same inputs, and sums that up."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import pydantic_core

from enginehouse.contracts.job import JobRecord
from enginehouse.contracts.replay import Difference, Example, ReplayReport, Side, Times
from enginehouse.gateway.ledger.rows import JobRow

EXAMPLES_MAX = 5
"""Most jobs that a report shows one by one."""
DIFFERENCES_MAX = 8
"""Most differences that it shows of one job."""
_VALUE_CHARS = 200


class Answer(NamedTuple):
    """How one version answered one input."""

    code: str
    """`succeeded`, or the code of the error."""
    output: Any
    predict_time: float | None


def answer_of(end: JobRow | JobRecord, output: Any) -> Answer:
    """Return the answer in a job's row or record that has ended."""
    code = str(end.status) if end.error is None else end.error.code
    return Answer(code, output, end.predict_time)


def differences(then: Any, now: Any, tolerance: float, path: str = "") -> Iterator[Difference]:
    """Find the places at which two JSON values differ. Numbers may differ by `tolerance`, relative to the larger."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in then | now:
            here = f"{path}.{key}" if path else str(key)
            if key in then and key in now:
                yield from differences(then[key], now[key], tolerance, here)
            else:
                yield Difference(path=here, then=_shown(then, key), now=_shown(now, key))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for place, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from differences(one, other, tolerance, f"{path}[{place}]")
    elif not _equal(then, now, tolerance):
        yield Difference(path=path, then=_short(then), now=_short(now))


def _equal(then: Any, now: Any, tolerance: float) -> bool:
    if isinstance(then, bool) or isinstance(now, bool):
        return then is now
    if isinstance(then, int | float) and isinstance(now, int | float):
        return math.isclose(then, now, rel_tol=tolerance)
    return type(then) is type(now) and bool(then == now)


def _shown(values: dict[str, Any], key: str) -> str | None:
    return _short(values[key]) if key in values else None


def _short(value: Any) -> str:
    text = pydantic_core.to_json(value).decode()
    return text if len(text) <= _VALUE_CHARS else text[: _VALUE_CHARS - 1] + "…"


@dataclass(slots=True)
class Comparison:
    """Counts the jobs that were replayed. `tolerance` is relative."""

    tolerance: float
    same: int = 0
    outputs_differ: int = 0
    newly_failed: int = 0
    newly_succeeded: int = 0
    examples: list[Example] = field(default_factory=list)
    _then: list[Answer] = field(default_factory=list)
    _now: list[Answer] = field(default_factory=list)

    @property
    def replayed(self) -> int:
        """Return the number of jobs compared so far."""
        return len(self._now)

    def add(self, job_id: str | None, then: Answer, now: Answer) -> None:
        """Compare the answers to one input. `job_id` None: nothing of the job may be shown."""
        self._then.append(then._replace(output=None))
        self._now.append(now._replace(output=None))
        found: list[Difference] = []
        if then.code == now.code:
            found = list(islice(differences(then.output, now.output, self.tolerance), DIFFERENCES_MAX))
            if not found:
                self.same += 1
                return
            self.outputs_differ += 1
        elif now.code == "succeeded":
            self.newly_succeeded += 1
        else:
            self.newly_failed += 1
        if len(self.examples) < EXAMPLES_MAX:
            shown = found if job_id else [each.model_copy(update={"then": "…", "now": "…"}) for each in found]
            self.examples.append(Example(job=job_id, then=then.code, now=now.code, differences=shown))

    def report(
        self, engine: str, versions: tuple[str | None, str | None], wanted: int, stopped: str | None
    ) -> ReplayReport:
        """Sum up. `versions` are the active one and the one on trial."""
        return ReplayReport(
            engine=engine,
            passed=self.replayed == wanted and not self.outputs_differ and not self.newly_failed,
            wanted=wanted,
            replayed=self.replayed,
            same=self.same,
            outputs_differ=self.outputs_differ,
            newly_failed=self.newly_failed,
            newly_succeeded=self.newly_succeeded,
            stopped=stopped,
            then=self._side(versions[0], self._then),
            now=self._side(versions[1], self._now),
            examples=self.examples,
        )

    def _side(self, version: str | None, answers: list[Answer]) -> Side:
        codes = Counter(answer.code for answer in answers)
        succeeded = codes.pop("succeeded", 0)
        both = [
            answer.predict_time
            for answer, then, now in zip(answers, self._then, self._now, strict=True)
            if then.code == now.code == "succeeded" and answer.predict_time is not None
        ]
        times = Times(p50=_percentile(both, 0.5), p95=_percentile(both, 0.95))
        return Side(version=version, succeeded=succeeded, errors=dict(codes), predict_seconds=times)


def _percentile(values: list[float], part: float) -> float | None:
    return round(sorted(values)[math.ceil(part * len(values)) - 1], 6) if values else None
