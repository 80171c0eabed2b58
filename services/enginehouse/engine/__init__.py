"""What the author of an engine imports: `Engine`, `InvalidInput`, `serve`. No Dapr in it, nothing of the platform."""

from enginehouse.contracts.errors import InvalidInput
from enginehouse.engine.base import Engine
from enginehouse.engine.server import serve

__all__ = ["Engine", "InvalidInput", "serve"]
