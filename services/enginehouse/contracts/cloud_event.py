"""Write and read the CloudEvents envelope."""

import re
from collections.abc import Mapping
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
) -> bytes:
    """Write a structured CloudEvent with JSON data. Leave out attributes that are None.

    Names of `extensions` have lower-case letters and digits only, as CloudEvents requires.
    """
    attributes = {"subject": subject, **(extensions or {})}
    return pydantic_core.to_json(
        {
            "specversion": "1.0",
            "id": event_id,
            "type": kind,
            "source": source,
            "time": now(),
            "datacontenttype": "application/json",
            **{name: value for name, value in attributes.items() if value is not None},
            "data": data,
        },
        # Leaves out fields that are None in the models inside `data`.
        exclude_none=True,
    )


def read_event(kind: type[E], body: bytes) -> E:
    """Read structured CloudEvents JSON as `kind`. Raise Malformed, naming the first wrong field, if it does not fit."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "event"
        raise Malformed(f"{where}: {first['msg']}") from None
