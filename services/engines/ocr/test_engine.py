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


def render(lines, size=None, mode="RGB", ink="black", paper="white", step=60):
    image = Image.new(mode, size or (720, 40 + step * len(lines)), paper)
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((30, 30 + step * number), line, fill=ink, font=ImageFont.load_default(size=30))
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


def palette_with_transparency():
    image = render(["Light on nothing"], mode="P", ink=1, paper=0)
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (render(["Light on nothing"], mode="RGBA", ink=(255, 255, 255, 255), paper=(0, 0, 0, 0)), "Light on nothing"),
        (
            render(["Light on nothing"], mode="RGBA", ink=(255, 255, 255, 255), paper=(255,) * 3 + (0,)),
            "Light on nothing",
        ),
        (render(["Light on nothing"], mode="LA", ink=(240, 255), paper=(0, 0)), "Light on nothing"),
        (palette_with_transparency(), "Light on nothing"),
        (render(["Dark on nothing"], mode="RGBA", ink=(0, 0, 0, 255), paper=(0, 0, 0, 0)), "Dark on nothing"),
        (render(["White on black"], ink="white", paper="black"), "White on black"),
        (render(["One bit each"], mode="1", ink=0, paper=1), "One bit each"),
        (render(["Sixteen bits"], mode="I;16", ink=9_000, paper=65_535), "Sixteen bits"),
        (render(["Real numbers"]).convert("L").convert("F").point(lambda value: value / 255 + 0), "Real numbers"),
        (render(["Low strip"]).crop((10, 25, 710, 70)), "Low strip"),
    ],
    ids=[
        "light rgba",
        "light on white",
        "light grey",
        "palette",
        "dark rgba",
        "inverse",
        "1 bit",
        "16 bits",
        "floats",
        "strip",
    ],
)
def test_text_is_read_on_any_background_and_depth(engine, image, text):
    kind = "TIFF" if image.mode == "F" else "PNG"
    assert engine.predict({"image": encode(image, kind)})["text"] == text


@pytest.mark.parametrize("size", [(1_330, 1_600), (1_000, 6_000), (2_480, 3_508)], ids=str)
def test_a_single_short_line_on_a_large_page_is_not_overlooked(engine, size):
    page = engine.predict({"image": encode(render(["Top line"], size=size))})
    assert page["text"].replace(" ", "") == "Topline"
    (left, top), _, (right, bottom), _ = page["lines"][0]["box"]
    assert left < 60 < 100 < right
    assert top < 45 < bottom < 80


def test_a_tall_screenshot_is_read_line_by_line(engine):
    lines = [f"Entry {number} of the log" for number in range(16)]
    page = engine.predict({"image": encode(render(lines, size=(900, 3_200), step=199))})
    assert page["text"].splitlines() == lines
    for number in (0, 8, 15):  # Places are those of the whole picture.
        top, bottom = page["lines"][number]["box"][0][1], page["lines"][number]["box"][2][1]
        assert top < 30 + 199 * number + 20 < bottom


def test_a_wide_strip_is_read_in_whole_lines(engine):
    lines = [
        "Whoever wants to know how a long line is read should write one that says something new in each of its words, "
        "because a reader of texts has learned from texts, and guesses what it can hardly see from what stands beside it.",
        "Below it stands another, with 12 apples, 340 pears and 5,600 plums, for which the merchant of Aachen asked 78.90 "
        "in cash on Monday, and which his brother sold for half as much on Tuesday evening, before the market closed.",
    ]
    page = engine.predict({"image": encode(render(lines, size=(3_300, 160)))})
    assert [line.replace(" ", "") for line in page["text"].splitlines()] == [line.replace(" ", "") for line in lines]
    assert page["lines"][0]["box"][1][0] > 2_800


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG"])
def test_every_page_of_a_file_is_read(engine, kind):
    first, *others = (render([f"This is page {number}"], size=(720 + number, 100)) for number in (1, 2, 3))
    if kind != "TIFF":  # The frames of an animation have one size.
        others = [other.resize(first.size) for other in others]
    document = engine.predict({"image": encode(first, kind, save_all=True, append_images=others)})
    assert document["text"] == "This is page 1\fThis is page 2\fThis is page 3"
    assert [line["page"] for line in document["lines"]] == [1, 2, 3]
    assert [page["height"] for page in document["pages"]] == [100] * 3
    assert [page["width"] for page in document["pages"]] == ([721, 722, 723] if kind == "TIFF" else [721] * 3)


def frames(count, size, last=None):
    first, *others = (Image.new("1", last if last and number == count - 1 else size) for number in range(count))
    return encode(first, "TIFF", save_all=True, append_images=others)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("not base64!", "not base64"),
        (base64.b64encode(b"%PDF-1.7 no image").decode(), "not a file of one of the kinds"),
        ("AAA", "not base64"),
        (base64.b64encode(base64.b64decode(encode(render(["cut"])))[:400]).decode(), "damaged"),
        (encode(Image.new("1", (9_000, 9_000))), "9000 x 9000 pixels"),
        ("", "not a file of one of the kinds"),
        (encode(Image.new("1", (1, 5_000))), "1 x 5000 pixels; each side must have 8 to 30,000"),
        (encode(Image.new("1", (40_000, 60))), "40000 x 60 pixels; each side"),
        (frames(21, (50, 50)), "21 pages; at most 20 are read"),
        (frames(3, (400, 400), last=(9_000, 9_000)), "page 3 of 3: 9000 x 9000 pixels; at most 40,000,000 in all"),
    ],
    ids=["words", "pdf", "padding", "cut", "bomb", "nothing", "thread", "ribbon", "pages", "bomb of pages"],
)
def test_what_is_no_image_is_refused_for_good(engine, image, says):
    with pytest.raises(Refused) as refused:
        engine.predict({"image": image})
    assert refused.value.status == 422
    assert says in refused.value.error["message"]
