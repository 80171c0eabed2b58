"""Deploys an engine to another Enginehouse, through the API of its registry."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2

from enginehouse.cli.environments import Environment
from enginehouse.cli.evidence import Evidence, send_evidence
from enginehouse.cli.registry_calls import connected_to, content_of
from enginehouse.local.deployment import NotWorking
from enginehouse.local.steps import Steps
from enginehouse.registry.bundle import ENGINE_FILE, adjusted, read_spec
from enginehouse.registry.content import deployed_files
from enginehouse.registry.engines import Settings
from enginehouse.registry.unpack import pack

_LOOK_SECONDS = 0.5
_CHUNK = 256 * 1024


async def deploy_to(
    place: Environment,
    folder: Path,
    settings: Settings,
    evidence: tuple[str, Evidence],
    steps: Steps,
    *,
    promote: bool,
    wait: bool,
    timeout_seconds: float | None,
) -> dict[str, Any]:
    """Deploy the engine in `folder`, and return what the registry says of the version; with `wait`, once it works.

    `settings` override those of its engine.yaml. `evidence` is what is known of its image, with the image's digest.
    Raise InvalidBundle for a folder that cannot be deployed anywhere, what the registry refuses with, and NotWorking
    with the reason if the version does not work there.
    """
    spec = adjusted(read_spec(folder / ENGINE_FILE), settings)
    files = deployed_files(folder)
    async with connected_to(place.url, place.key) as http:
        with tempfile.TemporaryDirectory(prefix="enginehouse-deploy-") as scratch:
            archive = Path(scratch) / "upload.zip"
            if settings:
                files[ENGINE_FILE] = Path(scratch) / ENGINE_FILE
                files[ENGINE_FILE].write_text(spec.model_dump_json(exclude_unset=True))
            steps.update(spec.id, f"packing {spec.id}")
            await asyncio.to_thread(pack, files, archive)
            await send_evidence(http, *evidence)
            query = {"promote": str(promote).lower()}
            size = archive.stat().st_size
            headers = {"Content-Type": "application/zip", "Content-Length": str(size)}
            body = _shown(archive, size, spec.id, steps)
            deployed = content_of(await http.post("/v1/engines", params=query, content=body, headers=headers))
        if wait:
            await _until_works(http, deployed, steps, promote=promote, timeout_seconds=timeout_seconds)
    return deployed


async def change_at(
    place: Environment, engine: str, change: str, steps: Steps, timeout_seconds: float | None
) -> dict[str, Any]:
    """Promote the version on trial (`promote`) or go back to the one before (`rollback`), and wait until it serves.

    Return what the registry says of the version. Raise what the registry refuses with, and NotWorking.
    """
    async with connected_to(place.url, place.key) as http:
        changed = content_of(await http.post(f"/v1/engines/{engine}/{change}"))
        await _until_works(http, changed, steps, promote=True, timeout_seconds=timeout_seconds)
    return changed


async def _shown(archive: Path, size: int, engine: str, steps: Steps) -> AsyncIterator[bytes]:
    """Yield the content of a file, and show how much of it was sent."""
    sent = 0
    async with await anyio.open_file(archive, "rb") as file:
        while chunk := await file.read(_CHUNK):
            sent += len(chunk)
            yield chunk
            steps.update(engine, f"sending {engine}", sent, size)


async def _until_works(
    http: httpx2.AsyncClient, deployed: dict[str, Any], steps: Steps, *, promote: bool, timeout_seconds: float | None
) -> None:
    """Wait until the version gets the engine's jobs and runs, or runs on trial if it is to stay there."""
    engine, began = deployed["id"], time.monotonic()
    while True:
        doing = _progress(content_of(await http.get(f"/v1/engines/{engine}")), deployed, promote=promote)
        if doing is None:
            return
        steps.update(engine, f"{engine}: {doing}")
        if timeout_seconds is not None and time.monotonic() - began > timeout_seconds:
            raise NotWorking(f"{engine} does not work after {timeout_seconds:g} s.", doing)
        await asyncio.sleep(_LOOK_SECONDS)


def _progress(view: dict[str, Any], deployed: dict[str, Any], *, promote: bool) -> str | None:
    """Say what a version waits for; None once it works. Raise NotWorking if it cannot."""
    engine, version, slot = deployed["id"], deployed["version"], deployed["slot"]
    on_trial = view["trial"] is not None and view["trial"]["slot"] == slot
    found = view["trial"] if on_trial else view["active"]
    if view["problem"]:
        raise NotWorking(f"{engine} cannot be used there:", view["problem"])
    if found is None or (found["slot"], found["version"]) != (slot, version):
        raise NotWorking(
            f"{engine} {version} is not tried any longer:", "Another was deployed, or it was taken off trial."
        )
    if found["problem"] and found["state"] in ("failed", "running", "quarantined"):
        raise NotWorking(f"{engine} does not work:", found["problem"])
    if found["state"] != "running":
        return str(found["doing"] or found["problem"] or "starting")
    return "taking over" if on_trial and promote else None
