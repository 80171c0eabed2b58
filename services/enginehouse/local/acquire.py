"""Get a daprd if there is none: download the official release and check it, or build the Go module."""

import asyncio
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

import httpx2

from enginehouse.local import daprd
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard
from enginehouse.local.steps import Steps
from enginehouse.local.tools import ToolFailed, run_tool

RELEASES = "https://github.com/dapr/dapr/releases/download"
_MODULE = "github.com/dapr/dapr"
_KEY = "daprd"
_BUILD_TAG = "stablecomponents"
_NAMES_SOURCE = "cmd/daprd/components/nameresolution_sqlite.go"
"""Registers name resolution by an SQLite file, which sidecars of one machine use to call each other. Releases have it."""


async def get_daprd(guard: Guard, steps: Steps) -> Path:
    """Return a daprd of the right series: found here, downloaded, or built.

    Raise LocalError with remedies if none works.
    """
    found = await asyncio.to_thread(daprd.find)
    if found:
        steps.finish(_KEY, f"Dapr runtime: {found}")
        return found
    reasons = []
    for get in (_download, _build):
        try:
            binary = await get(guard, steps)
        except _WayFailed as reason:
            reasons.append(str(reason))
            continue
        steps.finish(_KEY, f"Dapr runtime: {binary}")
        return binary
    steps.finish(_KEY, "Dapr runtime: not found", ok=False)
    tried = "\n".join(f"- {reason}" for reason in reasons)
    raise LocalError(
        f"There is no daprd {daprd.SERIES} here, and none could be downloaded or built:\n{tried}", daprd.REMEDIES
    )


class _WayFailed(Exception):
    """One way of getting daprd does not work here. The text is the reason."""


def archive_url(version: str) -> str:
    """Return the URL of the official release archive for this machine. Its SHA-256 is published at `<URL>.sha256`."""
    system, architecture = daprd.go_platform()
    return f"{RELEASES}/v{version}/daprd_{system}_{architecture}.tar.gz"


async def _download(guard: Guard, steps: Steps) -> Path:
    version = daprd.RELEASE_VERSION
    url = archive_url(version)
    steps.update(_KEY, f"downloading daprd {version} from Dapr's releases")
    # A short limit to connect: where releases cannot be reached, the user should see it in seconds.
    timeout = httpx2.Timeout(60, connect=5)
    try:
        async with httpx2.AsyncClient(follow_redirects=True, timeout=timeout) as client:
            published = (await client.get(f"{url}.sha256")).raise_for_status().text.split()
            archive = await _fetch(client, url, steps)
    except httpx2.HTTPError as error:
        raise _WayFailed(f"{url} cannot be downloaded: {str(error) or type(error).__name__}") from None
    return install_archive(archive, published[0] if published else "", version)


async def _fetch(client: httpx2.AsyncClient, url: str, steps: Steps) -> bytes:
    content = bytearray()
    async with client.stream("GET", url) as answer:
        answer.raise_for_status()
        total = int(answer.headers.get("content-length", 0))
        async for part in answer.aiter_bytes():
            content += part
            steps.update(_KEY, "downloading daprd", len(content), total)
    return bytes(content)


def install_archive(archive: bytes, published_sha256: str, version: str) -> Path:
    """Put the daprd of a release archive into the cache, if the archive has the published SHA-256."""
    if hashlib.sha256(archive).hexdigest() != published_sha256.lower():
        raise LocalError(
            f"The release archive of daprd {version} does not have the SHA-256 that is published for it.",
            "Do not use it; try again from another network. " + daprd.REMEDIES,
        )
    target = daprd.cached_path(version)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".new-{os.getpid()}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        source = files.extractfile("daprd")
        if source is None:
            raise _WayFailed("the release archive holds no daprd")
        with fresh.open("wb") as file:
            shutil.copyfileobj(source, file)
    fresh.chmod(0o755)
    os.replace(fresh, target)
    return target


async def _build(guard: Guard, steps: Steps) -> Path:
    version = daprd.BUILD_VERSION
    go = shutil.which("go")
    if go is None:
        raise _WayFailed("it cannot be built: there is no go on PATH")
    began = time.monotonic()
    environment = {**os.environ, "CGO_ENABLED": "0"}
    steps.update(_KEY, f"building daprd {version} from its Go module (once; 5 to 10 minutes on 2 cores)")

    def downloading(line: str) -> None:
        steps.update(_KEY, f"building daprd {version}: {line[:80]}")

    try:
        described = await run_tool(
            [go, "mod", "download", "-json", f"{_MODULE}@v{version}"],
            guard,
            environment=environment,
            cwd=Path("/"),
            on_line=downloading,
        )
        with tempfile.TemporaryDirectory(prefix="daprd-") as temporary:
            # Built inside the module's own folder: the `replace` lines of its go.mod hold only there.
            folder = Path(temporary, "source")
            await asyncio.to_thread(copy_source, Path(json.loads(described)["Dir"]), folder)
            packages = await run_tool(
                [go, "list", "-deps", "-tags", _BUILD_TAG, "./cmd/daprd"],
                guard,
                environment=environment,
                cwd=folder,
                on_line=downloading,
            )
            binary = await _compile(go, folder, version, len(packages.splitlines()), environment, guard, steps)
    except ToolFailed as error:
        raise _WayFailed(f"it cannot be built:\n{error}") from None
    steps.update(_KEY, f"daprd {version} built in {time.monotonic() - began:.0f} s")
    return binary


def copy_source(module: Path, folder: Path) -> None:
    """Copy Dapr's source, and let the build have name resolution by SQLite, which is not among the stable components."""
    shutil.copytree(module, folder, copy_function=shutil.copyfile)
    for parent, _, _ in os.walk(folder):
        os.chmod(parent, 0o755)  # noqa: S103 - Go's module cache is read-only, and this copy is to be deleted
    source = folder / _NAMES_SOURCE
    source.write_text(source.read_text().replace("//go:build allcomponents\n", "", 1))


async def _compile(
    go: str, folder: Path, version: str, total: int, environment: dict[str, str], guard: Guard, steps: Steps
) -> Path:
    target = daprd.cached_path(daprd.BUILT)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".new-{os.getpid()}")
    done = 0

    def compiled(package: str) -> None:
        nonlocal done
        done += 1
        steps.update(_KEY, f"building daprd {version}: {package[:60]}", min(done, total), total)

    stamp = f"-s -w -X github.com/dapr/dapr/pkg/buildinfo.version={version}"
    command = [go, "build", "-v", "-tags", _BUILD_TAG, "-trimpath", "-ldflags", stamp, "-o", str(fresh)]
    try:
        await run_tool([*command, "./cmd/daprd"], guard, environment=environment, cwd=folder, on_line=compiled)
        os.replace(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)
    return target
