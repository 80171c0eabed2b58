"""Say how long something took or how long ago it was, in the same units everywhere."""

from datetime import datetime

from enginehouse.contracts.moments import now

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def duration(seconds: float | None) -> str:
    """Return a duration: '6.4 ms', '3.2 s', '45 s', '3 min', '2 h', '5 d'. None: '-'."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else span(seconds)


def age(moment: datetime) -> str:
    """Return how long ago a moment was, in whole units. A moment in the future counts as now."""
    return span(max(0.0, (now() - moment).total_seconds()))


def span(seconds: float) -> str:
    """Return a length of time in whole units: '0 s', '45 s', '3 min'."""
    # A unit begins at two of it, so that '100 s' does not become a coarse '2 min'.
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds // 1:.0f} s"
