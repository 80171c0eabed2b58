"""Read the text of an image with RapidOCR (PP-OCRv6 on onnxruntime). The models come inside its package."""

import binascii
import io
import warnings
from base64 import b64decode
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, Field
from rapidocr import RapidOCR

from enginehouse.engine import Engine, InvalidInput

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
MAX_PIXELS = 40_000_000
"""A4 at 600 dpi has 35 million. A small file can claim far more pixels, so the size is checked before unpacking."""

SETTINGS = {
    "Global.log_level": "error",
    # By default small images are enlarged until their shorter side has 736 pixels, which makes a strip of text slow (5
    # s) and misread. With these settings images are never enlarged, and reduced until their longer side has this many.
    "Det.limit_type": "max",
    "Det.limit_side_len": 1_600,
}

Share = Annotated[float, Field(ge=0, le=1)]


class Picture(BaseModel):
    """An image of text: a scan, a photo, a screenshot."""

    image: Annotated[str, Field(max_length=28_000_000, description="The file (at most 20 MB), in base64.")]


class Options(BaseModel):
    """Parameters of reading."""

    min_confidence: Share = Field(0.5, description="Lines with a lower confidence are left out.")


class Line(BaseModel):
    """One line of text and its place."""

    text: str
    confidence: Share
    box: Annotated[list[tuple[float, float]], Field(min_length=4, max_length=4)] = Field(
        description="Corners as [x, y] in pixels from the top left: top left, top right, bottom right, bottom left."
    )


class Page(BaseModel):
    """The text of the image."""

    text: str = Field(description="All lines, from top to bottom.")
    lines: list[Line]
    width: int
    height: int


class Ocr(Engine):
    """Reads the text of an image."""

    concurrency = 1

    def load(self) -> None:
        self.reader = RapidOCR(params=SETTINGS)
        # The first run allocates memory and compiles. It happens here, so that the first job does not wait for it.
        self.reader(np.full((64, 320, 3), 255, dtype=np.uint8))

    def predict(self, data: Picture, parameters: Options = Options()) -> Page:  # noqa: B008 (never changed)
        image = open_image(data.image)
        found = self.reader(np.ascontiguousarray(np.asarray(image)[:, :, ::-1]), text_score=parameters.min_confidence)
        lines = [read_line(*line) for line in zip(found.txts or (), found.scores or (), boxes(found), strict=True)]
        return Page(text="\n".join(line.text for line in lines), lines=lines, width=image.width, height=image.height)


def open_image(encoded: str) -> Image.Image:
    """Return the image, upright and in RGB. Raise InvalidInput if it is not an image."""
    try:
        content = b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"image: not base64 ({error})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Our own limit applies instead.
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise InvalidInput(f"image: {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read")
        return on_white(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise InvalidInput(f"image: not a file of one of the kinds {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"image: damaged ({error})") from None


def on_white(image: Image.Image) -> Image.Image:
    """Return the image in RGB. Transparent parts become white, as on paper."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


def boxes(found: Any) -> Any:
    """Return the boxes of RapidOCR's answer. It holds None if there is no text."""
    return () if found.boxes is None else found.boxes.tolist()


def read_line(text: str, confidence: float, box: list[tuple[float, float]]) -> Line:
    """Return one line of RapidOCR's answer. Its confidence may exceed 1 by rounding."""
    return Line(text=text, confidence=min(float(confidence), 1.0), box=box)
