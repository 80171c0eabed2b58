"""Has endpoints of its own: they show what arrives, and answer what a page of ours must not pass on."""

import json
import os
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

app = FastAPI(title="Extras")
updates: list[Any] = []


@app.get("/healthz", include_in_schema=False)
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/predict")
async def predict(body: dict[str, Any]) -> dict[str, Any]:
    return {"result": body["data"]}


@app.get("/info")
async def info() -> dict[str, Any]:
    return {"port": os.environ["PORT"], "updates": updates}


@app.post("/update")
async def update(request: Request) -> dict[str, Any]:
    updates.append(await request.json())
    return {"result": len(updates)}


@app.get("/page", summary="A page with a script")
async def page() -> Response:
    headers = {
        "Set-Cookie": "session=stolen",
        "Content-Security-Policy": "default-src *",
        "Clear-Site-Data": '"*"',
        "X-Accel-Redirect": "/etc/passwd",
        "X-Enginehouse-Engine": "somebody--elses",
        "ETag": '"1"',
    }
    return Response("<script>alert(1)</script>", media_type="text/html", headers=headers)


@app.get("/elsewhere", summary="A redirect")
async def elsewhere() -> Response:
    return Response(status_code=307, headers={"Location": "http://127.0.0.1:1/"})


@app.get("/broken", summary="Fails")
async def broken() -> Response:
    return Response(
        json.dumps({"errorCode": "ERR_DIRECT_INVOKE", "message": "mine"}), 503, media_type="application/json"
    )


@app.get("/much", summary="Answers as many bytes as asked for")
async def much(count: int) -> Response:
    return Response(b"x" * count, media_type="application/octet-stream")


@app.api_route("/echo/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def echo(path: str, request: Request) -> Response:
    body = await request.body()
    seen = {
        "method": request.method,
        "path": path,
        "query": request.url.query,
        "headers": dict(request.headers),
        "body": body.decode("latin-1"),
    }
    return Response(json.dumps(seen), 201, media_type="application/vnd.mine+json")


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
