"""What the author of an engine imports: `Engine`, `InvalidInput`, `serve`, and what `predict` may tell on the way. No Dapr in it."""

from enginehouse.contracts.errors import InvalidInput
from enginehouse.engine.base import Engine
from enginehouse.engine.events import Event, Log, Metric, Output, Progress
from enginehouse.engine.server import serve

__all__ = ["Engine", "Event", "InvalidInput", "Log", "Metric", "Output", "Progress", "serve"]
