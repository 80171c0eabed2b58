"""Open a file of one or more pictures: upright, in RGB, on a background that its text stands out from."""

import binascii
import io
import warnings
from base64 import b64decode
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from enginehouse.engine import InvalidInput

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
MAX_PIXELS = 40_000_000
"""Of all pages together. A4 at 600 dpi has 35 million. A small file can claim far more, so it is checked first."""
MAX_PAGES = 20
MIN_SIDE = 8
"""Fewer pixels hold no letter."""
MAX_SIDE = 30_000
"""A longer picture would not be read within the engine's time."""
_SAMPLE_SIDE = 2_000
"""A picture is reduced to this many pixels a side to tell whether its content is light or dark."""


def open_pages(encoded: str) -> Iterator[Image.Image]:
    """Yield the pages of a file in base64, one at a time. Raise InvalidInput for what is not read, with the reason."""
    try:
        content = b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"image: not base64 ({error})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Our own limit applies instead.
            with Image.open(io.BytesIO(content), formats=FORMATS) as file:
                yield from _pages(file)
    except UnidentifiedImageError:
        raise InvalidInput(f"image: not a file of one of the kinds {', '.join(FORMATS)}") from None
    except (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"image: damaged ({error})") from None


def _pages(file: Image.Image) -> Iterator[Image.Image]:
    count = getattr(file, "n_frames", 1)
    if count > MAX_PAGES:
        raise InvalidInput(f"image: {count} pages; at most {MAX_PAGES} are read")
    pixels = 0
    for number in range(count):
        file.seek(number)
        where = f"page {number + 1} of {count}: " if count > 1 else ""
        pixels += file.width * file.height
        if pixels > MAX_PIXELS:
            raise InvalidInput(f"image: {where}{_size(file)}; at most {MAX_PIXELS:,} in all are read")
        if min(file.size) < MIN_SIDE or max(file.size) > MAX_SIDE:
            raise InvalidInput(f"image: {where}{_size(file)}; each side must have {MIN_SIDE} to {MAX_SIDE:,}")
        yield on_contrast(ImageOps.exif_transpose(file))


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height} pixels"


def on_contrast(image: Image.Image) -> Image.Image:
    """Return the image in RGB. Transparent parts become white, or black behind light content."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _stretched(image)
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    sample = image.copy()
    sample.thumbnail((_SAMPLE_SIDE, _SAMPLE_SIDE), Image.Resampling.BOX)
    opacity = np.asarray(sample.getchannel("A"), dtype=np.float32)
    brightness = np.asarray(sample.convert("L"), dtype=np.float32)
    light = float((brightness * opacity).sum()) > 127.5 * float(opacity.sum())
    background = Image.new("RGBA", image.size, "black" if light else "white")
    return Image.alpha_composite(background, image).convert("RGB")


def _stretched(image: Image.Image) -> Image.Image:
    """Return an image of more than 8 bits with its darkest value as black, its lightest as white. Pillow would clip."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    low, high = float(values.min()), float(values.max())
    if high == low:
        return Image.new("RGB", image.size, "white")
    return Image.fromarray(((values - low) * (255 / (high - low))).astype(np.uint8)).convert("RGB")
