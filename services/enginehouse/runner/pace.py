"""The runner's times and bounds that no deployment changes: tests give other ones when they wire a runner."""

from dataclasses import dataclass

from enginehouse.contracts.engine import HEARTBEAT_SECONDS


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a runner looks, how long it waits, and how much it remembers."""

    fresh_seconds: float = 0.5
    """Age of an event, in seconds, up to which a first attempt runs without its record being read first.

    An older event may be of a job that was canceled while it waited, or the second delivery (brokers wait a minute or
    more) of a job that another worker runs. Reading its record first lets a job longer than the broker's clock run only
    once. The time is short because a job canceled within it may still reach its engine.
    """
    look_again_seconds: float = 0.02
    """Seconds of waiting for a place after which a job's record is read again: it may have been canceled meanwhile.

    More than the pauses of a busy event loop, so that a job that finds a free place is spared the round trip.
    """
    control_poll_seconds: float = 1.0
    """Seconds between two reads of whether the gateway has stopped the engine. A small read each second costs little."""
    problem_poll_seconds: float = 0.5
    """Seconds between two looks at why the engine cannot work: a look reads a small file, or finds none."""
    down_told_after_seconds: float = 10.0
    """Seconds after which it is said what a replica's health check finds. Before that the engine may just be starting."""
    examples_retry_seconds: float = 30.0
    """Seconds until a version that has not answered its own examples is tried again. Each try costs the engine's time."""
    routing_poll_seconds: float = 0.5
    """Seconds between two looks at whether the sidecar receives the engine's jobs: a call on this machine."""
    restart_seconds: float = 10.0
    """Seconds for which deliveries go on while no replica is healthy. A supervisor restarts a process within five."""
    service_poll_seconds: float = 2.0
    """Seconds between two looks at which replicas the engine's service has, while some are up. A new one may wait."""
    service_away_poll_seconds: float = 0.3
    """The same while none is up: jobs wait for the first."""
    service_hurry_seconds: float = 60.0
    """Seconds without a replica and without a job after which it is looked for as seldom as while some are up: the engine
    is asleep."""
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    """Seconds between two heartbeats. The value is in the contract, because the gateway relies on it."""
    card_refresh_seconds: float = 60.0
    """Seconds until an unchanged card is written again, so that a store restored from an older backup soon has it."""
    card_retry_seconds: float = 1.0
    """Seconds until a card that could not be written is written again. Callers cannot find the engine until then."""
    call_age_seconds: float = 1.0
    """Age of a call, in seconds, from which its engine must count it. A younger call may be on its way there or back."""
    hang_poll_seconds: float = 0.5
    """Seconds between two questions whether a call that was given up has ended. Short: its place is taken until then."""
    settle_retry_first_seconds: float = 0.1
    """Seconds after the first failure to write a result. They double with each failure, because most are short."""
    settle_retry_longest_seconds: float = 5.0
    """Most seconds between two tries to write a result, so that a store that is back soon has it."""
    output_store_tries: int = 6
    """Tries to store a large output. Six take about ten seconds, and hold no place at a replica."""
    recent_ends_max: int = 4_096
    """Most job ends that are remembered. Only a bound on memory: a job whose end is forgotten still has its record."""
    recent_ends_max_bytes: int = 16 * 1024 * 1024
    """Most bytes of output in the ends that are remembered: little beside the memory of an engine."""


DEFAULT_PACE = Pace()
