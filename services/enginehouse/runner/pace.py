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
    once. Half a second, because a job that finds a free worker is delivered much sooner.
    """
    look_again_seconds: float = 0.02
    """Seconds after which a job that waited for a place has its record read again. Less than a round trip is no waiting."""
    control_poll_seconds: float = 1.0
    """Seconds between two looks at whether the gateway has stopped the engine. One small read a second costs nothing."""
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    """Seconds between two heartbeats. The contract's value, since the gateway counts with it."""
    card_refresh_seconds: float = 60.0
    """Seconds until the card is written again unchanged: a store restored from an older backup shows it again soon."""
    card_retry_seconds: float = 1.0
    """Seconds until a card that could not be written is written again. Callers cannot find the engine until then."""
    call_age_seconds: float = 1.0
    """Age of a call, in seconds, from which its engine must count it. A younger one may be on its way there or back."""
    hang_poll_seconds: float = 0.5
    """Seconds between two questions whether a call that was given up has ended. Its place stays taken until then."""
    settle_retry_first_seconds: float = 0.1
    """Seconds until the first failed write of a result is repeated. Short, because most failures are."""
    settle_retry_longest_seconds: float = 5.0
    """Most seconds between two tries to write a result: a store that comes back has it soon."""
    output_store_tries: int = 6
    """Times that storing a large output is tried: about ten seconds, for which the place at the replica is free."""
    recent_ends_max: int = 4_096
    """Jobs whose end is remembered: more than a replica ends while a second delivery is on its way."""
    recent_ends_max_bytes: int = 16 * 1024 * 1024
    """Bytes of the outputs in the ends that are remembered. A runner's memory is small beside its engine's."""


DEFAULT_PACE = Pace()
