"""The lines of a page, and how lines that a cut from top to bottom has parted become whole again."""

from collections.abc import Sequence
from statistics import median
from typing import Annotated

from pydantic import BaseModel, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Line(BaseModel):
    """One line of text and its place."""

    text: str
    confidence: Share
    box: Annotated[list[tuple[float, float]], Field(min_length=4, max_length=4)] = Field(
        description="Corners as [x, y] in pixels from the top left: top left, top right, bottom right, bottom left."
    )
    page: int = Field(1, description="Number of its page, from 1.")


def joined(tiles: Sequence[Sequence[Line]]) -> list[Line]:
    """Return the lines of tiles that lie side by side, from top to bottom, with each parted line in one piece."""
    whole: list[Line] = []
    before: list[Line] = []
    for tile in tiles:
        ends: list[Line] = []
        for piece in tile:
            start = next((line for line in before if _continues(line, piece)), None)
            if start is None:
                whole.append(piece)
                ends.append(piece)
            else:
                start.text = f"{start.text} {piece.text}"
                start.confidence = min(start.confidence, piece.confidence)
                start.box[1:3] = piece.box[1:3]
                ends.append(start)
        before = ends
    row = median(map(_height, whole)) or 1 if whole else 1
    return sorted(whole, key=lambda line: (round(_middle(line) / row), line.box[0][0]))


def _continues(line: Line, piece: Line) -> bool:
    """Say whether `piece` begins, at the same height, about a space behind the end of `line`."""
    height = min(_height(line), _height(piece))
    same_row = abs(_middle(line, end=True) - _middle(piece)) < height / 2
    return same_row and piece.box[0][0] - line.box[1][0] < 2 * height


def _height(line: Line) -> float:
    return line.box[3][1] - line.box[0][1]


def _middle(line: Line, *, end: bool = False) -> float:
    return (line.box[1][1] + line.box[2][1]) / 2 if end else (line.box[0][1] + line.box[3][1]) / 2
