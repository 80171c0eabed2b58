"""/v1/uploads, and the signed routes to objects in a folder."""

import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from enginehouse.contracts.errors import RequestError
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.http.answers import json_answer
from enginehouse.gateway.http.dependencies import (
    AuthenticatedCaller,
    NoQueryAllowed,
    WiredGateway,
    body_schema,
    problems,
    read_model,
)
from enginehouse.gateway.objects import Objects, upload_key

router = APIRouter(prefix="/v1", tags=["objects"])

_UPLOAD_SECONDS = 3_600


class UploadRequest(BaseModel):
    """The body of POST /v1/uploads."""

    model_config = ConfigDict(extra="forbid")

    content_type: Annotated[str, Field(max_length=100)] = Field(
        "application/octet-stream",
        description="application/json: the object is a job's input. Else: the engine gets it as base64 text.",
    )


class Upload(BaseModel):
    """Where to PUT an object, and the key to name it by."""

    key: str = Field(description="What input_ref of a job takes.")
    url: str = Field(description="PUT the object here, without the API key.")
    expires_at: float = Field(description="Until when, in seconds since the epoch.")
    max_bytes: int


class SignedQuery(BaseModel):
    """What a signed URL carries."""

    model_config = ConfigDict(extra="forbid")

    expires: int
    signature: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _objects(gateway: Gateway) -> Objects:
    if gateway.objects is None:
        raise RequestError("This gateway has no object store: set ENGINEHOUSE_GATEWAY_OBJECTS_URL")
    return gateway.objects


@router.post(
    "/uploads",
    status_code=201,
    response_model=Upload,
    responses=problems(413),
    openapi_extra=body_schema(UploadRequest),
    dependencies=[NoQueryAllowed],
)
async def create_upload(request: Request, gateway: WiredGateway, caller: AuthenticatedCaller) -> Response:
    """Make a key of the caller's own and a signed URL: large inputs come in this way."""
    body = await read_model(request, UploadRequest)
    objects = _objects(gateway)
    is_json = body.content_type.partition(";")[0].strip().lower() == "application/json"
    key = upload_key(caller.name, is_json=is_json)
    expires_at = time.time() + _UPLOAD_SECONDS
    upload = Upload(
        key=key, url=await objects.sign("PUT", key, expires_at), expires_at=expires_at, max_bytes=objects.max_bytes
    )
    return json_answer(upload, 201)


@router.put("/objects/{key:path}", status_code=201, responses=problems(403, 413), include_in_schema=False)
async def put_object(
    request: Request, gateway: WiredGateway, key: str, query: Annotated[SignedQuery, Query()]
) -> Response:
    """Write the object that the signature names."""
    objects = _objects(gateway)
    objects.check("PUT", key, query.expires, query.signature)
    await objects.put(key, request.stream())
    return Response(status_code=201)


@router.get("/objects/{key:path}", responses=problems(403, 404), include_in_schema=False)
async def get_object(gateway: WiredGateway, key: str, query: Annotated[SignedQuery, Query()]) -> Response:
    """Read the object that the signature names."""
    objects = _objects(gateway)
    objects.check("GET", key, query.expires, query.signature)
    chunks: AsyncIterator[bytes] = await objects.get(key)
    return StreamingResponse(
        chunks,
        media_type="application/json" if key.endswith(".json") else "application/octet-stream",
        # Objects of tenants and engines must never run on the gateway's origin.
        headers={
            "Content-Disposition": "attachment",
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "X-Content-Type-Options": "nosniff",
        },
    )
