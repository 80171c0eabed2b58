"""A simulated cell: gateways with their sidecars, one ledger, one Redis, and the runners and engines that jobs go to."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import simpy
from tests.benchmarks.simulation.chance import Chance
from tests.benchmarks.simulation.costs import NOTIFIED_MS, WOKEN_READ_MS, Costs
from tests.benchmarks.simulation.ledger import Disk, Ledger, Write, Writer
from tests.benchmarks.simulation.stages import Event, Job, Process, Stage, Steps

EVENT_SECONDS = 0.05
"""One worker works off the jobs of an event in about so long (`handover/grouping.py`)."""


@dataclass(frozen=True)
class Shape:
    """What a cell consists of."""

    gateways: int = 1
    engines: int = 1
    """Engines that get jobs, all alike, each with one runner."""
    cores: int | None = None
    """Cores that all processes share, as in the benchmark; None: each has one of its own."""
    postgres: bool = True
    sync_seconds: float = 0.002
    """Until a commit is on the disk."""
    predict_seconds: float = 0.02
    """What a job waits for its engine, beside what the call costs."""
    at_once: int = 4
    """Jobs that an engine's replicas work on at the same time."""
    window: int = 32
    """Jobs of an engine that may be handed over and unfinished."""


@dataclass
class Seen:
    """What has happened in a cell."""

    ended: list[tuple[float, float]] = field(default_factory=list)
    """When each job ended, and how long it took."""
    accepted: list[tuple[float, float]] = field(default_factory=list)
    """When each job was accepted, and how long that took."""


def each(put: Callable[[Event], None]) -> Callable[[Sequence[Event]], None]:
    """Return what hands events on one by one."""

    def then(events: Sequence[Event]) -> None:
        for event in events:
            put(event)

    return then


class Runner:
    """The runner of one engine with its sidecar, and the engine."""

    def __init__(self, cell: "Cell", cores: simpy.Resource | None) -> None:
        env, self._cell, self._costs = cell.env, cell, cell.costs
        runner, daprd = Process(env, "runner", cell.chance, cores), Process(env, "runner.daprd", cell.chance, cores)
        engine = Process(env, "engine", cell.chance, cores)
        cell.processes += [runner, daprd, engine]
        self.places = simpy.Resource(env, cell.shape.at_once)
        self.answered = Stage(runner, self._costs["settle"], self._settled, together=True)
        self.predict = Stage(engine, self._costs["predict"], self._predicted)
        self.call = Stage(runner, self._costs["call"], each(self.predict.put))
        self.take = Stage(runner, self._costs["take"], self._taken)
        self.deliver = Stage(daprd, self._costs["runner daprd deliver"], each(self.take.put))
        self.record = Stage(daprd, self._costs["runner daprd record"], each(self._to_redis))
        self.hint = Stage(daprd, self._costs["runner daprd hint"], each(cell.hint.put))

    def _settled(self, events: Sequence[Event]) -> None:
        self.record.put([job for event in events for job in event])

    def _to_redis(self, event: Event) -> None:
        self._cell.record.put(event)

    def _taken(self, events: Sequence[Event]) -> None:
        for event in events:
            for job in event:
                self._cell.env.process(self._run(job))

    def _run(self, job: Job) -> Steps:
        with self.places.request() as place:
            yield place
            answered = self._cell.env.event()
            self._cell.answers[job] = answered
            self.call.put([job])
            yield answered

    def _predicted(self, events: Sequence[Event]) -> None:
        for event in events:
            for job in event:
                self._cell.env.process(self._wait_for_model(job))

    def _wait_for_model(self, job: Job) -> Steps:
        mean = self._cell.shape.predict_seconds
        if mean:
            yield self._cell.env.timeout(self._cell.chance.around(mean))
        self._cell.answers.pop(job).succeed()
        # Jobs whose answers wait for the runner's turn share a record write and a hint.
        self.answered.put([job])


class Gateway:
    """A gateway with its sidecar."""

    def __init__(self, cell: "Cell", number: int, cores: simpy.Resource | None) -> None:
        env, costs, self._cell, self.number = cell.env, cell.costs, cell, number
        self.process, daprd = (
            Process(env, "gateway", cell.chance, cores),
            Process(env, "gateway.daprd", cell.chance, cores),
        )
        cell.processes += [self.process, daprd]
        self.writer = Writer(self.process, cell.ledger, costs, self._written)
        self.accept = Stage(self.process, costs["accept"], self._accepted)
        self.daprd_publish = Stage(daprd, costs["daprd publish"], self._to_redis)
        self.publish = Stage(self.process, costs["publish"], self._published, together=True)
        self.hear = Stage(self.process, costs["hear"], self._heard)
        self.deliver = Stage(daprd, costs["daprd deliver"], each(self.hear.put))
        # PostgreSQL notifies, and each notification is an event that the gateway hears.
        notified = replace(costs["hear"], event=NOTIFIED_MS, job=WOKEN_READ_MS)
        self.notified = Stage(self.process, notified, self._woken)

    def _accepted(self, events: Sequence[Event]) -> None:
        for event in events:
            for job in event:
                self.writer.put(Write("insert", job))

    def _inserted(self, job: Job) -> None:
        self._cell.note_accepted(job)
        if self._cell.in_window[job.engine] < self._cell.shape.window:
            self.hand_over(job)
        else:
            self._cell.backlog[job.engine].append(job)

    def hand_over(self, job: Job) -> None:
        """Publish a job, with those of its engine that come at the same time."""
        self._cell.in_window[job.engine] += 1
        self.publish.put([job])

    def _published(self, events: Sequence[Event]) -> None:
        by_engine: defaultdict[int, list[Job]] = defaultdict(list)
        for event in events:
            by_engine[event[0].engine] += event
        size = self._cell.jobs_per_event
        for found in by_engine.values():
            for first in range(0, len(found), size):
                self.daprd_publish.put(found[first : first + size])

    def _to_redis(self, events: Sequence[Event]) -> None:
        for event in events:
            self._cell.order.put(event)

    def _heard(self, events: Sequence[Event]) -> None:
        for event in events:
            for job in event:
                self.writer.put(Write("mirror", job))

    def _written(self, group: Sequence[Write]) -> None:
        mirrored = [write.job for write in group if write.kind == "mirror"]
        for write in group:
            if write.kind == "insert":
                self._inserted(write.job)
        for job in mirrored:
            self._cell.in_window[job.engine] -= 1
            if self._cell.backlog[job.engine]:
                self.hand_over(self._cell.backlog[job.engine].pop(0))
        for gateway in self._cell.gateways if mirrored else ():
            own = [job for job in mirrored if job.gateway == gateway.number]
            if gateway is self:
                self._woken([own])
            else:
                gateway.notified.put(own)

    def _woken(self, events: Sequence[Event]) -> None:
        for event in events:
            for job in event:
                self._cell.note_ended(job)


class Cell:
    """All parts of a cell, wired, and what has happened in it."""

    def __init__(self, shape: Shape, costs: Costs, seed: int = 1) -> None:
        self.env, self.shape, self.costs, self.chance = simpy.Environment(), shape, costs.steps, Chance(seed)
        self.seen, self.processes = Seen(), list[Process]()
        self.in_window: Counter[int] = Counter()
        self.backlog: defaultdict[int, list[Job]] = defaultdict(list)
        self.answers: dict[Job, simpy.Event] = {}
        self._cores = simpy.Resource(self.env, shape.cores) if shape.cores else None
        server = Process(self.env, "postgres", self.chance, self._cores) if shape.postgres else None
        self.ledger = Ledger(Disk(self.env, shape.sync_seconds), server, costs.postgres)
        redis = Process(self.env, "redis", self.chance, self._cores)
        self.processes += [redis, *([server] if server else [])]
        self.order = Stage(redis, self.costs["order"], self._ordered)
        self.record = Stage(redis, self.costs["record"], self._recorded)
        self.hint = Stage(redis, self.costs["hint"], self._hinted)
        self.gateways = [Gateway(self, number, self._cores) for number in range(shape.gateways)]
        self._runners: dict[int, Runner] = {}
        self.submitted = 0

    @property
    def jobs_per_event(self) -> int:
        """Return how many jobs share an event: what one worker does in a moment, and half of the window at most."""
        in_time = int(self.shape.at_once * EVENT_SECONDS / max(self.shape.predict_seconds, 0.001))
        return max(1, min(64, in_time, self.shape.window // 2))

    @property
    def unfinished(self) -> int:
        """Return how many jobs have been submitted and have not ended."""
        return self.submitted - len(self.seen.ended)

    def submit(self, gateway: int) -> Job:
        """Send a job for any of the engines to a gateway."""
        engine = self.chance.below(self.shape.engines)
        job = Job(gateway, engine, self.env.now, self.env.event(), self.env.event())
        self.submitted += 1
        self.gateways[gateway].accept.put([job])
        return job

    def note_accepted(self, job: Job) -> None:
        """Answer 202."""
        self.seen.accepted.append((self.env.now, self.env.now - job.began))
        job.accepted.succeed()

    def note_ended(self, job: Job) -> None:
        """Answer a caller that waits."""
        self.seen.ended.append((self.env.now, self.env.now - job.began))
        job.ended.succeed()

    def runner(self, engine: int) -> Runner:
        """Return an engine's runner; it is made when its first job comes."""
        if engine not in self._runners:
            self._runners[engine] = Runner(self, self._cores)
        return self._runners[engine]

    def _ordered(self, events: Sequence[Event]) -> None:
        for event in events:
            self.runner(event[0].engine).deliver.put(event)

    def _recorded(self, events: Sequence[Event]) -> None:
        for event in events:
            self.runner(event[0].engine).hint.put(event)

    def _hinted(self, events: Sequence[Event]) -> None:
        for event in events:
            # A completion is delivered to one of the gateways, whichever asked for the job.
            self.gateways[self.chance.below(len(self.gateways))].deliver.put(event)
