"""/v1/engines/{engine}/openapi.json and /docs: describe one engine, for programs and for people, in our own words.

The page is made here and has no script. A browser cannot send a key with a link, so without one the page asks for it in a
form, and forgets it.
"""

import json
import shlex
from html import escape, unescape
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response

from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.errors import EngineDoesNotExist, EnginehouseError
from enginehouse.contracts.text import clean_lines
from enginehouse.gateway.engines.engine_document import engine_document, extra_endpoints
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.http.dependencies import (
    AuthenticatedCaller,
    WiredGateway,
    until_answered,
)
from enginehouse.gateway.http.routes.engines import EnginePath
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.web.openapi import problems
from enginehouse.web.problems import status_of
from enginehouse.web.requests import NoQueryAllowed, body_of
from enginehouse.web.responses import json_answer

router = APIRouter(prefix="/v1", tags=["engines"])

_FORM_MAX_BYTES = 4 * 1024
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
h1 { margin-bottom: 0; } h2 { margin-top: 2rem; border-bottom: 1px solid #d5dae0; }
pre { background: #f4f6f8; padding: .75rem; overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e6e9ed; }
"""


@router.get("/engines/{engine}/openapi.json", responses=problems(404, 410), dependencies=[NoQueryAllowed])
async def engine_openapi(gateway: WiredGateway, caller: AuthenticatedCaller, engine: EnginePath) -> Response:
    """Describe one engine in OpenAPI: how to submit a job to it, with its own schemas, and its extra endpoints."""
    known = gateway.catalogue.resolve_for(engine, caller)
    return json_answer(engine_document(known.id, _card(known), with_calls=_may_call(caller, known)))


@router.get("/engines/docs.css", include_in_schema=False)
async def style() -> Response:
    """Give the style of the pages: nothing inline is allowed there."""
    return Response(_STYLE, media_type="text/css", headers={**_HEADERS, "Cache-Control": "max-age=3600"})


@router.get("/engines/{engine}/docs", include_in_schema=False)
async def docs(request: Request, gateway: WiredGateway, engine: EnginePath) -> Response:
    """Show an engine to people; ask for a key if the request has none."""
    authorization = request.headers.get("authorization")
    return _answer(request, gateway, engine, authorization) if authorization else _form()


@router.post("/engines/{engine}/docs", include_in_schema=False)
async def docs_with_key(request: Request, gateway: WiredGateway, engine: EnginePath) -> Response:
    """Show an engine to somebody who has typed a key."""
    typed = parse_qs((await body_of(request, _FORM_MAX_BYTES)).decode(errors="replace"))
    return _answer(request, gateway, engine, f"Bearer {typed.get('key', [''])[0]}")


def _answer(request: Request, gateway: WiredGateway, engine: str, authorization: str) -> Response:
    try:
        caller = gateway.tenants.authenticate(authorization)
        until_answered(request).enter_context(gateway.open_requests.counted(caller))
        known = gateway.catalogue.resolve_for(engine, caller)
        content = engine_page(known.id, _card(known), with_calls=_may_call(caller, known))
    except EnginehouseError as error:
        return _form(str(error), status_of(error))
    return Response(content, media_type="text/html", headers=_HEADERS)


def _may_call(caller: Caller, engine: KnownEngine) -> bool:
    return caller.is_admin or caller.name == engine.tenant


def _card(engine: KnownEngine) -> EngineCard:
    if engine.card is None:
        raise EngineDoesNotExist(
            f"{engine.id} has not described itself yet: it has not been healthy since it was deployed"
        )
    return engine.card


def _form(said: str = "", status: int = 200) -> Response:
    text = f"""<h1>An engine of Enginehouse</h1>
<p>{_text(said)}</p>
<form method="post"><p><label>API key <input type="password" name="key" required autocomplete="off"></label>
<button>Show</button></p></form>"""
    return Response(_page("Enginehouse", text), status, _HEADERS, "text/html")


def engine_page(engine_id: str, card: EngineCard, *, with_calls: bool) -> str:
    """Return the page of an engine as HTML. Whatever comes from the engine is escaped."""
    parts = [
        f"<h1>{_text(engine_id)}</h1>\n<p>Version {_text(card.version)}</p>\n<p>{_text(card.description)}</p>",
        f"<h2>Input</h2>\n{_fields(card.input_schema)}",
        f"<h2>Output</h2>\n{_fields(card.output_schema)}",
        f"<h2>Example</h2>\n{_code(_json(card.example))}" if card.example is not None else "",
        f"<h2>Call it</h2>\n{_calls(engine_id, {} if card.example is None else card.example)}",
    ]
    if with_calls and (endpoints := extra_endpoints(card)):
        rows = [
            (f"{method.upper()} /v1/engines/{engine_id}/call{path}", unescape(operation["summary"]))
            for path, operations in endpoints.items()
            for method, operation in operations.items()
        ]
        parts.append(f"<h2>Extra endpoints</h2>\n{_table(('endpoint', 'what it does'), rows)}")
    return _page(engine_id, "\n".join(parts))


def _page(title: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title><link rel="stylesheet" href="/v1/engines/docs.css"></head>
<body>
{body}
</body>
</html>
"""


def _fields(schema: dict[str, Any]) -> str:
    """Return a table of the fields of an object, and the whole schema."""
    if not schema:
        return "<p>Any JSON: the engine describes no more.</p>"
    properties, required = schema.get("properties"), schema.get("required")
    needed = required if isinstance(required, list) else []
    rows = [
        (name, _kind(field), "yes" if name in needed else "no", field.get("description", ""))
        for name, field in (properties if isinstance(properties, dict) else {}).items()
        if isinstance(field, dict)
    ]
    table = _table(("field", "type", "required", "what it is"), rows) if rows else f"<p>{_text(_kind(schema))}</p>"
    return f"{table}\n<details><summary>JSON Schema</summary>{_code(_json(schema))}</details>"


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type") or str(schema.get("$ref", "")).rpartition("/")[2] or "any"
    return " or ".join(map(str, kind)) if isinstance(kind, list) else str(kind)


def _calls(engine_id: str, example: Any) -> str:
    value = _json(example, indent=None)
    curl = (
        f'curl -H "Authorization: Bearer $ENGINEHOUSE_API_KEY" -H "Content-Type: application/json" -H "Prefer: wait=60" \\\n'
        f"  -d {shlex.quote(json.dumps({'input': example}, ensure_ascii=False))} \\\n"
        f'  "$ENGINEHOUSE_URL/v1/engines/{engine_id}/jobs"'
    )
    command = f"enginehouse submit {engine_id} --wait --input {shlex.quote(value)}"
    python = (
        "from enginehouse.client import Client\n\nwith Client() as client:\n"
        f"    print(client.run({engine_id!r}, {example!r}))"
    )
    return "\n".join(_code(text) for text in (curl, command, python))


def _table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    head = "".join(f"<th>{_text(one)}</th>" for one in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{_text(one)}</td>" for one in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _code(text: str) -> str:
    return f"<pre><code>{_text(text)}</code></pre>"


def _json(value: Any, indent: int | None = 2) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _text(value: Any) -> str:
    """Return text as HTML shows it, also inside an attribute."""
    return escape(_clean(value))


def _clean(value: Any) -> str:
    return clean_lines(str(value))
