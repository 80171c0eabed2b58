"""Read the text of an image with RapidOCR (PP-OCRv6 on onnxruntime). The models come inside its package."""

from typing import Annotated

import numpy as np
from lines import Line, Share, joined
from pictures import open_pages
from PIL import Image
from pydantic import BaseModel, Field
from rapidocr import RapidOCR
from tiles import OVERVIEW, SIDE, Tile, tiles

from enginehouse.engine import Engine

SETTINGS = {
    "Global.log_level": "error",
    # By default small images are enlarged until their shorter side has 736 pixels, which makes a strip of text slow (5
    # s) and misread. With these settings images are never enlarged, and reduced until their longer side has this many.
    "Det.limit_type": "max",
    "Det.limit_side_len": SIDE,
}


class Picture(BaseModel):
    """An image of text: a scan, a photo, a screenshot."""

    image: Annotated[str, Field(max_length=28_000_000, description="The file (at most 20 MB), in base64.")]


class Options(BaseModel):
    """Parameters of reading."""

    min_confidence: Share = Field(0.5, description="Lines with a lower confidence are left out.")


class Size(BaseModel):
    """Size of a page in pixels, upright."""

    width: int
    height: int


class Document(BaseModel):
    """The text of the image, or of all pages of a file with several (TIFF, animated WebP or PNG)."""

    text: str = Field(description="All lines, from top to bottom. A form feed stands between pages.")
    lines: list[Line]
    width: int = Field(description="Of the first page.")
    height: int = Field(description="Of the first page.")
    pages: list[Size]


class Ocr(Engine):
    """Reads the text of an image."""

    concurrency = 1

    def load(self) -> None:
        self.reader = RapidOCR(params=SETTINGS)
        # The first run allocates memory and compiles. It happens here, so that the first job does not wait for it.
        self.reader(np.full((64, 320, 3), 255, dtype=np.uint8))

    def predict(self, data: Picture, parameters: Options = Options()) -> Document:  # noqa: B008 (never changed)
        pages: list[Size] = []
        texts: list[str] = []
        lines: list[Line] = []
        for number, image in enumerate(open_pages(data.image), start=1):
            pages.append(Size(width=image.width, height=image.height))
            found = self.read(np.asarray(image), parameters.min_confidence, number)
            texts.append("\n".join(line.text for line in found))
            lines += found
        return Document(text="\f".join(texts), lines=lines, width=pages[0].width, height=pages[0].height, pages=pages)

    def read(self, pixels: np.ndarray, min_confidence: float, page: int) -> list[Line]:
        """Return the lines of a page [height, width, 3]."""
        cut = [self.read_tile(tile, min_confidence, page) for tile in tiles(pixels)]
        height, width = pixels.shape[:2]
        return joined(cut) if width > height and len(cut) > 1 else [line for lines in cut for line in lines]

    def read_tile(self, tile: Tile, min_confidence: float, page: int) -> list[Line]:
        """Return the lines of a tile, at their places in the whole picture."""
        if is_blank(tile.pixels):
            return []
        found, scale = self.reader(bgr(tile.pixels), text_score=min_confidence), 1.0
        if found.boxes is None and max(tile.pixels.shape) > OVERVIEW:
            # Perhaps it holds only a short line. On a smaller picture it is not overlooked.
            scale = max(tile.pixels.shape) / OVERVIEW
            found = self.reader(bgr(reduced(tile.pixels, scale)), text_score=min_confidence)
        if found.boxes is None:
            return []
        boxes = (found.boxes * scale + np.array([tile.left, tile.top])).tolist()
        return [
            # By rounding, a confidence may exceed 1.
            Line(text=text, confidence=min(float(confidence), 1.0), box=box, page=page)
            for text, confidence, box in zip(found.txts, found.scores, boxes, strict=True)
        ]


def is_blank(pixels: np.ndarray) -> bool:
    """Say whether a picture has the same colour everywhere."""
    return bool((pixels == pixels[0, 0]).all())


def reduced(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Return a picture whose sides are shorter by `scale`."""
    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((max(1, round(width / scale)), max(1, round(height / scale)))))


def bgr(pixels: np.ndarray) -> np.ndarray:
    """Return an RGB picture in the order that the reader takes."""
    return np.ascontiguousarray(pixels[:, :, ::-1])
