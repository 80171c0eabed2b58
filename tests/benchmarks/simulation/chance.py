"""Random numbers that are the same in every run, on every machine and with every Python."""

import math
import random

_PARTS = 1024
# Rounded, because the last digit of a logarithm differs from machine to machine.
_EXPONENTIAL = [round(-math.log(1 - (number + 0.5) / _PARTS), 9) for number in range(_PARTS)]


class Chance:
    """A source of random numbers."""

    def __init__(self, seed: int) -> None:
        self._source = random.Random(seed)

    def around(self, mean: float) -> float:
        """Return a positive number around a mean, by the exponential distribution."""
        return mean * _EXPONENTIAL[self.below(_PARTS)]

    def below(self, number: int) -> int:
        """Return a whole number from 0 to below `number`."""
        return int(self._source.random() * number)
