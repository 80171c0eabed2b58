"""Pages are read correctly: the sample, and one rendered here with words that cannot be known beforehand."""

import base64
import io
import json
import secrets
from pathlib import Path

import pytest
from engine import Ocr
from PIL import Image, ImageDraw, ImageFont

from enginehouse.engine.testing import EngineTester, Refused

FOLDER = Path(__file__).parent
SAMPLE = [
    "Invoice 2026-1122",
    "Acme Paper Works, 12 Station Road",
    "300 sheets, white, A4",
    "Total due: 1,284.50 EUR",
]


@pytest.fixture(scope="module")
def engine():
    with EngineTester(Ocr) as tester:
        yield tester


def render(lines):
    image = Image.new("RGB", (720, 40 + 60 * len(lines)), "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((30, 30 + 60 * number), line, fill="black", font=ImageFont.load_default(size=30))
    return image


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def test_the_sample_page_is_read(engine):
    page = engine.predict({"image": base64.b64encode((FOLDER / "sample.png").read_bytes()).decode()})
    assert [line["text"] for line in page["lines"]] == SAMPLE
    assert page["text"] == "\n".join(SAMPLE)
    assert all(line["confidence"] > 0.9 for line in page["lines"])
    with Image.open(FOLDER / "sample.png") as image:
        assert (page["width"], page["height"]) == image.size


def test_the_example_is_the_sample(engine):
    example = json.loads((FOLDER / "example.json").read_text())
    assert base64.b64decode(example["image"]) == (FOLDER / "sample.png").read_bytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_a_page_rendered_just_now_is_read(engine, kind):
    code = "".join(secrets.choice("34679ACEFHKMNPRTUVWXY") for _ in range(8))
    page = engine.predict({"image": encode(render(["The code is", code]), kind)})
    assert [line["text"] for line in page["lines"]] == ["The code is", code]


def test_boxes_surround_their_lines(engine):
    page = engine.predict({"image": encode(render(["above", "below"]))})
    tops = [line["box"][0][1] for line in page["lines"]]
    bottoms = [line["box"][2][1] for line in page["lines"]]
    assert 20 <= tops[0] < bottoms[0] <= 80 <= tops[1] < bottoms[1] <= 140


def test_a_transparent_background_is_paper(engine):
    image = render(["Transparent"]).convert("L").point(lambda value: 255 - value)
    ink = Image.new("RGBA", image.size, (0, 0, 0, 0))
    ink.putalpha(image)
    assert engine.predict({"image": encode(ink)})["text"] == "Transparent"


def test_a_photo_turned_by_its_camera_is_read_upright(engine):
    exif = Image.Exif()
    exif[0x0112] = 6  # Asks for a turn by 90 degrees clockwise.
    image = encode(render(["Turn me upright"]).rotate(90, expand=True), "JPEG", exif=exif)
    page = engine.predict({"image": image})
    assert page["text"] == "Turn me upright"
    assert page["width"] > page["height"]


def test_an_empty_page_has_no_text(engine):
    page = engine.predict({"image": encode(Image.new("RGB", (300, 200), "white"))})
    assert (page["text"], page["lines"]) == ("", [])


def test_min_confidence_leaves_lines_out(engine):
    image = encode(render(["Readable"]))
    assert engine.predict({"image": image}, {"min_confidence": 0.5})["text"] == "Readable"
    assert engine.predict({"image": image}, {"min_confidence": 1.0})["text"] == ""


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("not base64!", "not base64"),
        (base64.b64encode(b"%PDF-1.7 no image").decode(), "not a file of one of the kinds"),
        ("AAA", "not base64"),
        (base64.b64encode(base64.b64decode(encode(render(["cut"])))[:400]).decode(), "damaged"),
        (encode(Image.new("1", (9_000, 9_000))), "9000 x 9000 pixels"),
        ("", "not a file of one of the kinds"),
    ],
    ids=["words", "pdf", "padding", "cut", "bomb", "nothing"],
)
def test_what_is_no_image_is_refused_for_good(engine, image, says):
    with pytest.raises(Refused) as refused:
        engine.predict({"image": image})
    assert refused.value.status == 422
    assert says in refused.value.error["message"]
