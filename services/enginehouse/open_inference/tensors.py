"""A tensor, its values as JSON and as raw bytes: little-endian, row-major, each text behind its length."""

import array
import base64
import itertools
import math
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

FORMS = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "e",
    "BF16": "",
    "FP32": "f",
    "FP64": "d",
    "BYTES": "",
}
"""The datatypes, each with the form of its values in raw bytes, as `struct` and `array` name it. Two have a form of their own."""
FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
TENSORS_MAX = 256
"""Most tensors of a request."""
RANK_MAX = 32
"""Most dimensions of a tensor, as many as NumPy had for long."""


class NotThisProtocol(ValueError):
    """A body is not one of the Open Inference Protocol. The message names the place, and begins with it."""


class NotForJson(NotThisProtocol):
    """A tensor holds what JSON cannot hold: NaN, Infinity, or bytes that are not UTF-8."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request or an answer, with `data` or with `raw`."""

    name: str
    datatype: str
    """A key of FORMS."""
    shape: tuple[int, ...]
    data: list[Any] | None = None
    """Its values as JSON, flat or nested."""
    raw: bytes | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Return how many values its shape means."""
        return math.prod(self.shape)

    def values(self, where: str) -> list[Any]:
        """Return its values as JSON, flat. Raise NotForJson for what JSON cannot hold."""
        if self.data is not None:
            return list(flat(self.data))
        found = unpack(self.datatype, self.raw or b"", where)
        if self.datatype in FLOATS and not all(map(math.isfinite, found)):
            raise NotForJson(f"{where}: holds NaN or Infinity, which JSON cannot hold")
        if self.datatype != "BYTES":
            return found
        try:
            return [text.decode() for text in found]
        except UnicodeDecodeError:
            raise NotForJson(f"{where}: holds bytes that are not UTF-8, which JSON cannot hold") from None

    def content(self, where: str) -> bytes:
        """Return its values as raw bytes. Raise NotThisProtocol if a value is not of its datatype."""
        return self.raw if self.raw is not None else pack(self.datatype, list(flat(self.data or [])), where)

    def check(self, where: str) -> None:
        """Raise NotThisProtocol unless it has exactly as many values as its shape means. No value is made of a shape."""
        if len(self.shape) > RANK_MAX:
            raise NotThisProtocol(f"{where}.shape: has {len(self.shape)} dimensions; {RANK_MAX} are allowed")
        if self.raw is None:
            found = sum(1 for _ in flat(self.data or []))
        elif self.datatype == "BYTES":
            found = len(unpack("BYTES", self.raw, where))
        else:
            size = 2 if self.datatype == "BF16" else struct.calcsize(f"<{FORMS[self.datatype]}")
            if len(self.raw) != size * self.count:
                raise NotThisProtocol(
                    f"{where}: has {len(self.raw)} bytes, and its shape and datatype mean {_few(size * self.count)}"
                )
            return
        if found != self.count:
            raise NotThisProtocol(f"{where}: has {found} values, and its shape means {_few(self.count)}")

    def as_json(self, where: str) -> "Tensor":
        """Return it with `data` if JSON can hold all its values, and otherwise as it is."""
        if self.raw is None:
            return self
        try:
            return replace(self, data=self.values(where), raw=None)
        except NotForJson:
            return self

    def as_raw(self, where: str) -> "Tensor":
        """Return it with `raw`. Raise NotThisProtocol if a value is not of its datatype."""
        return replace(self, data=None, raw=self.content(where))

    def document(self) -> dict[str, Any]:
        """Return it as a part of a document."""
        made: dict[str, Any] = {"name": self.name, "shape": list(self.shape), "datatype": self.datatype}
        if self.raw is not None:
            made["raw"] = base64.b64encode(self.raw).decode()
        else:
            made["data"] = self.data
        return {**made, "parameters": self.parameters} if self.parameters else made


def _few(count: int) -> str:
    return str(count) if count < 10**12 else "far more"


def read_tensor(value: Any, where: str) -> Tensor:
    """Read a tensor of a document; raise NotThisProtocol if it is none."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise NotThisProtocol(f"{where}: must be a tensor with a name, a shape, a datatype and data")
    datatype, shape, data, raw = (value.get(key) for key in ("datatype", "shape", "data", "raw"))
    if not isinstance(datatype, str) or datatype not in FORMS:
        raise NotThisProtocol(f"{where}.datatype: must be one of {', '.join(FORMS)}")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise NotThisProtocol(f"{where}.shape: must be a list of whole numbers")
    parameters = read_parameters(value.get("parameters"), f"{where}.parameters")
    if raw is None and not isinstance(data, list):
        raise NotThisProtocol(f"{where}.data: must be a list of values")
    content = None if raw is None else decoded(raw, f"{where}.raw")
    return Tensor(value["name"], datatype, tuple(shape), None if raw is not None else data, content, parameters)


def decoded(text: Any, where: str) -> bytes:
    """Return the bytes of base64 text; raise NotThisProtocol if it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        raise NotThisProtocol(f"{where}: must be base64 text") from None


def read_parameters(value: Any, where: str) -> dict[str, Any]:
    """Return parameters, which may be absent; raise NotThisProtocol if they are none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise NotThisProtocol(f"{where}: must hold keys and values")
    return value


def flat(values: Any) -> Iterator[Any]:
    """Yield the values of a list that may hold lists, as a tensor may be written in JSON."""
    levels = [iter(values)]
    while levels:
        for value in levels[-1]:
            if isinstance(value, list):
                levels.append(iter(value))
                break
            yield value
        else:
            levels.pop()


def pack(datatype: str, values: Sequence[Any], where: str) -> bytes:
    """Return flat values as raw bytes; raise NotThisProtocol if one is not of that datatype."""
    try:
        if datatype == "BYTES":
            texts = [value if isinstance(value, bytes) else value.encode() for value in values]
            return b"".join(itertools.chain.from_iterable((struct.pack("<I", len(text)), text) for text in texts))
        if datatype == "BF16":
            return _to_bf16(struct.pack(f"<{len(values)}f", *values))
        if datatype == "BOOL" and not all(value in (0, 1) for value in values):
            raise TypeError
        return struct.pack(f"<{len(values)}{FORMS[datatype]}", *values)
    except (TypeError, ValueError, AttributeError, OverflowError, struct.error):
        raise NotThisProtocol(f"{where}.data: a value is not of datatype {datatype}") from None


def unpack(datatype: str, raw: bytes, where: str) -> list[Any]:
    """Return the flat values of raw bytes, texts as bytes; raise NotThisProtocol if they are no whole number of values."""
    if datatype == "BYTES":
        return _texts(raw, where)
    form = FORMS[datatype] or "H"
    size = struct.calcsize(f"<{form}")
    if len(raw) % size:
        raise NotThisProtocol(f"{where}: {len(raw)} bytes are no whole number of values of {datatype}")
    if datatype == "BF16":
        # The upper half of each FP32.
        words = array.array("I", (word << 16 for word in _numbers("H", raw)))
        return array.array("f", words.tobytes()).tolist()
    return _numbers(form, raw)


def _numbers(form: str, raw: bytes) -> list[Any]:
    if form in "?e" or sys.byteorder == "big":
        return list(struct.unpack(f"<{len(raw) // struct.calcsize(f'<{form}')}{form}", raw))
    return array.array(form, raw).tolist()


def _to_bf16(raw: bytes) -> bytes:
    """Round each FP32 to the nearest BF16, ties to even. NaN stays NaN."""

    def rounded(word: int) -> int:
        if word & 0x7FFFFFFF > 0x7F800000:
            return word >> 16 | 0x40
        return (word + 0x7FFF + (word >> 16 & 1)) >> 16

    return struct.pack(f"<{len(raw) // 4}H", *map(rounded, struct.unpack(f"<{len(raw) // 4}I", raw)))


def _texts(raw: bytes, where: str) -> list[bytes]:
    found, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw) or at + 4 > len(raw):
            raise NotThisProtocol(f"{where}: a text is longer than its tensor")
        found.append(raw[at + 4 : end])
        at = end
    return found
