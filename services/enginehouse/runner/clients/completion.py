"""Puts a completion together from the chunks of its stream, and shows its text as it comes."""

import io
import time
from collections.abc import Callable
from typing import Any

import pydantic_core

from enginehouse.runner.clients.wire import TooLarge

_EVENT_SECONDS = 0.1
"""Text of so long goes into one event: an event for each token would soon be more than may be published."""
_EVENT_MAX_CHARS = 1_000
_REPLACED = frozenset({"role", "type", "id", "name", "index", "finish_reason"})
"""Texts that come whole. Others come in parts."""
_TOP = frozenset({"choices", "object"})
_CHUNK = ".chunk"
_PARTS_MAX = 4_096
"""Most choices, tool calls and the like that the parts of a stream may belong to."""

_KEYS_MAX = 64
"""Most keys of a completion: each may hold as much as a chunk."""

OnLine = Callable[[dict[str, Any]], None]


class NotAChunk(ValueError):
    """A chunk is not as it should be. The message says what is wrong."""


class Completion:
    """One completion, of a chat or of a prompt. Its chunks may hold `max_bytes` of content together."""

    def __init__(self, on_line: OnLine | None, max_bytes: int) -> None:
        self._on_line = on_line
        self._room = max_bytes
        self._top: dict[str, Any] = {}
        self._choices = _Parts([_PARTS_MAX])
        self._shown: dict[int, list[str]] = {}
        """Text of each choice that goes into the next event."""
        self._next_event_at = 0.0

    @property
    def ended(self) -> bool:
        """Whether every choice says why it ended."""
        choices = self._choices.known.values()
        return bool(choices) and all(choice.plain.get("finish_reason") for choice in choices)

    def add(self, chunk: Any) -> None:
        """Add a chunk. Raise NotAChunk or TooLarge."""
        if not isinstance(chunk, dict) or not isinstance(chunk.get("choices", []), list):
            raise NotAChunk('a chunk of its stream has no "choices"')
        self._room -= len(pydantic_core.to_json(chunk.get("choices")))
        if self._room < 0:
            raise TooLarge
        if isinstance(kind := chunk.get("object"), str):
            self._top["object"] = kind.removesuffix(_CHUNK)
        # Each chunk repeats these; `usage` comes with the last.
        self._top.update({key: value for key, value in chunk.items() if key not in _TOP and value is not None})
        if len(self._top) > _KEYS_MAX:
            raise NotAChunk(f"its stream has more than {_KEYS_MAX} keys beside its choices")
        for choice in chunk.get("choices") or ():
            if not isinstance(choice, dict):
                raise NotAChunk("a choice in its stream is not an object")
            self._add_choice(choice)
        if time.monotonic() >= self._next_event_at:
            self._show()

    def _add_choice(self, choice: dict[str, Any]) -> None:
        said = choice.get("index")
        index = said if isinstance(said, int) else 0
        delta = choice.get("delta")
        if not isinstance(delta, dict | None):
            raise NotAChunk("the delta of a choice in its stream is not an object")
        self._choices.at(index).add({**choice, "index": index})
        text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
        if isinstance(text, str) and text:
            self._shown.setdefault(index, []).append(text)

    def finish(self) -> dict[str, Any]:
        """Show the last text, and return the completion as it would have come at once."""
        self._show()
        choices = self._choices.as_list()
        for choice in choices:
            if "delta" in choice:
                choice["message"] = {"content": None, **(choice.pop("delta") or {})}
        return {**self._top, "choices": choices}

    def _show(self) -> None:
        """Publish the text that has come, in parts that an event can hold."""
        if self._on_line is not None:
            for index, pieces in self._shown.items():
                text = "".join(pieces)
                for start in range(0, len(text), _EVENT_MAX_CHARS):
                    self._on_line({"output": {"index": index, "text": text[start : start + _EVENT_MAX_CHARS]}})
        if self._shown:
            self._next_event_at = time.monotonic() + _EVENT_SECONDS
        self._shown.clear()


def _take_room(room: list[int]) -> None:
    """Count one more part: each costs memory, however small it is."""
    room[0] -= 1
    if room[0] < 0:
        raise NotAChunk(f"its stream has more than {_PARTS_MAX} parts")


class _Object:
    """An object whose texts come in parts."""

    def __init__(self, room: list[int]) -> None:
        self._room = room
        self.plain: dict[str, Any] = {}
        self._texts: dict[str, io.StringIO] = {}
        """Adding to a text would copy all of it, each time."""
        self._inner: dict[str, _Object | _Parts] = {}

    def add(self, delta: dict[str, Any]) -> None:
        """Add what a chunk says of it. A value of null says nothing."""
        for key, value in delta.items():
            if key not in self.plain:
                _take_room(self._room)
            if value is None:
                if key not in self._texts and key not in self._inner:
                    self.plain.setdefault(key, None)
                continue
            self.plain.setdefault(key, None)  # Keeps the order in which the keys came.
            if isinstance(value, str) and key not in _REPLACED:
                self._texts.setdefault(key, io.StringIO()).write(value)
            elif isinstance(value, dict):
                self._inside(key, _Object).add(value)
            elif isinstance(value, list):
                self._inside(key, _Parts).extend(value)
            else:
                self.plain[key] = value

    def _inside(self, key: str, kind: Any) -> Any:
        found = self._inner.setdefault(key, kind(self._room))
        if not isinstance(found, kind):
            raise NotAChunk(f"{key[:100]!r} in its stream is now a list and then none")
        return found

    def value(self) -> dict[str, Any]:
        """Return it whole."""
        texts = {key: text.getvalue() for key, text in self._texts.items()}
        inner = {key: part.value() for key, part in self._inner.items()}
        return {**self.plain, **texts, **inner}


class _Parts:
    """A list: of objects that come in parts, which their `index` tells apart, and of whatever else, which comes whole."""

    def __init__(self, room: list[int]) -> None:
        self._room = room
        self.known: dict[int, _Object] = {}
        self._others: list[Any] = []

    def at(self, index: int) -> _Object:
        """Return the object of this index."""
        if index not in self.known:
            _take_room(self._room)
            self.known[index] = _Object(self._room)
        return self.known[index]

    def extend(self, items: list[Any]) -> None:
        """Add the items of a list in a chunk."""
        for item in items:
            if isinstance(item, dict) and isinstance(index := item.get("index"), int):
                self.at(index).add(item)
            else:
                self._others.append(item)

    def as_list(self) -> list[Any]:
        """Return the list."""
        return [self.known[index].value() for index in sorted(self.known)] + self._others

    value = as_list
