"""/v1/uploads: makes upload URLs. /v1/objects: serves objects in a folder by signed URLs."""

import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from enginehouse.audit.calls import note_concerned
from enginehouse.contracts.errors import Forbidden, RequestError
from enginehouse.contracts.names import JOB_ID_PATTERN
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.http.dependencies import AuthenticatedCaller, WiredGateway
from enginehouse.gateway.objects import Method, Objects, is_upload, upload_key
from enginehouse.gateway.tenants.limits import check_not_suspended
from enginehouse.web.openapi import body_schema, problems
from enginehouse.web.requests import NoQueryAllowed, read_model, refuse_encoded
from enginehouse.web.responses import json_answer

router = APIRouter(prefix="/v1", tags=["objects"])

_UPLOAD_SECONDS = 3_600


class UploadRequest(BaseModel):
    """The body of POST /v1/uploads."""

    model_config = ConfigDict(extra="forbid")

    content_type: Annotated[str, Field(max_length=100)] = Field(
        "application/octet-stream",
        description="application/json: the object is the job's input, as JSON. Otherwise the engine gets it as base64 text.",
    )


class Upload(BaseModel):
    """Where to PUT an object, and the key to name it by."""

    key: str = Field(description="Key to give as input_ref of a job.")
    url: str = Field(description="PUT the object at this URL, without the API key.")
    expires_at: float = Field(description="End of the URL's validity, in seconds since the epoch.")
    max_bytes: int


class SignedQuery(BaseModel):
    """Query of a signed URL."""

    model_config = ConfigDict(extra="forbid")

    expires: int
    signature: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    job: Annotated[str, Field(pattern=f"^{JOB_ID_PATTERN}$")] | None = None
    """Only while this job has not ended is the URL worth something."""


def _objects(gateway: Gateway) -> Objects:
    if gateway.objects is None:
        raise RequestError("This gateway has no object store: set ENGINEHOUSE_GATEWAY_OBJECTS_URL")
    return gateway.objects


@router.post(
    "/uploads",
    status_code=201,
    response_model=Upload,
    responses=problems(403, 413, 415, 429),
    openapi_extra=body_schema(UploadRequest),
    dependencies=[NoQueryAllowed],
)
async def create_upload(request: Request, gateway: WiredGateway, caller: AuthenticatedCaller) -> Response:
    """Make a key and a signed URL for an upload, which can then be the input of a job."""
    body = await read_model(request, UploadRequest)
    objects = _objects(gateway)
    check_not_suspended(caller)
    gateway.stored.check(caller.name)
    is_json = body.content_type.partition(";")[0].strip().lower() == "application/json"
    key = upload_key(caller.name, is_json=is_json)
    expires_at = time.time() + _UPLOAD_SECONDS
    upload = Upload(
        key=key, url=await objects.sign("PUT", key, expires_at), expires_at=expires_at, max_bytes=objects.max_bytes
    )
    return json_answer(upload, 201)


async def _check(gateway: Gateway, method: Method, key: str, query: SignedQuery) -> Objects:
    """Return the store, if the signature allows `method` on `key` and the job for which it was made goes on."""
    objects = _objects(gateway)
    objects.check(method, key, query.expires, query.signature, query.job)
    note_concerned(tenant=key.partition("/")[0])
    if query.job is not None and not _is_of_replay(gateway, query):
        await gateway.jobs.check_unfinished(query.job)
    return objects


@router.put(
    "/objects/{key:path}", status_code=201, responses=problems(403, 409, 413, 415, 429), include_in_schema=False
)
async def put_object(
    request: Request, gateway: WiredGateway, key: str, query: Annotated[SignedQuery, Query()]
) -> Response:
    """Write the object that the signature names, once."""
    objects = await _check(gateway, "PUT", key, query)
    is_kept = not _is_of_replay(gateway, query)
    refuse_encoded(request)
    if key.partition("/")[0] in gateway.tenants.removed:
        raise Forbidden("The tenant of this URL was removed")
    if is_upload(key):
        with gateway.stored.writing(key, _announced_size(request), at_most=objects.max_bytes) as room:
            room.size = await objects.put_once(key, request.stream())
    elif (size := await objects.put_once(key, request.stream())) and is_kept:
        gateway.stored.note(key, size)
    return Response(status_code=201)


def _is_of_replay(gateway: Gateway, query: SignedQuery) -> bool:
    """Say whether an output is one of a replay, which deletes it at once: nobody stores it."""
    return query.job is not None and gateway.replays.works_on(query.job)


def _announced_size(request: Request) -> int | None:
    """Return the size that the request announces; None if it announces none."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isdecimal() else None


@router.get("/objects/{key:path}", responses=problems(403, 404), include_in_schema=False)
async def get_object(gateway: WiredGateway, key: str, query: Annotated[SignedQuery, Query()]) -> Response:
    """Read the object that the signature names."""
    objects = await _check(gateway, "GET", key, query)
    chunks: AsyncIterator[bytes] = await objects.get(key)
    return StreamingResponse(
        chunks,
        media_type="application/json" if key.endswith(".json") else "application/octet-stream",
        # Browsers must never run objects of tenants and engines as content of the gateway's origin.
        headers={
            "Content-Disposition": "attachment",
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "X-Content-Type-Options": "nosniff",
        },
    )
