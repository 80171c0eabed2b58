"""Makes many random examples from a few: crosses two of them, and damages bytes and JSON in them."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Generic, TypeVar

X = TypeVar("X")

_USUAL_MAX_BYTES, _LARGE_SHARE = 16 * 1024, 0.02
"""Larger bytes cost much time and rarely say more, so few of them are made."""
_LIST_MAX = 2_000
_BROKEN_SHARE = 0.07
"""Of what was JSON. The most is refused at its first wrong byte, so there is more to find in what stays JSON."""
_SCALARS: list[Any] = [None, True, 0, -1, 0.5, 2**53 + 1, 2**64, -(2**63), 1e308, "", "a", "\u0000", [], {}]
_PIECES = [b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b'"', b"\\", b"\\ud800", b"1e400", b"NaN", b"7" * 500, b"\r\n", b"\n", b"{", b"]", b",", b":", b"null"]  # fmt: skip
_STRUCTURE = frozenset(b'{}[],:"\r\n')


class Mutator(Generic[X]):
    """Makes examples of the same shape as those of `corpus`: tuples stay tuples of as many members of the same types.

    Text and numbers of a tuple are only exchanged for those at the same place of another example, so what must be valid
    stays so. Bytes become any bytes, and JSON any JSON. `words` are JSON values that mean something where they are put.
    """

    def __init__(self, corpus: Sequence[X], random: Random, words: Sequence[Any] = ()) -> None:
        self._corpus = corpus
        self._alike: dict[Any, list[X]] = defaultdict(list)
        for example in corpus:
            self._alike[_names(example)].append(example)
        self._random = random
        self._words = [*words, *_SCALARS]
        self._pieces = [*_PIECES, *(json.dumps(word).encode() for word in words)]
        self._parsed: dict[bytes, Any] = {}
        self._damages: list[Callable[[bytes, bytes], bytes]] = [
            self._spliced, self._cut, self._flipped, self._repeated, self._nested, self._with_piece,
        ]  # fmt: skip

    def make(self) -> X:
        """Make the next example."""
        mine = self._random.choice(self._corpus)
        other = self._random.choice(self._alike[_names(mine)] if self._random.random() < 0.9 else self._corpus)
        made: X = self._cross(mine, other)
        return made

    def _cross(self, mine: Any, other: Any) -> Any:
        if isinstance(mine, tuple):
            return tuple(map(self._crossed_place, mine, other))
        if isinstance(mine, bytes) and isinstance(other, bytes):
            return self._damaged(mine, other)
        if isinstance(mine, list) and isinstance(other, list) and _are_tuples(mine, other):
            return self._shuffled(mine, other)
        if isinstance(mine, dict | list):
            return self._crossed_value(mine, other)
        return self._random.choice((mine, other))

    def _crossed_place(self, mine: Any, other: Any) -> Any:
        """Return what stands at one place of a tuple. A name or number is rarely exchanged, since it gives the rest its sense."""
        chance = 0.05 if isinstance(mine, str | int) else 0.9
        return self._cross(mine, other) if self._random.random() < chance else mine

    def _shuffled(self, mine: list[Any], other: list[Any]) -> list[Any]:
        """Return some of both lists' members; the bytes in them may be damaged."""
        both = [*mine, *other]
        chosen = [self._random.choice(both) for _ in range(self._random.randint(0, len(mine) + 1))]
        return [self._cross(one, self._random.choice(both)) for one in chosen]

    def _crossed_value(self, mine: Any, other: Any) -> Any:
        """Return JSON with parts of two values of JSON. Where bytes stand in the place of a value, they stay bytes."""
        random = self._random
        if isinstance(mine, bytes):
            return self._damaged(mine, other) if isinstance(other, bytes) else mine
        if isinstance(mine, dict) and isinstance(other, dict):
            return self._crossed_members(mine, other)
        if isinstance(mine, list) and isinstance(other, list):
            spliced = mine[: random.randint(0, len(mine))] + other[random.randint(0, len(other)) :]
            return [self._changed(item, other) if random.random() < 0.1 else item for item in spliced[:_LIST_MAX]]
        return self._changed(mine, other)

    def _crossed_members(self, mine: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        random, made = self._random, {}
        for name, value in mine.items():
            chance = random.random()
            if chance < 0.05:
                continue
            made[name] = self._crossed_value(value, other[name]) if name in other and chance < 0.5 else value
            if chance > 0.93 and not isinstance(value, bytes):
                made[name] = self._changed(value, random.choice([*other.values(), None]))
        for name, value in other.items():
            if random.random() < 0.2:
                made[name] = value
        return made

    def _changed(self, mine: Any, other: Any) -> Any:
        random = self._random
        match random.randrange(6):
            case 0:
                return [mine] if random.random() < 0.5 else {"data": mine}
            case 1 if not isinstance(other, bytes):
                return other
            case 2:
                return random.randrange(-(10**6), 10**12)
            case 3 if isinstance(mine, str):
                return mine[: random.randint(0, len(mine))] + str(other)[:200]
            case _:
                return random.choice(self._words)

    def _damaged(self, mine: bytes, other: bytes) -> bytes:
        random = self._random
        crossed = self._crossed_json(mine, other)
        if crossed is mine and random.random() < 0.5:
            return random.choice((mine, other))
        if crossed is mine or random.random() < _BROKEN_SHARE:
            for _ in range(random.randint(1, 4)):
                crossed = random.choice(self._damages)(crossed, other)
        is_usual = len(crossed) <= _USUAL_MAX_BYTES or random.random() < _LARGE_SHARE
        return crossed if is_usual else random.choice(self._pieces)

    def _place(self, text: bytes) -> int:
        """Return a place in the text, which is often one at which its structure shows."""
        place = self._random.randint(0, len(text))
        if self._random.random() < 0.3:
            return place
        return next((at for at in range(place, min(place + 100, len(text))) if text[at] in _STRUCTURE), place)

    def _spliced(self, mine: bytes, other: bytes) -> bytes:
        return mine[: self._place(mine)] + other[self._place(other) :]

    def _cut(self, mine: bytes, _: bytes) -> bytes:
        first, second = sorted((self._place(mine), self._place(mine)))
        return mine[:first] + mine[second:]

    def _flipped(self, mine: bytes, _: bytes) -> bytes:
        changed = bytearray(mine)
        for _times in range(self._random.randint(1, 4) if changed else 0):
            changed[self._random.randrange(len(changed))] ^= 1 << self._random.randrange(8)
        return bytes(changed)

    def _repeated(self, mine: bytes, _: bytes) -> bytes:
        first, second = sorted((self._place(mine), self._place(mine)))
        part = mine[first:second][:500]
        return mine[:second] + part * self._random.choice((1, 2, 30)) + mine[second:]

    def _nested(self, mine: bytes, _: bytes) -> bytes:
        depth = self._random.choice((1, 2, 20, 200))
        before, after = self._random.choice(((b"[", b"]"), (b'{"data":', b"}"), (b'{"input":', b"}")))
        return before * depth + mine + after * depth

    def _with_piece(self, mine: bytes, _: bytes) -> bytes:
        first, second = sorted((self._place(mine), self._place(mine)))
        second = self._random.choice((first, min(second, first + 8)))
        return mine[:first] + self._random.choice(self._pieces) + mine[second:]

    def _crossed_json(self, mine: bytes, other: bytes) -> bytes:
        """Return valid JSON with parts of both, if both are JSON."""
        one, two = self._json(mine), self._json(other)
        if one is None or two is None:
            return mine
        return json.dumps(self._crossed_value(one, two)).encode()

    def _json(self, text: bytes) -> Any:
        """Return the value that the text is; None if it is none. Those of the corpus come again and again."""
        if text not in self._parsed:
            try:
                found = json.loads(text)
            except (ValueError, RecursionError):
                found = None
            if len(self._parsed) > 4 * len(self._corpus):
                self._parsed.clear()
            self._parsed[text] = found
        return self._parsed[text]


def _are_tuples(mine: list[Any], other: list[Any]) -> bool:
    return any(isinstance(one, tuple) for one in (*mine[:1], *other[:1]))


def _names(example: Any) -> Any:
    """Return the texts of a tuple, which say of which kind it is."""
    return tuple(one for one in example if isinstance(one, str)) if isinstance(example, tuple) else None
