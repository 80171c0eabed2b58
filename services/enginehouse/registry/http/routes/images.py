"""/v1/images: takes what an operator's policy demands of images: their signatures, and their scan reports."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from enginehouse.contracts.errors import WrongState
from enginehouse.registry.http.dependencies import Caller, WiredRegistry, in_thread, note
from enginehouse.supply.evidence import put_evidence
from enginehouse.supply.files import EVIDENCE_MAX_BYTES, EvidenceKind
from enginehouse.web.openapi import problems
from enginehouse.web.requests import NoQueryAllowed, body_of, require_json

router = APIRouter(prefix="/v1/images", tags=["images"])

DigestPath = Annotated[str, Path(max_length=80, description="The digest by which engine.yaml names the image.")]


class NoSupplyFolder(WrongState):
    """This registry keeps no signatures and scan reports."""

    code = "NO_SUPPLY_FOLDER"
    advice = "Set ENGINEHOUSE_REGISTRY_SUPPLY_DIR; docs/supply.md says what belongs there."


@router.put(
    "/{digest}/{kind}",
    status_code=204,
    responses=problems(403, 409, 413, 415),
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}},
    dependencies=[NoQueryAllowed],
)
async def put(
    request: Request, registry: WiredRegistry, caller: Caller, digest: DigestPath, kind: EvidenceKind
) -> Response:
    """Keep a signature (cosign) of an image beside its others, or its newest scan report (trivy, grype). What runs is judged by them at once."""
    require_json(request)
    folder = registry.settings.supply_dir
    if folder is None:
        raise NoSupplyFolder()
    await in_thread(put_evidence, folder, digest, kind, await body_of(request, EVIDENCE_MAX_BYTES[kind]))
    note(caller, f"gives the {kind} of {digest}", "evidence_set")
    return Response(status_code=204)
