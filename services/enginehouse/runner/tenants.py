"""The tenants at the places of one engine: how many each holds, who runs apart from the others, and whose turn it is."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from enginehouse.runner.blame import Blame
from enginehouse.turns import Turns


@dataclass(frozen=True, slots=True)
class Asker:
    """The tenant for whose job a place is asked."""

    tenant: str = ""
    weight: float = 1.0
    """Its weight among the tenants of the engine."""


class Tenants:
    """Says which tenant's job begins next: of one that holds fewer places, and among equals whose turn it is.

    Suspects run apart. The turn of one is a whole replica and counts as one turn for each of its places. It is due by
    the count of turns alone, whatever the others hold: so they begin as many jobs between two turns of a suspect.
    """

    def __init__(self, blame: Blame | None) -> None:
        self.blame = blame
        """None at an engine that works for one tenant."""
        self._held: Counter[str] = Counter()
        self._turns = Turns()

    def held(self, tenant: str) -> int:
        """Return how many places it holds. A call that was given up counts until it is known to have ended."""
        return self._held[tenant]

    def begin(self, asker: Asker, jobs: int, turns: int) -> None:
        """Note that jobs of the tenant begin, which take so many of its turns."""
        self._held[asker.tenant] += jobs
        self._turns.take(asker.tenant, asker.weight / turns)

    def end(self, tenant: str) -> None:
        """Note that a job of the tenant has ended."""
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]

    def runs_apart(self, tenant: str) -> bool:
        """Say whether the tenant's jobs run apart from those of others."""
        return self.blame is not None and self.blame.is_suspect(tenant)

    def seconds_held_back(self, tenant: str, ahead: int) -> float:
        """Return how long the tenant's next job is to stay in the queue, with `ahead` of its jobs before it."""
        return 0.0 if self.blame is None else self.blame.seconds_left(tenant, ahead)

    def whose_turn(
        self, waiting: Iterable[Asker], suspects: Collection[str], *, reserved: Collection[str], ready: Collection[str]
    ) -> Asker | None:
        """Return whose job of those that wait begins next, or who needs an empty replica next; None for nobody.

        `reserved`: tenants for which a replica is kept; `ready`: those of them whose replica is empty.
        """
        allowed = [asker for asker in waiting if self.allows(asker.tenant)]
        others = [asker for asker in allowed if asker.tenant not in suspects]
        if len(others) < len(allowed):
            apart = [asker for asker in allowed if asker.tenant in suspects]
            if (first := next((asker for asker in apart if asker.tenant in ready), None)) is not None:
                return first
            # Others first: of turns that are equal, that of a suspect comes last.
            unserved = others + [asker for asker in apart if asker.tenant not in reserved]
            first = min(unserved, key=lambda who: self._turns.of(who.tenant, 0, who.weight), default=None)
            if first is None or first.tenant in suspects:
                return first
        # Of tenants whose turns are equal, the one that has waited longer stands first.
        return min(others, key=lambda who: self._turns.of(who.tenant, self._held[who.tenant], who.weight), default=None)

    def allows(self, tenant: str) -> bool:
        """Say whether a job of the tenant may begin now. One that runs apart has one turn at a time."""
        held = self._held[tenant]
        return not self.seconds_held_back(tenant, held) and not (held and self.runs_apart(tenant))
