"""Judges whether a measured series stays flat: fits a straight line through the values after the warm-up."""

from dataclasses import dataclass, field

MEBIBYTE = 1024 * 1024
SHARE_ALLOWED = 0.05
"""How much of its mean something may grow over the whole time that is judged."""
LEAST_ALLOWED = 4 * MEBIBYTE
"""Below that, growth cannot be told from an allocator's or a log's steps."""
LEAST_SAMPLES = 10


@dataclass(slots=True)
class Series:
    """Bytes over seconds."""

    name: str
    samples: list[tuple[float, float]] = field(default_factory=list)

    def add(self, second: float, value: float) -> None:
        """One measurement."""
        self.samples.append((second, value))

    def after(self, second: float) -> "Series":
        """Without the warm-up."""
        return Series(self.name, [sample for sample in self.samples if sample[0] >= second])

    @property
    def mean(self) -> float:
        """Of all values."""
        return sum(value for _, value in self.samples) / len(self.samples)

    @property
    def slope(self) -> float:
        """Bytes a second, by least squares."""
        middle = sum(second for second, _ in self.samples) / len(self.samples)
        spread = sum((second - middle) ** 2 for second, _ in self.samples)
        if not spread:
            return 0.0
        return sum((second - middle) * (value - self.mean) for second, value in self.samples) / spread

    @property
    def growth(self) -> float:
        """By how many bytes the line rises from the first sample to the last."""
        return self.slope * (self.samples[-1][0] - self.samples[0][0])

    @property
    def allowed(self) -> float:
        """By how much it may."""
        return max(SHARE_ALLOWED * self.mean, LEAST_ALLOWED)

    @property
    def is_flat(self) -> bool:
        """Whether enough was seen, and it does not grow. What shrinks is fine."""
        return len(self.samples) >= LEAST_SAMPLES and self.growth <= self.allowed


def table(judged: list[Series]) -> str:
    """What was measured, a line each: mean, growth over the time judged and in an hour, what is allowed."""
    lines = [("what", "mean MiB", "growth MiB", "MiB an hour", "allowed MiB", "")]
    for series in judged:
        numbers = (series.mean, series.growth, series.slope * 3_600, series.allowed)
        verdict = "flat" if series.is_flat else "GROWS"
        lines.append((series.name, *(f"{number / MEBIBYTE:.2f}" for number in numbers), verdict))  # type: ignore[arg-type]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
