"""Enginehouse: many clients' inference engines behind one API, each over its own Dapr topic and state store."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("enginehouse")
except PackageNotFoundError:  # an engine's environment may hold the sources only
    __version__ = "0"
