"""Turns over tenants: who holds less comes first, weights share turns out, and nobody waits for ever."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from enginehouse.turns import Turns

NAMES = ["acme", "umbra", "zeta", "hooli", "initech"]
WEIGHTS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0, 100.0]), min_size=2)


def next_of(turns: Turns, weights: dict[str, float], held: Counter[str]) -> str:
    """Let the first of these tenants take a turn; return its name."""
    first = min(sorted(weights), key=lambda name: turns.of(name, held[name], weights[name]))
    turns.take(first, weights[first])
    return first


@given(WEIGHTS, st.integers(1, 40))
def test_places_are_held_as_the_weights_say(weights: dict[str, float], places: int) -> None:
    turns, held = Turns(), Counter[str]()
    for _ in range(places):
        held[next_of(turns, weights, held)] += 1
    for one in weights:
        for other in weights:
            # A tenant that has a place has it because the others had no smaller share when it came.
            assert (held[one] - 1) / weights[one] <= held[other] / weights[other] + 1e-9


@given(WEIGHTS, st.integers(1, 60))
def test_turns_come_as_the_weights_say_where_nobody_holds_anything(weights: dict[str, float], rounds: int) -> None:
    turns = Turns()
    taken = Counter(next_of(turns, weights, Counter()) for _ in range(rounds))
    for one in weights:
        for other in weights:
            assert (taken[one] - 1) / weights[one] <= taken[other] / weights[other] + 1e-9


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=2, max_size=5), st.lists(st.integers(0, 15)))
def test_a_tenant_that_always_asks_gets_its_turn_whoever_else_comes_and_goes(
    weights: list[float], beside: list[int]
) -> None:
    mine, *others = weights
    # Each other one gets the turns that its weight gives it for one of ours, and at most the two that it has begun.
    most = sum(weight / mine + 2 for weight in others)
    turns, waited = Turns(), 0
    for present in beside:
        asking = {f"other-{bit}": weight for bit, weight in enumerate(others) if present >> bit & 1}
        waited = 0 if next_of(turns, {"patient": mine, **asking}, Counter()) == "patient" else waited + 1
        assert waited <= most


@given(WEIGHTS, st.integers(0, 50))
def test_who_comes_late_has_saved_up_no_turns(weights: dict[str, float], before: int) -> None:
    late, *early = sorted(weights)
    turns = Turns()
    for _ in range(before):
        next_of(turns, {name: weights[name] for name in early}, Counter())
    taken = Counter(next_of(turns, weights, Counter()) for _ in range(20))
    for name in early:
        assert (taken[late] - 2) / weights[late] <= (taken[name] + 1) / weights[name] + 1e-9
