"""Deploys an engine to another Enginehouse, through the API of its registry."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2

from enginehouse.cli.environments import Environment
from enginehouse.client.errors import from_answer
from enginehouse.contracts.errors import Forbidden, Unauthenticated
from enginehouse.local.deployment import NotWorking
from enginehouse.local.errors import LocalError
from enginehouse.local.steps import Steps
from enginehouse.registry.bundle import ENGINE_FILE, adjusted, read_spec
from enginehouse.registry.content import deployed_files
from enginehouse.registry.engines import Settings
from enginehouse.registry.unpack import pack

_LOOK_SECONDS = 0.5
_CHUNK = 256 * 1024
_UPLOAD_SECONDS = 600


async def deploy_to(
    place: Environment,
    folder: Path,
    settings: Settings,
    steps: Steps,
    *,
    promote: bool,
    wait: bool,
    timeout_seconds: float | None,
) -> dict[str, Any]:
    """Deploy the engine in `folder`, and return what the registry says of the version; with `wait`, once it works.

    `settings` override those of its engine.yaml.
    Raise InvalidBundle for a folder that cannot be deployed anywhere, what the registry refuses with, and NotWorking
    with the reason if the version does not work there.
    """
    spec = adjusted(read_spec(folder / ENGINE_FILE), settings)
    files = deployed_files(folder)
    async with _connected(place) as http:
        with tempfile.TemporaryDirectory(prefix="enginehouse-deploy-") as scratch:
            archive = Path(scratch) / "upload.zip"
            if settings:
                files[ENGINE_FILE] = Path(scratch) / ENGINE_FILE
                files[ENGINE_FILE].write_text(spec.model_dump_json(exclude_unset=True))
            steps.update(spec.id, f"packing {spec.id}")
            await asyncio.to_thread(pack, files, archive)
            query = {"promote": str(promote).lower()}
            size = archive.stat().st_size
            headers = {"Content-Type": "application/zip", "Content-Length": str(size)}
            body = _shown(archive, size, spec.id, steps)
            deployed = _content(await http.post("/v1/engines", params=query, content=body, headers=headers))
        if wait:
            await _until_works(http, deployed, steps, promote=promote, timeout_seconds=timeout_seconds)
    return deployed


@asynccontextmanager
async def _connected(place: Environment) -> AsyncIterator[httpx2.AsyncClient]:
    key = {"Authorization": f"Bearer {place.key.get_secret_value()}"}
    async with httpx2.AsyncClient(base_url=place.url, headers=key, timeout=_UPLOAD_SECONDS) as http:
        try:
            yield http
        except (Unauthenticated, Forbidden) as error:
            raise LocalError(f"{place.url}: {error}.", "'enginehouse environments add' takes another key.") from None
        except httpx2.ReadTimeout:
            raise LocalError(
                f"{place.url} has not answered for {_UPLOAD_SECONDS / 60:g} minutes, and may still fetch the engine's files.",
                "Look there whether the version comes, or deploy it again later.",
            ) from None
        except httpx2.HTTPError as error:
            why = str(error) or type(error).__name__
            raise LocalError(f"{place.url} cannot be reached: {why}.", "Is its registry up?") from None


async def _shown(archive: Path, size: int, engine: str, steps: Steps) -> AsyncIterator[bytes]:
    """Yield the content of a file, and show how much of it was sent."""
    sent = 0
    async with await anyio.open_file(archive, "rb") as file:
        while chunk := await file.read(_CHUNK):
            sent += len(chunk)
            yield chunk
            steps.update(engine, f"sending {engine}", sent, size)


def _content(answer: httpx2.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise from_answer(answer.status_code, answer.content, answer.headers.get("retry-after"))
    content: dict[str, Any] = answer.json()
    return content


async def _until_works(
    http: httpx2.AsyncClient, deployed: dict[str, Any], steps: Steps, *, promote: bool, timeout_seconds: float | None
) -> None:
    """Wait until the version gets the engine's jobs and runs, or runs on trial if it is to stay there."""
    engine, began = deployed["id"], time.monotonic()
    while True:
        doing = _progress(_content(await http.get(f"/v1/engines/{engine}")), deployed, promote=promote)
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
    if found["problem"] and found["state"] in ("failed", "running"):
        raise NotWorking(f"{engine} does not work:", found["problem"])
    if found["state"] != "running":
        return str(found["doing"] or found["problem"] or "starting")
    return "taking over" if on_trial and promote else None
