"""Shows engines as the models of a server of the Open Inference Protocol."""

from typing import NamedTuple

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import EngineDoesNotExist
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.engine_view import EngineViews
from enginehouse.gateway.engines.known_engine import DEFAULT_CARD, KnownEngine
from enginehouse.gateway.inference.metadata import TensorMetadata, inputs_of, outputs_of
from enginehouse.gateway.tenants.tenants import Caller

SERVER_NAME = "enginehouse"
_READY, _TAKES_JOBS = "READY", ("healthy", "asleep")
EXTENSIONS = ("binary_tensor_data", "model_repository")


class ModelMetadata(NamedTuple):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexEntry(NamedTuple):
    """A model in the index of the repository."""

    name: str
    version: str
    state: str
    """READY or UNAVAILABLE."""
    reason: str


class Models:
    """The engines that a caller may use, as models."""

    def __init__(self, catalogue: Catalogue, views: EngineViews) -> None:
        self._catalogue = catalogue
        self._views = views

    def find(self, name: str, version: str | None, caller: Caller) -> KnownEngine:
        """Return the engine that a model's name means. Raise EngineDoesNotExist, also for a version that is not active."""
        engine = self._catalogue.resolve(name, caller.name, is_admin=caller.is_admin)
        active = engine.card.version if engine.card else None
        if version and version != active:
            serves = f"serves {active}" if active else "shows no version yet"
            raise EngineDoesNotExist(f"{engine.id} has no version {version[:60]!r}: it {serves}")
        return engine

    async def is_ready(self, engine: KnownEngine) -> bool:
        """Say whether an engine takes jobs now, or wakes for them."""
        return engine.state == EngineState.ACTIVE and await self._views.health(engine) in _TAKES_JOBS

    def metadata(self, name: str, engine: KnownEngine) -> ModelMetadata:
        """Describe an engine under the name that the request gives it."""
        card = engine.card or DEFAULT_CARD
        return ModelMetadata(
            name,
            [card.version] if card.version else [],
            f"enginehouse_{card.protocol}",
            inputs_of(card),
            outputs_of(card),
        )

    async def index(self, caller: Caller, *, ready: bool) -> list[IndexEntry]:
        """Return the engines that the caller may use; with `ready`, only those that take jobs."""
        engines = self._catalogue.visible_to(caller.name)
        active = [engine for engine in engines if engine.state == EngineState.ACTIVE]
        healths = dict(zip([engine.id for engine in active], await self._views.healths(active), strict=True))
        entries = [_entry(engine, healths.get(engine.id, str(engine.state)), caller) for engine in engines]
        return [entry for entry in entries if entry.state == _READY or not ready]


def _entry(engine: KnownEngine, condition: str, caller: Caller) -> IndexEntry:
    version = engine.card.version if engine.card else ""
    if condition in _TAKES_JOBS:
        return IndexEntry(engine.id, version, _READY, "")
    return IndexEntry(engine.id, version, "UNAVAILABLE", engine.reason_for(caller) or f"it is {condition}")
