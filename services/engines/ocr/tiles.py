"""Cut a long picture into tiles that are read at full size. Reduced as a whole, its text would vanish."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SIDE = 1_600
"""Longest side, in pixels, of what is read without reducing it."""
OVERVIEW = 900
"""Longest side of a surface on which the reader overlooks no short line. On larger ones it may, if little else is drawn."""
LONG = 2.0
"""A picture whose sides are in this ratio is long. Pages of books and screens are not."""
SEARCHED = 300
"""Pixels at the end of a tile in which the cut is placed: where the least is drawn, which is between lines or words."""
THINNEST = 8
"""The reader misreads strips that are thinner than this part of their length, so they are widened."""
SMALLEST = 64
BORDER = 24
"""Pixels of background around each part of a picture that was cut: letters at the very edge are misread."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a picture: `pixels` [height, width, 3], and where its point (0, 0) lies in the picture."""

    pixels: np.ndarray
    left: int
    top: int


def tiles(pixels: np.ndarray) -> Iterator[Tile]:
    """Yield the picture [height, width, 3] in tiles from top to bottom, or from left to right; whole if it is not long."""
    height, width = pixels.shape[:2]
    axis = 0 if height >= width else 1
    edges = _edges(pixels, axis)
    for start, end in pairwise(edges):
        part = pixels[start:end] if axis == 0 else pixels[:, start:end]
        widened, left, top = _widened(part, BORDER if len(edges) > 2 else 0)
        yield Tile(widened, (start if axis == 1 else 0) - left, (start if axis == 0 else 0) - top)


def _edges(pixels: np.ndarray, axis: int) -> list[int]:
    """Return where to cut along `axis`, with both ends."""
    long, short = pixels.shape[axis], pixels.shape[1 - axis]
    step = max(OVERVIEW, round(short * 0.75))
    if long <= SIDE or long < LONG * short:
        return [0, long]
    changes = np.diff(pixels.sum(axis=2, dtype=np.int16), axis=1 - axis)
    drawn = np.convolve(np.abs(changes, out=changes).sum(axis=1 - axis), np.ones(5), "same")
    edges = [0]
    while long - edges[-1] > step:
        begin = edges[-1] + step - SEARCHED
        edges.append(begin + int(np.argmin(drawn[begin : begin + SEARCHED])))
    return [*edges, long]


def _widened(part: np.ndarray, border: int) -> tuple[np.ndarray, int, int]:
    """Return a part with a border in its own background, and the border's left and top.

    It is `border` thick, or more where the part would be too thin.
    """
    height, width = part.shape[:2]
    top = max(border, (max(SMALLEST, -(-width // THINNEST)) - height + 1) // 2)
    left = max(border, (max(SMALLEST, -(-height // THINNEST)) - width + 1) // 2)
    if not top and not left:
        return part, 0, 0
    edge = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    widened = np.empty((height + 2 * top, width + 2 * left, 3), dtype=part.dtype)
    widened[:] = np.median(edge, axis=0).astype(part.dtype)
    widened[top : top + height, left : left + width] = part
    return widened, left, top
