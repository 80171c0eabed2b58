"""/openapi.json describes the API; /docs shows it to people, by files from a package and nothing from other hosts."""

import asyncio
import hashlib
from functools import cache
from pathlib import Path

import fastapi_offline
import pydantic_core
from fastapi import APIRouter, FastAPI, Request, Response

router = APIRouter(tags=["docs"], include_in_schema=False)

_FILES = Path(fastapi_offline.__file__).parent / "static"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Enginehouse API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# Without validatorUrl, the page would send the address of a public API to a service of Swagger's makers.
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""
_HEADERS = {
    # The page's own scripts and styles only: nothing inline, nothing of other hosts, no frame around the page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_KEPT = {**_HEADERS, "Cache-Control": "max-age=3600"}


def _describe(app: FastAPI) -> tuple[bytes, str]:
    """Return the OpenAPI document and its entity tag."""
    body = pydantic_core.to_json(app.openapi())
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """Give the OpenAPI document. It is written once, in a thread, because that takes half a second of computing."""
    state = request.app.state
    if not hasattr(state, "description"):
        state.description = asyncio.ensure_future(asyncio.to_thread(_describe, request.app))
    body, tag = await asyncio.shield(state.description)
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@router.get("/docs")
async def docs_page() -> Response:
    """Show the page."""
    return Response(_PAGE, media_type="text/html", headers=_HEADERS)


@router.get("/docs/start.js")
async def docs_start() -> Response:
    """Give the script that starts the page: inline scripts are not allowed."""
    return Response(_START, media_type="text/javascript", headers=_KEPT)


@cache
def _file(name: str) -> bytes:
    """Read a file once: a file response reads 64 KB at a time, each in a thread, whoever asks."""
    return (_FILES / name).read_bytes()


@router.get("/docs/swagger-ui-bundle.js")
async def docs_script() -> Response:
    """Give Swagger UI's script."""
    return Response(_file("swagger-ui-bundle.js"), media_type="text/javascript", headers=_KEPT)


@router.get("/docs/swagger-ui.css")
async def docs_style() -> Response:
    """Give Swagger UI's style."""
    return Response(_file("swagger-ui.css"), media_type="text/css", headers=_KEPT)
