"""Takes turns among many of which nothing is new, so that a look at all of them costs the same however many they are."""

from collections.abc import Iterable


class InTurn:
    """Picks a few of many names each time, the one that waited longest first."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._picks = 0
        self._picked: dict[str, int] = {}
        """For each name that is still there, the number of the pick that took it last."""

    def pick(self, names: Iterable[str]) -> list[str]:
        """Return the names whose turn it is."""
        self._picked = {name: self._picked.get(name, 0) for name in names}
        chosen = sorted(self._picked, key=self._picked.__getitem__)[: self._at_once]
        self._picks += 1
        self._picked.update(dict.fromkeys(chosen, self._picks))
        return chosen
