"""The API for authors of engines: `Engine`, `InvalidInput`, `serve`, and the events that `predict` may yield.

It contains no Dapr.
"""

from enginehouse.contracts.errors import InvalidInput
from enginehouse.engine.base import Engine
from enginehouse.engine.events import Event, Log, Metric, Output, Progress
from enginehouse.engine.server import serve

__all__ = ["Engine", "Event", "InvalidInput", "Log", "Metric", "Output", "Progress", "serve"]
