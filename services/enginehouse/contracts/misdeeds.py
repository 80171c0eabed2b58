"""What engines are seen doing that they must not, as whoever runs them reports it to the gateway."""

from enum import StrEnum


class Misdeed(StrEnum):
    """A kind of misbehaviour. The first two are never caused by the inputs of a job; the others may be."""

    DENIED_COMMANDS = "denied_commands"
    """Commands that the broker refused to the engine's own user."""
    CRASHES_WHILE_STARTING = "crashes_while_starting"
    """Ends of a process of the active version, none of whose replicas has been healthy yet and has had a job therefore."""
    MALFORMED_ANSWERS = "malformed_answers"
    """Answers to jobs that are no results: not HTTP, not JSON, too large, endless, redirects. The gateway sees them itself."""
    CRASHES = "crashes"
    """Ends of a process of the active version after a replica was healthy, for whatever reason: memory, a full log, a bug."""
    OUT_OF_MEMORY = "out_of_memory"
    """Times at which a process of a container was killed because its memory was used up."""
    HANGS = "hangs"
    """Restarts of a replica because a call went on long after its time."""
