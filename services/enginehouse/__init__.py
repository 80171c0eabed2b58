"""Enginehouse: many clients' inference engines behind one API, each over its own Dapr topic and state store."""


def __getattr__(name: str) -> str:
    """Return `__version__`. Looked up only on demand: every process imports this package, few need its version."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("enginehouse")
    except PackageNotFoundError:  # an engine's environment may hold only the sources
        return "0"
