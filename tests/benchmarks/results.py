"""What a run has measured: a number for each kind of load, system, measure and round; medians of them, and ratios."""

import statistics
from dataclasses import dataclass, field

ONE = "one job at a time"
FEW = "8 callers"
MANY = "64 callers"
SUBMIT = "submit only, 64 callers"
BATCHES = "10,000 jobs in batches of 1,000"
IDLE = "idle"
LISTINGS = "listings"


@dataclass
class Results:
    """Numbers by kind of load, system and measure, one of each round in order."""

    numbers: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def add(self, load: str, system: str, **measured: float) -> None:
        """Add what one round has measured."""
        measures = self.numbers.setdefault(load, {}).setdefault(system, {})
        for measure, number in measured.items():
            measures.setdefault(measure, []).append(number)

    def of(self, load: str, system: str, measure: str) -> list[float]:
        """Return the numbers of all rounds; none if it was not measured."""
        return self.numbers.get(load, {}).get(system, {}).get(measure, [])

    def median(self, load: str, system: str, measure: str) -> float | None:
        """Return the median of the rounds; None if it was not measured."""
        found = self.of(load, system, measure)
        return statistics.median(found) if found else None

    def ratio(self, load: str, system: str, other: str, measure: str) -> float | None:
        """Return the median of the ratios of one system to another, each taken within a round; None if not measured.

        A round that was cut off has no number of the systems that come last in it, and is left out.
        """
        pairs = zip(self.of(load, system, measure), self.of(load, other, measure), strict=False)
        ratios = [one / another for one, another in pairs]
        return statistics.median(ratios) if ratios else None
