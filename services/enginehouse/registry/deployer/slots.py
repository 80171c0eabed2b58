"""What is shown of an engine's slots, and who says which of them must not run."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from enginehouse.contracts.names import Slot
from enginehouse.contracts.problem import problem_text
from enginehouse.registry.versions import Versions


class Rules(Protocol):
    """Says what must not run."""

    def held(self, engine: str, versions: Versions) -> Collection[Slot]:
        """Return the slots whose versions must not run."""

    def reason(self, engine: str) -> str:
        """Return why."""

    def withholds(self, engine: str) -> bool:
        """Say whether an engine's version on trial must not be promoted."""

    def take_up(self, engine: str, versions: Versions) -> None:
        """Hear what is about to run."""


@dataclass(frozen=True, slots=True)
class SlotShown:
    """What is shown of a slot."""

    slot: Slot
    state: str
    problem: str | None
    doing: str | None
    deployed: str

    def entry(self) -> dict[str, str | None]:
        """Return what the state file says about it."""
        problem = problem_text(self.problem) if self.problem else None
        return {
            "state": self.state,
            "slot": self.slot,
            "problem": problem,
            "doing": self.doing,
            "deployed": self.deployed,
        }
