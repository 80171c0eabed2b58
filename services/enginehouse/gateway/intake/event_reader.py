"""Reads CloudEvents: structured, binary and in batches. Names the fault where the SDK would guess or give no reason."""

import base64
import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.v1.event import CloudEvent

from enginehouse.contracts.errors import InvalidHeader, RequestError
from enginehouse.contracts.json_text import read_json
from enginehouse.contracts.text import control_character, header_text, percent_decoded

Header = tuple[bytes, bytes]
"""Name in lower case and value, as they were sent."""
_PREFIX = b"ce-"
_ATTRIBUTES_MAX_CHARS = 32 * 1024
"""As many as fit the headers of an event in binary mode."""
_REQUIRED = ("specversion", "id", "source", "type")


def is_binary(headers: Iterable[Header]) -> bool:
    """Say whether a request carries an event whose attributes are headers."""
    return any(name.startswith(_PREFIX) for name, _ in headers)


def binary_event(headers: Iterable[Header], body: bytes) -> BaseCloudEvent:
    """Read an event whose attributes are ce-* headers and whose data is the body; raise RequestError if it is none."""
    attributes: dict[str, Any] = {}
    content_type = None
    for raw_name, value in headers:
        name = raw_name.decode("latin-1")
        if raw_name == b"content-type":
            content_type = header_text("Content-Type", value)
        elif raw_name.startswith(_PREFIX):
            attribute = name.removeprefix("ce-")
            if attribute in attributes:
                raise InvalidHeader(f"The header {name} may be given only once")
            attributes[attribute] = percent_decoded(name, value)
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    return _event(attributes, _read_data(content_type, body), "ce-")


def _is_json(media_type: str) -> bool:
    # Without a type data is JSON, as the format of structured events says.
    return media_type in ("", "application/json") or media_type.endswith("+json")


def _is_text(media_type: str, content_type: str) -> bool:
    return media_type.startswith("text/") or media_type.endswith(("/xml", "+xml")) or "charset=" in content_type


def _media_type(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def _read_data(content_type: str | None, data: bytes) -> Any:
    """Return the value in an event's data: JSON, text, or bytes. Only its content type decides which."""
    media_type = _media_type(content_type)
    if not data:
        return None
    if _is_json(media_type):
        try:
            return read_json(data, "The event's data", "data")
        except RequestError as error:
            if media_type:
                raise
            raise RequestError(f"{error}; if it is something else, its content type must say so") from None
    if _is_text(media_type, (content_type or "").lower()):
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise RequestError(
                f"The event's data is not UTF-8 text, although its content type is {media_type}; "
                "give bytes a type such as application/octet-stream"
            ) from None
    return data


def read_structured(body: bytes) -> BaseCloudEvent:
    """Read one structured event; raise RequestError, naming the fault, if it is none."""
    return _structured_event(read_json(body, "The CloudEvent"), _names_in(body))


def read_batch(body: bytes, at_most: int) -> list[BaseCloudEvent | RequestError]:
    """Read a batch as its events; a RequestError, which names the fault, stands in the place of what is none."""
    envelopes = read_json(body, "The batch")
    if not isinstance(envelopes, list):
        raise RequestError("A batch is a JSON array of events")
    if len(envelopes) > at_most:
        raise RequestError(f"The batch has {len(envelopes)} events; {at_most} are allowed")
    events: list[BaseCloudEvent | RequestError] = []
    for envelope, names in zip(envelopes, _names_in(body), strict=True):
        try:
            events.append(_structured_event(envelope, names))
        except RequestError as error:
            events.append(error)
    return events


def _names_in(body: bytes) -> Any:
    """Return JSON that was read before with lists of names in the place of objects; names may be there twice.

    What is inside these objects is dropped at once.
    """
    return json.loads(body, object_pairs_hook=lambda pairs: [name for name, _ in pairs], parse_int=str)


def _structured_event(envelope: Any, names: Any) -> BaseCloudEvent:
    """Read an event from its parsed envelope and all names in it; raise RequestError, naming the fault, if it is none."""
    if not isinstance(envelope, dict):
        raise RequestError("Not a CloudEvent: it must be a JSON object")
    if len(names) > len(envelope):
        # Parts that read it after each other could take different ones.
        twice, _ = Counter(names).most_common(1)[0]
        raise RequestError(f"Not a CloudEvent: {twice[:60]!r} may be given only once")
    if "data" in envelope and "data_base64" in envelope:
        raise RequestError("Not a CloudEvent: it has both data and data_base64")
    attributes = {name: value for name, value in envelope.items() if name not in ("data", "data_base64")}
    return _event(attributes, _structured_data(envelope), "")


def _structured_data(envelope: dict[str, Any]) -> Any:
    """Return the value of the data: the same as if it had come as the body of an event in binary mode."""
    declared = envelope.get("datacontenttype")
    content_type = declared if isinstance(declared, str) else None
    media_type = _media_type(content_type)
    if "data_base64" in envelope:
        try:
            decoded = base64.b64decode(envelope["data_base64"], validate=True)
        except (ValueError, TypeError):
            raise RequestError("Not a CloudEvent: data_base64 must be base64 text") from None
        # A sender that gives no type means bytes: only those are written this way.
        return _read_data(content_type, decoded) if media_type else decoded
    data = envelope.get("data")
    if isinstance(data, str) and not _is_json(media_type) and not _is_text(media_type, (content_type or "").lower()):
        # A sidecar that is given bytes of such a type replaces what is not UTF-8. So text here may be what is left of them.
        raise RequestError(
            f"data of type {media_type[:100]} must be given as data_base64. Through a sidecar, publish bytes as "
            "application/octet-stream, or a whole event with data_base64"
        )
    return data


def _event(attributes: dict[str, Any], data: Any, prefix: str) -> BaseCloudEvent:
    """Check attributes, whose names have `prefix` for the sender, and make the event."""
    missing = [name for name in _REQUIRED if not isinstance(attributes.get(name), str) or not attributes[name]]
    if missing:
        names = ", ".join(prefix + name for name in missing)
        raise RequestError(f"Not a CloudEvent: {names} must be given as non-empty text")
    if attributes["specversion"] != "1.0":
        raise RequestError(f"This CloudEvent cannot be taken: {prefix}specversion must be '1.0'")
    size = sum(len(name) + len(value) for name, value in attributes.items() if isinstance(value, str))
    if size > _ATTRIBUTES_MAX_CHARS:
        raise RequestError(
            f"This CloudEvent cannot be taken: its attributes have {size} characters; {_ATTRIBUTES_MAX_CHARS} are allowed"
        )
    for name, value in attributes.items():
        if isinstance(value, str) and (control := control_character(value)):
            raise RequestError(f"Not a CloudEvent: {prefix}{name} has the control character {control}")
    if isinstance(attributes.get("time"), str):
        try:
            attributes["time"] = datetime.fromisoformat(attributes["time"])
        except ValueError:
            raise RequestError(
                f"Not a CloudEvent: {prefix}time must be a moment such as 2018-04-05T17:31:00Z"
            ) from None
    try:
        return CloudEvent(attributes, data)
    except BaseCloudEventException as error:
        raise RequestError(f"Not a CloudEvent: {str(error)[:500]}") from None
