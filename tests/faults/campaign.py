"""Breaks one thing after another under load, waits each time until all jobs move again, and judges the whole run."""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tests.faults.api import Api, Away
from tests.faults.evidence import Evidence
from tests.faults.load import Load, Sent
from tests.faults.receiver import Receiver

RECOVERY_SECONDS = 30.0
_GIVE_UP_SECONDS = 75.0
_LOOK_SECONDS = 1.0
_MARGIN_SECONDS = 0.25
"""Between two processes' looks at the clock."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that breaks. `inject` returns when its cause is gone: a kill at once, a pause when it is over."""

    name: str
    inject: Callable[[], object]
    counts_from_start: bool = True
    """Whether recovery counts from the moment it broke; otherwise from when its cause was gone."""


@dataclass(slots=True)
class Happened:
    """A fault, and how long its jobs stood still."""

    name: str
    at: float
    recovery: float | None = None
    """None: not within the time that was waited."""
    waited_for: int = 0


@dataclass
class Campaign:
    """One run: `strike` for each fault, then `finish`, then `judge`."""

    load: Load
    evidence: Evidence
    readers: list[Api]
    """An API for each gateway."""
    receiver: Receiver | None = None
    say: Callable[[str], None] = print
    happened: list[Happened] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    twice: Counter[str] = field(default_factory=Counter)
    """Jobs that ran again although a run of theirs had ended, by the fault before it."""
    lost: Counter[str] = field(default_factory=Counter)

    def strike(self, fault: Fault) -> Happened:
        """Break it; return once every job that it found unfinished has moved, and a later one has run."""
        before = {sent.key for sent in self.load.present()}
        began = time.time()
        waiting = {key for key in before if not self._ended_before(key, began)}
        fault.inject()
        counted_from = began if fault.counts_from_start else time.time()
        happened = Happened(fault.name, began, waited_for=len(waiting))
        self.happened.append(happened)
        moved_at, looked_at = counted_from, time.monotonic()
        while waiting or not self._ran_since(before, counted_from):
            look = time.monotonic() > looked_at + _LOOK_SECONDS
            looked_at = time.monotonic() if look else looked_at
            for key in list(waiting):
                moved = self._moved(key, began, look=look)
                if moved is not None:
                    moved_at = max(moved_at, moved)
                    waiting.discard(key)
            if time.time() > counted_from + _GIVE_UP_SECONDS:
                ids = [self.load.accepted[key].id for key in list(waiting)[:5]]
                self.violations.append(f"{fault.name}: {len(waiting)} jobs stand still, and so on: {ids}")
                break
            time.sleep(0.05)
        else:
            happened.recovery = max(moved_at, self._ran_since(before, counted_from) or 0) - counted_from
            if happened.recovery > RECOVERY_SECONDS:
                self.violations.append(f"{fault.name}: recovered only after {happened.recovery:.1f} s")
        took = "never" if happened.recovery is None else f"{happened.recovery:.1f} s"
        self.say(f"{len(self.happened):3} {fault.name:46} {len(before):5} jobs accepted, recovered: {took}")
        return happened

    def _ended_before(self, key: str, moment: float) -> bool:
        return any(run.ended is not None and run.ended < moment for run in self.evidence.runs(key))

    def _moved(self, key: str, since: float, *, look: bool) -> float | None:
        """When a job was first seen to be alive after `since`: begun again, or ended for good.

        That a run came to its end says nothing: the runner that had asked for it may be gone.
        """
        runs = self.evidence.runs(key)
        if begun := [run.began for run in runs if run.began > since]:
            return min(begun)
        if not look and not any(run.ended and run.ended > since for run in runs):
            return None
        try:
            _, job = self.readers[0].call("GET", f"/v1/jobs/{self.load.accepted[key].id}")
        except Away:
            return None
        return time_of(job["finished_at"]) if job["finished_at"] else None

    def _ran_since(self, before: set[str], moment: float) -> float | None:
        """When a job first ended that was accepted after the fault."""
        ends = [
            run.ended
            for sent in self.load.present()
            if sent.key not in before and sent.accepted_at >= moment
            for run in self.evidence.runs(sent.key)
            if run.ended is not None
        ]
        return min(ends, default=None)

    def finish(self, timeout_seconds: float = 90) -> None:
        """Stop the load, and read every job until it is final; a second time through each gateway."""
        self.load.stop()
        deadline = time.monotonic() + timeout_seconds
        for sent in self.load.present():
            while not self._read(sent, self.readers[0]) and time.monotonic() < deadline:
                time.sleep(0.1)
        for api in self.readers:
            for sent in self.load.present():
                self._read(sent, api)
        while self.receiver and self._without_webhook() and time.monotonic() < deadline:
            time.sleep(0.2)

    def read_some(self, random_: random.Random, number: int = 20) -> None:
        """Read some jobs now, so that a state that changes later is noticed."""
        present = self.load.present()
        for sent in random_.sample(present, min(number, len(present))):
            self._read(sent, random_.choice(self.readers))

    def _read(self, sent: Sent, api: Api) -> bool:
        try:
            status, job = api.call("GET", f"/v1/jobs/{sent.id}")
        except Away:
            return False
        if status != 200:
            self.violations.append(f"{sent.key} ({sent.id}) was accepted, and reading it answers {status}")
            return False
        if job["finished_at"] is None:
            if sent.seen:
                self.violations.append(f"{sent.key} ({sent.id}) was {sent.seen[0]['status']} and is {job['status']}")
            return False
        sent.seen.append(
            {name: job[name] for name in ("status", "output", "error", "attempts", "finished_at", "version")}
        )
        sent.seen[-1]["dead_lettered"] = job["dead_lettered"]
        return True

    def _without_webhook(self) -> list[str]:
        assert self.receiver
        arrived = self.receiver.statuses
        return [sent.key for sent in self.load.present() if sent.seen and sent.id not in arrived]

    def judge(self) -> list[str]:
        """Everything that was promised and does not hold."""
        found = list(self.violations) + self.load.problems
        found += [
            f"{times} times {what}" for api in (self.load.api, *self.readers) for what, times in api.unexpected.items()
        ]
        letters = self._dead_letters()
        for sent in self.load.present():
            found += self._judge_job(sent, letters)
        if self.receiver:
            found += [f"no webhook arrived of {key}" for key in self._without_webhook()]
            found += [f"{self.receiver.forged} webhooks were not signed as they must be"] * bool(self.receiver.forged)
            found += [f"webhooks of {job} told {said}" for job, said in self.receiver.statuses.items() if len(said) > 1]
        return found

    def _judge_job(self, sent: Sent, letters: dict[str, dict[str, object]]) -> list[str]:
        name = f"{sent.key} ({sent.id})"
        runs = self.evidence.runs(sent.key)
        ends = [run.ended for run in runs if run.ended is not None]
        for run in runs[1:]:
            if ends and run.began > min(ends):
                self.twice[self._fault_after(runs[0].began)] += 1
        if not sent.seen:
            self.lost[self._fault_before(sent.accepted_at)] += 1
            return [f"{name} has not ended: {len(runs)} runs"]
        found = []
        first = sent.seen[0]
        if any(state != first for state in sent.seen):
            found.append(f"{name} has several ends: {sent.seen}")
        finished = time_of(first["finished_at"])
        if late := [run for run in runs if run.began > finished + _MARGIN_SECONDS]:
            found.append(
                f"{name} ran again {late[0].began - finished:.2f} s after its end"
                f" (accepted {finished - sent.accepted_at:.2f} s before it; fault: {self._fault_before(late[0].began)})"
            )
        if first["status"] == "succeeded":
            if first["output"]["run"] not in {run.id for run in runs if run.ended is not None}:
                found.append(f"{name} has a result that no run gave: {first['output']}")
        elif not first["error"] or not first["error"]["message"]:
            found.append(f"{name} is {first['status']} and says not why")
        elif first["dead_lettered"] and not (sent.id in letters and letters[sent.id]["reason"]):
            found.append(f"{name} is dead-lettered, and no dead letter explains it")
        return found

    def _dead_letters(self) -> dict[str, dict[str, object]]:
        letters: dict[str, dict[str, object]] = {}
        cursor = ""
        while True:
            _, page = self.readers[0].call("GET", f"/v1/dead-letters?limit=500{cursor}")
            letters |= {letter["job_id"]: letter for letter in page["dead_letters"]}
            if not page["next_cursor"]:
                return letters
            cursor = f"&cursor={page['next_cursor']}"

    def _fault_after(self, moment: float) -> str:
        return next((it.name for it in self.happened if it.at > moment), "no fault")

    def _fault_before(self, moment: float) -> str:
        return next((it.name for it in reversed(self.happened) if it.at <= moment), "no fault")

    def table(self) -> str:
        """Fault · times · worst recovery · jobs lost · jobs run twice; call it after `judge`."""
        names = sorted({*(it.name for it in self.happened), *self.twice, *self.lost})
        lines = [f"{'fault':46} {'times':>5} {'worst recovery':>15} {'lost':>5} {'run twice':>9}"]
        for name in names:
            recoveries = [it.recovery for it in self.happened if it.name == name]
            worst = "never" if None in recoveries else f"{max((r for r in recoveries if r), default=0):.1f} s"
            lines.append(f"{name:46} {len(recoveries):5} {worst:>15} {self.lost[name]:5} {self.twice[name]:9}")
        ends = Counter(sent.seen[0]["status"] if sent.seen else "unfinished" for sent in self.load.present())
        said = ", ".join(f"{number} {status}" for status, number in sorted(ends.items()))
        lines.append(f"{sum(ends.values())} jobs accepted: {said}")
        return "\n".join(lines)


def time_of(text: str) -> float:
    """Seconds since the epoch of an API's moment."""
    return datetime.fromisoformat(text).timestamp()


def shuffled(faults: Sequence[Fault], number: int, seed: int) -> list[Fault]:
    """`number` faults in an order that the seed decides, each kind about as often as the others."""
    random_ = random.Random(seed)
    order: list[Fault] = []
    while len(order) < number:
        order += random_.sample(list(faults), len(faults))
    return order[:number]
