"""Says what went wrong in a part of the deployer: no mistake of one owner may end the work for all."""

import random

from enginehouse.contracts.errors import EnginehouseError

FORESEEN = (EnginehouseError, OSError)


def said_of(error: Exception) -> str:
    """Return what is shown of an error; of one that nobody has foreseen, its type as well."""
    if isinstance(error, FORESEEN):
        return str(error) or type(error).__name__
    if isinstance(error, ExceptionGroup):
        return "; ".join(dict.fromkeys(said_of(inner) for inner in error.exceptions))
    return f"{type(error).__name__}: {error}"


def passes(error: Exception) -> bool:
    """Say whether an error may pass by itself."""
    return isinstance(error, FORESEEN) and getattr(error, "retryable", True)


def trace_of(error: Exception) -> Exception | None:
    """Return the error whose trace is to be logged, if it is one that nobody has foreseen."""
    return None if isinstance(error, FORESEEN) else error


def wait_after(failures: int, bounds: tuple[float, float]) -> float:
    """Return the seconds to wait after so many failures in a row: at first and at most as `bounds` say, twice as long each time.

    They are spread, so that what failed together is not tried again together.
    """
    first, most = bounds
    return min(first * 2.0 ** min(failures - 1, 10), most) * random.uniform(0.8, 1.2)  # noqa: S311 - a spread
