"""/v1/engines: deploys engines, shows their versions, and changes which of them gets the jobs."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from enginehouse.contracts.names import Slot
from enginehouse.registry.admission import without_effect
from enginehouse.registry.bundle import InvalidBundle
from enginehouse.registry.engines import Deployed, allowed_by
from enginehouse.registry.http.dependencies import Caller, Registry, WiredRegistry, in_thread, note
from enginehouse.registry.http.uploads import UPLOAD_TYPES, uploaded_folder
from enginehouse.registry.views import Difference, EngineView, engine_view
from enginehouse.web.openapi import problems
from enginehouse.web.requests import NoQueryAllowed
from enginehouse.web.responses import json_answer

router = APIRouter(prefix="/v1", tags=["engines"])

EnginePath = Annotated[str, Path(max_length=64, description="The engine's id, `<tenant>--<engine>`.")]


class EngineList(BaseModel):
    """All engines that are deployed."""

    engines: list[EngineView]


class DeployedVersion(BaseModel):
    """The version of an engine that a call has deployed, promoted or brought back."""

    id: str
    version: str
    slot: Slot
    changed: bool
    warnings: list[str] = Field(description="Settings of its engine.yaml that have no effect where it runs.")


class DeployQuery(BaseModel):
    """Query of POST /v1/engines."""

    model_config = ConfigDict(extra="forbid")

    promote: bool = True
    """Whether the version takes over once it is fit to. Otherwise it stays on trial."""


@router.get("/engines", response_model=EngineList, responses=problems(403), dependencies=[NoQueryAllowed])
async def list_engines(registry: WiredRegistry, caller: Caller) -> Response:
    """List the deployed engines with their versions."""
    what_runs = registry.what_runs()
    bundles = await in_thread(registry.engines.all_bundles)
    return json_answer(EngineList(engines=await in_thread(lambda: [engine_view(one, what_runs) for one in bundles])))


@router.get("/engines/{engine}", response_model=EngineView, responses=problems(403, 404), dependencies=[NoQueryAllowed])
async def read_engine(registry: WiredRegistry, caller: Caller, engine: EnginePath) -> Response:
    """Show an engine's versions, and how each of them is."""
    return json_answer(await in_thread(engine_view, registry.engines.bundle_of(engine), registry.what_runs()))


class EngineDifferences(BaseModel):
    """What of an engine is not in the cluster as its bundle says."""

    id: str
    differences: list[Difference] = Field(description="Nothing: the cluster has exactly what is wanted.")


@router.get(
    "/engines/{engine}/diff",
    response_model=EngineDifferences,
    responses=problems(403, 404, 409),
    dependencies=[NoQueryAllowed],
)
async def diff_engine(registry: WiredRegistry, caller: Caller, engine: EnginePath) -> Response:
    """Show what of an engine differs in the Kubernetes cluster that this registry deploys into. Secrets are left out."""
    await in_thread(registry.engines.bundle_of, engine)
    return json_answer(EngineDifferences(id=engine, differences=await registry.in_cluster().differences(engine)))


@router.post(
    "/engines",
    status_code=201,
    response_model=DeployedVersion,
    responses={
        200: {"description": "It was deployed before, exactly like this.", "model": DeployedVersion},
        202: {"description": "The version comes up beside the one that serves.", "model": DeployedVersion},
        **problems(403, 409, 413, 415),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in UPLOAD_TYPES[:2]},
        }
    },
)
async def deploy_engine(
    request: Request, registry: WiredRegistry, caller: Caller, query: Annotated[DeployQuery, Query()]
) -> Response:
    """Deploy the engine whose folder, as zip or tar.gz, is the body. A new version takes over once it is fit to."""
    async with uploaded_folder(request, registry) as folder:
        try:
            deployed = await registry.as_deployer(registry.engines.deploy, folder, promote=query.promote)
        except InvalidBundle as error:
            raise InvalidBundle(str(error).replace(f"{folder}/", "").replace(str(folder), "the upload")) from None
    if deployed.changed:
        what = f"deploys {deployed.spec.id} {deployed.spec.version} into slot {deployed.slot}"
        note(caller, what + allowed_by(deployed), "engine_deployed", engine_id=deployed.spec.id)
    versions = await in_thread(engine_view, registry.engines.bundle_of(deployed.spec.id), registry.what_runs())
    is_first = versions.active is not None and versions.active.slot == deployed.slot
    return _answer(registry, deployed, 200 if not deployed.changed else 201 if is_first else 202)


@router.post(
    "/engines/{engine}/promote",
    response_model=DeployedVersion,
    responses=problems(403, 404, 409),
    dependencies=[NoQueryAllowed],
)
async def promote(registry: WiredRegistry, caller: Caller, engine: EnginePath) -> Response:
    """Give the version on trial the engine's jobs. The version before ends those that it has."""
    promoted = await registry.as_deployer(registry.engines.promote, engine, registry.what_runs())
    note(caller, f"promotes {engine} {promoted.spec.version}", "engine_promoted", engine_id=engine)
    return _answer(registry, promoted, 200)


@router.post(
    "/engines/{engine}/rollback",
    status_code=202,
    response_model=DeployedVersion,
    responses=problems(403, 404, 409),
    dependencies=[NoQueryAllowed],
)
async def roll_back(registry: WiredRegistry, caller: Caller, engine: EnginePath) -> Response:
    """Go back to the version before the active one: it comes up beside it, and takes over once it is fit to."""
    brought_back = await registry.as_deployer(registry.engines.roll_back, engine)
    what = f"goes back to {engine} {brought_back.spec.version}{allowed_by(brought_back)}"
    note(caller, what, "engine_rolled_back", engine_id=engine)
    return _answer(registry, brought_back, 202)


@router.delete(
    "/engines/{engine}",
    status_code=202,
    response_model=EngineView,
    responses=problems(403, 404),
    dependencies=[NoQueryAllowed],
)
async def remove_engine(registry: WiredRegistry, caller: Caller, engine: EnginePath) -> Response:
    """Remove an engine: new jobs are refused, unfinished ones end as canceled, and then all that is left of it is deleted."""
    bundle = registry.engines.bundle_of(engine)
    await registry.as_deployer(registry.engines.remove, engine)
    note(caller, f"removes {engine}", "engine_removed", engine_id=engine)
    return json_answer(await in_thread(engine_view, bundle, registry.what_runs()), 202)


def _answer(registry: Registry, deployed: Deployed, status: int) -> Response:
    spec = deployed.spec
    body = DeployedVersion(
        id=spec.id,
        version=spec.version,
        slot=deployed.slot,
        changed=deployed.changed,
        warnings=without_effect(
            spec, in_containers=registry.engines.in_containers, in_cluster=registry.engines.in_cluster
        ),
    )
    return json_answer(body, status, {"Location": f"/v1/engines/{spec.id}"})
