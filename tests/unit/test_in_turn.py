"""Of many of which nothing is new, each gets its turn, the one that waited longest first."""

from enginehouse.in_turn import InTurn


def test_each_is_picked_before_any_is_picked_again() -> None:
    turns, names = InTurn(2), ["a", "b", "c", "d", "e"]
    picked = [name for _ in range(3) for name in turns.pick(names)]
    assert sorted(picked[:5]) == names
    assert turns.pick(names) == ["b", "c"]


def test_a_newcomer_is_picked_first_and_who_has_left_never() -> None:
    turns = InTurn(1)
    assert turns.pick(["a", "b"]) == ["a"]
    assert turns.pick(["a", "c"]) == ["c"]
    assert turns.pick(["a", "c"]) == ["a"]
    assert turns.pick([]) == []


def test_few_are_all_picked_each_time() -> None:
    turns = InTurn(4)
    assert [set(turns.pick(["a", "b"])) for _ in range(2)] == [{"a", "b"}] * 2
