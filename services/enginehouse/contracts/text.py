"""Reads text from outside that is not JSON: headers, fields that reach a column or a file name, words for a terminal."""

import re
import unicodedata
from typing import Annotated
from urllib.parse import unquote_to_bytes

from pydantic import AfterValidator

from enginehouse.contracts.errors import InvalidHeader

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_TOKEN = re.compile(r"""(?:[^\s"'<>\\]|\\[^"])+""")
_ESCAPED = re.compile(r"\\(.)")


def control_character(text: str) -> str | None:
    """Name the first control character in `text`, as U+000A; None if there is none."""
    found = _CONTROL.search(text)
    return found and f"U+{ord(found[0]):04X}"


def header_text(name: str, raw: bytes) -> str:
    """Return the value of a header that becomes data. Different bytes are different texts.

    Raise InvalidHeader, naming the header, if the value is not UTF-8 or has a control character.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidHeader(f"{name}: its byte {error.start + 1}, 0x{raw[error.start]:02X}, is not UTF-8") from None
    if control := control_character(text):
        raise InvalidHeader(f"{name}: it has the control character {control}")
    return text


def percent_decoded(name: str, raw: bytes) -> str:
    """Return the value of a header that is percent-encoded, as CloudEvents' attributes are; it may be in quotes."""
    text = header_text(name, raw).strip(" ")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = _ESCAPED.sub(r"\1", text[1:-1])
    if _LONE_PERCENT.search(text):
        raise InvalidHeader(f"{name}: '%' must be followed by two hexadecimal digits; write the character '%' as %25")
    return header_text(name, unquote_to_bytes(text))


def _without_null(text: str) -> str:
    if "\x00" in text:
        raise ValueError("it has the character U+0000, which cannot be stored")
    return text


StorableText = Annotated[str, AfterValidator(_without_null)]
"""Text of a caller that reaches a column: PostgreSQL cannot hold U+0000. Inside JSON, which escapes it, it is fine."""


def storable(text: str) -> str:
    """Return text of an engine or another system with a replacement for each character that cannot be stored."""
    return _UNSTORABLE.sub("\ufffd", text)


def without_signatures(text: str) -> str:
    """Return text, such as an event as JSON, whose URLs have lost their queries: in signed URLs these hold the right."""
    # Word by word, because a pattern that looks for whole URLs takes quadratic time where a stranger wrote many beginnings.
    return _TOKEN.sub(lambda found: _without_query(found[0]), text)


def _without_query(word: str) -> str:
    address, mark, _ = word.partition("?")
    return f"{address}?..." if mark and ("://" in address or r":\/\/" in address) else word


def clean(text: str) -> str:
    """Return text of an engine or a server in which characters that could control a terminal can be seen.

    Each becomes one other character, so that places in the text stay what they are.
    """
    return text if text.isprintable() else "".join(map(_seen, text))


def _seen(letter: str) -> str:
    if letter.isprintable():
        return letter
    if letter == "\t" or unicodedata.category(letter) == "Zs":
        return " "
    if letter <= "\x1f":
        return chr(0x2400 + ord(letter))
    # C1, and in other alphabets: marks that turn the direction of writing, marks without width, private characters.
    return "\u2421" if letter == "\x7f" else "\ufffd"


def clean_lines(text: str) -> str:
    """Return text of several lines as `clean` does, and keep the lines."""
    return "\n".join(clean(line) for line in text.splitlines())
