"""Say how much memory this process may have, when it wanted more."""

import sys


def describe_memory_error(error: MemoryError) -> str:
    """Return what a MemoryError says, and the limit that the platform has set, if there is one."""
    said = str(error) or "there is no memory left for it"
    limit = _limit_bytes()
    if limit is None:
        return said
    return f"{said} (the engine may have {limit / 2**20:.0f} MiB: resources.memory in engine.yaml)"


def _limit_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    import resource  # Here, because Windows, where authors may try an engine, has no such module.

    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return None if soft == resource.RLIM_INFINITY else soft
