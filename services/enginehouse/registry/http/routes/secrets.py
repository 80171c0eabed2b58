"""/v1/engines/{engine}/secrets: sets the values of an engine's secrets. No answer and no log line shows one."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from enginehouse.contracts.json_text import read_body
from enginehouse.registry.http.dependencies import Caller, WiredRegistry, in_thread, note
from enginehouse.registry.http.routes.engines import EnginePath
from enginehouse.registry.secrets import VALUE_MAX_BYTES
from enginehouse.web.openapi import body_schema, problems
from enginehouse.web.requests import NoQueryAllowed, body_of, require_json
from enginehouse.web.responses import json_answer

router = APIRouter(prefix="/v1/engines/{engine}/secrets", tags=["engines"])

SecretPath = Annotated[str, Path(max_length=64, description="Its name, as in engine.yaml.")]
_BODY_MAX_BYTES = 8 * VALUE_MAX_BYTES
"""JSON may write one byte of a value as six."""


class SecretNames(BaseModel):
    """The secrets of an engine that have a value."""

    secrets: list[str]


class SecretValue(BaseModel):
    """The body of PUT /v1/engines/{engine}/secrets/{name}."""

    model_config = ConfigDict(extra="forbid")

    value: SecretStr = Field(description="1 to 65,536 bytes of UTF-8.")


class SecretIsSet(BaseModel):
    """A secret that has a value."""

    name: str
    changed: bool = Field(description="Whether it is another value than before. Then the engine restarts with it.")


@router.get("", response_model=SecretNames, responses=problems(403, 404), dependencies=[NoQueryAllowed])
async def list_secrets(registry: WiredRegistry, caller: Caller, engine: EnginePath) -> Response:
    """List the names of an engine's secrets that have a value."""
    return json_answer(SecretNames(secrets=await in_thread(registry.engines.secret_names, engine)))


@router.put(
    "/{name}",
    response_model=SecretIsSet,
    responses=problems(403, 404, 413, 415),
    openapi_extra=body_schema(SecretValue),
    dependencies=[NoQueryAllowed],
)
async def set_secret(
    request: Request, registry: WiredRegistry, caller: Caller, engine: EnginePath, name: SecretPath
) -> Response:
    """Set the value of a secret that the engine's engine.yaml names. A running engine restarts with another value."""
    require_json(request)
    body = read_body(SecretValue, await body_of(request, _BODY_MAX_BYTES))
    changed = await in_thread(registry.engines.set_secret, engine, name, body.value.get_secret_value())
    note(caller, f"sets the secret {name} of {engine}", "secret_set", engine_id=engine)
    return json_answer(SecretIsSet(name=name, changed=changed))


@router.delete("/{name}", status_code=204, responses=problems(403, 404), dependencies=[NoQueryAllowed])
async def remove_secret(registry: WiredRegistry, caller: Caller, engine: EnginePath, name: SecretPath) -> Response:
    """Forget the value of a secret. A running engine that names it stops, because it cannot start without."""
    await in_thread(registry.engines.remove_secret, engine, name)
    note(caller, f"forgets the secret {name} of {engine}", "secret_removed", engine_id=engine)
    return Response(status_code=204)
