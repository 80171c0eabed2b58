"""Write and read the CloudEvents envelope."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from enginehouse.contracts.errors import Malformed
from enginehouse.contracts.moments import now

CONTENT_TYPE = "application/cloudevents+json"
BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"
GATEWAY_SOURCE = "/gateway"

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

E = TypeVar("E", bound=BaseModel)


def engine_source(engine_id: str) -> str:
    """Return the `source` of an event that an engine's runner publishes."""
    return f"/engines/{engine_id}"


def valid_traceparent(value: Any) -> str | None:
    """Return `value` if it is a W3C traceparent; otherwise None, since Trace Context says to ignore a malformed one."""
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None


def cloud_event(
    *,
    event_id: str,
    kind: str,
    source: str,
    data: Any,
    subject: str | None = None,
    extensions: Mapping[str, Any] | None = None,
    at: datetime | None = None,
) -> bytes:
    """Write a structured CloudEvent with JSON data, of the moment `at` or of now. Leave out attributes that are None.

    `data`: a value, or bytes that are JSON text. Names of `extensions` have lower-case letters and digits only, as
    CloudEvents requires.
    """
    envelope = {
        "specversion": "1.0",
        "id": event_id,
        "type": kind,
        "source": source,
        "time": at or now(),
        "datacontenttype": "application/json",
        "subject": subject,
        **(extensions or {}),
    }
    # Leaves out fields that are None in the models inside `data`.
    text = data if isinstance(data, bytes) else pydantic_core.to_json(data, exclude_none=True)
    return with_json(envelope, "data", text)


def with_json(fields: Mapping[str, Any], name: str, text: bytes) -> bytes:
    """Write fields as a JSON object with one more, which is JSON text already. Leave out those that are None; one is not."""
    present = {field: value for field, value in fields.items() if value is not None}
    return b'%b,"%b":%b}' % (pydantic_core.to_json(present)[:-1], name.encode(), text)


def read_event(kind: type[E], body: bytes) -> E:
    """Read structured CloudEvents JSON as `kind`. Raise Malformed, naming the first wrong field, if it does not fit."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "event"
        raise Malformed(f"{where}: {first['msg']}") from None
