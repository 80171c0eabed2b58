"""Read quantities in the notation of Kubernetes: `512Mi`, `1G`, `500m`."""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator

_FACTORS = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{0,9})?|\.\d{1,9})(?:([eE][+-]?\d{1,2})|([a-zA-Z]{0,2}))", re.ASCII)
_LEAST_MEMORY_BYTES = 4 * 1024 * 1024
"""No process runs in less. `512` means bytes and `512m` means thousandths of a byte: nobody means that."""


def parse_quantity(text: str) -> Decimal:
    """Return the number that a quantity means: bytes for a memory, cores for a CPU. Raise ValueError for other texts."""
    found = _QUANTITY.fullmatch(text.strip())
    if not found or (found[3] or "") not in _FACTORS:
        raise ValueError(f"{text[:40]!r} is not a quantity: write a number and a unit, as in 512Mi, 2Gi or 500m")
    return Decimal(found[1] + found[2]) if found[2] else Decimal(found[1]) * _FACTORS[found[3]]


def _memory(text: str) -> str:
    if parse_quantity(text) < _LEAST_MEMORY_BYTES:
        number = re.sub(r"[^0-9.].*", "", text)
        raise ValueError(f"{text!r} is less than 4Mi, too little for any process; did you mean {number}Mi?")
    return text


def _cpu(text: str) -> str:
    if parse_quantity(text) < _FACTORS["m"]:
        raise ValueError(f"{text!r} must be at least 1m, a thousandth of a core")
    return text


Memory = Annotated[str, AfterValidator(_memory)]
"""A number of bytes, as a quantity."""
Cpu = Annotated[str, AfterValidator(_cpu)]
"""A number of cores, as a quantity."""
