"""The soak's judge tells a series that grows from one that only moves."""

import random

import pytest
from tests.faults.flat import LEAST_SAMPLES, MEBIBYTE, Series, table


def series(*values: float, every: float = 10) -> Series:
    return Series("x", [(number * every, value * MEBIBYTE) for number, value in enumerate(values)])


def test_a_level_that_moves_is_flat() -> None:
    noise = random.Random(1)
    assert series(*(100 + noise.uniform(-5, 5) for _ in range(200))).is_flat


def test_a_saw_is_flat() -> None:
    assert series(*(20 + number % 9 for number in range(100))).is_flat


def test_what_shrinks_is_flat() -> None:
    assert series(*(200 - number for number in range(100))).is_flat


@pytest.mark.parametrize(("start", "rise"), [(100, 0.2), (5, 0.2), (1_000, 2)])
def test_what_rises_steadily_is_not(start: float, rise: float) -> None:
    noise = random.Random(1)
    assert not series(*(start + rise * number + noise.uniform(-2, 2) for number in range(100))).is_flat


def test_growth_during_the_warm_up_does_not_count() -> None:
    rising_then_level = series(*range(50), *[50.0] * 50)
    assert not rising_then_level.is_flat
    assert rising_then_level.after(500).is_flat


def test_too_little_seen_is_not_called_flat() -> None:
    assert not series(*[1.0] * (LEAST_SAMPLES - 1)).is_flat


def test_the_line_is_the_least_squares_one() -> None:
    line = series(1, 3, 2, 5, 4)
    assert line.slope == pytest.approx(0.8 * MEBIBYTE / 10)
    assert line.growth == pytest.approx(0.8 * MEBIBYTE * 4)
    assert "GROWS" in table([line])
