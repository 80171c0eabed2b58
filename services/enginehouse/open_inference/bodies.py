"""Turns bodies of the protocol over REST into documents, and documents into bodies, with the extension for binary data.

In a body with binary data, the header Inference-Header-Content-Length says how many bytes its JSON has. The raw bytes of each
tensor whose parameter `binary_data_size` says so follow, in the order of the tensors.
"""

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

import pydantic_core

from enginehouse.open_inference.tensors import NotThisProtocol, decoded, read_parameters

HEADER = "Inference-Header-Content-Length"


class Binary(NamedTuple):
    """In which form the outputs of a request are wanted."""

    default: bool
    by_name: dict[str, bool]

    def wants(self, name: str) -> bool:
        """Say whether this output is wanted as raw bytes."""
        return self.by_name.get(name, self.default)


def wanted_binary(document: Mapping[str, Any]) -> Binary:
    """Return in which form a request wants its outputs."""
    parameters, outputs = document.get("parameters"), document.get("outputs")
    named = [output for output in outputs if isinstance(output, dict)] if isinstance(outputs, list) else []
    by_name = {}
    for output in named:
        own = output.get("parameters")
        if isinstance(own, dict) and "binary_data" in own:
            by_name[str(output.get("name"))] = own["binary_data"] is True
    return Binary(isinstance(parameters, dict) and parameters.get("binary_data_output") is True, by_name)


def header_length(text: str | None, size: int) -> int:
    """Return how many bytes of a body of `size` bytes are JSON: as the header says, or all. Raise NotThisProtocol."""
    if text is None:
        return size
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= size):
        raise NotThisProtocol(f"{HEADER}: must be a number of bytes up to the body's {size}, not {text[:40]!r}")
    return int(text)


def take_binary(document: dict[str, Any], part: str, data: bytes) -> None:
    """Move binary data into the tensors `part` of a document, as `raw`. Raise NotThisProtocol if they do not fit."""
    tensors = document.get(part)
    at = 0
    for number, tensor in enumerate(tensors if isinstance(tensors, list) else ()):
        where = f"{part}[{number}]"
        if not isinstance(tensor, dict):
            continue
        parameters = read_parameters(tensor.get("parameters"), f"{where}.parameters")
        if "binary_data_size" not in parameters:
            continue
        size = parameters.pop("binary_data_size")
        if type(size) is not int or not 0 <= size <= len(data) - at:
            raise NotThisProtocol(
                f"{where}.parameters.binary_data_size: must be a number of bytes, of which the body has {len(data) - at} left"
            )
        if "data" in tensor:
            raise NotThisProtocol(f"{where}: has data beside its binary data")
        tensor["raw"] = base64.b64encode(data[at : at + size]).decode()
        at += size
    if at != len(data):
        raise NotThisProtocol(f"{part}: the body has {len(data) - at} bytes of binary data that no tensor names")


def body_of(document: Mapping[str, Any], part: str) -> tuple[bytes, int | None]:
    """Return a document as a body, and the size of its JSON: None if the body has no binary data."""
    if not any("raw" in tensor for tensor in document[part] if isinstance(tensor, dict)):
        return pydantic_core.to_json(document), None
    tensors, contents = [], []
    for number, tensor in enumerate(document[part]):
        if not isinstance(tensor, dict) or "raw" not in tensor:
            tensors.append(tensor)
            continue
        content = decoded(tensor["raw"], f"{part}[{number}].raw")
        contents.append(content)
        parameters = read_parameters(tensor.get("parameters"), f"{part}[{number}].parameters")
        shown = {key: value for key, value in tensor.items() if key != "raw"}
        tensors.append({**shown, "parameters": {**parameters, "binary_data_size": len(content)}})
    head = pydantic_core.to_json({**document, part: tensors})
    return b"".join([head, *contents]), len(head)
