"""The demo's requests as data: jobs of three tenants to three engines, events of their own systems, refused calls."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from enginehouse.local import checkout
from enginehouse.local.home import LOCAL_TENANT

How = Literal["inline", "reference", "event over HTTP", "event over topic"]
"""Way of an input: inside the request; uploaded before; as a CloudEvent over HTTP; on the topic `requests.<tenant>`."""

TENANTS = ("acme", "globex")
"""Tenants of the demo beside the local one. Each gets a key of its own."""


@dataclass(frozen=True, slots=True)
class Example:
    """One job: its tenant, engine and input, and how the input travels. `shown` stands for the input in the table."""

    tenant: str
    engine: str
    input: Any
    shown: str
    how: How = "inline"
    event_type: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One call that must be refused. `{job}` in the path becomes the id of an ended job of acme."""

    what: str
    tenant: str | None
    path: str
    body: Any = None


def examples() -> list[Example]:
    """Return examples with real inputs: from the engines' own folders, and a few sentences."""
    standard, ocr, embedding = "shared--standard", "acme--ocr", "globex--embedding"
    sentence, picture, texts = (_example(name) for name in ("standard", "ocr", "embedding"))
    scan = (_folder("ocr") / "sample.png").read_bytes()
    page = {"image": base64.b64encode(scan).decode()}
    return [
        Example(LOCAL_TENANT, standard, sentence, sentence["text"]),
        _sentiment_job(LOCAL_TENANT, "The service was slow and the food was terrible."),
        _sentiment_job(LOCAL_TENANT, "The train leaves at nine."),
        Example("acme", ocr, picture, f"a picture, {_size(json.dumps(picture))} of JSON"),
        Example("acme", ocr, page, f"a scanned page, {_size(scan)} of PNG", "reference"),
        Example("globex", embedding, texts, _numbered(texts["texts"])),
        _sentiment_job(
            "globex", "It's late, but they were kind.", how="event over HTTP", event_type="com.globex.review"
        ),
        Example("acme", ocr, page, "a page", "event over topic", "com.acme.letter.scanned"),
    ]


REFUSALS = [
    Refusal(
        "an engine that does not exist",
        LOCAL_TENANT,
        "/v1/engines/no-such-engine/jobs",
        {"input": {"text": "Hello?"}},
    ),
    Refusal(
        "an input that does not fit the engine's schema",
        LOCAL_TENANT,
        "/v1/engines/shared--standard/jobs",
        {"input": {"text": 42}},
    ),
    Refusal("another tenant's engine", "globex", "/v1/engines/acme--ocr/jobs", {"input": {"image": ""}}),
    Refusal("another tenant's job", "globex", "/v1/jobs/{job}"),
    Refusal("no key", None, "/v1/jobs"),
]


def engines_of(chosen: Sequence[Example]) -> list[str]:
    """Return the engines of the examples, each once, in order."""
    return list(dict.fromkeys(example.engine for example in chosen))


def _sentiment_job(tenant: str, text: str, how: How = "inline", event_type: str = "") -> Example:
    return Example(tenant, "shared--standard", {"text": text}, text, how, event_type)


def _folder(name: str) -> Path:
    return checkout.root() / "services" / "engines" / name


def _example(name: str) -> Any:
    return json.loads((_folder(name) / "example.json").read_text())


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def _size(content: str | bytes) -> str:
    return f"{len(content) / 1000:.1f} kB"
