"""Enginehouse: many clients' inference engines behind one API, each over its own Dapr topic and state store."""


def __getattr__(name: str) -> str:
    """`__version__`, looked up when asked for: every process of ours imports this, and few want to know."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("enginehouse")
    except PackageNotFoundError:  # an engine's environment may hold the sources only
        return "0"
