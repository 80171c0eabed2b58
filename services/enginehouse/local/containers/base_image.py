"""Make the image that all others begin with: Debian, Python and uv, from a registry or from Debian's packages."""

import asyncio
import json
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from enginehouse.file_locks import only_one
from enginehouse.local.containers.build import Build, build_image
from enginehouse.local.containers.docker import Docker
from enginehouse.local.containers.hardening import USER
from enginehouse.local.daprd import cache_folder
from enginehouse.local.errors import LocalError
from enginehouse.local.interpreters import find_uv
from enginehouse.local.steps import Steps
from enginehouse.local.tools import ToolFailed, run_tool

PYTHON_IMAGE = "enginehouse/python"
SITE = "/site-packages"
"""Leads to the folder from which the image's Python imports packages."""
_DEBIAN, _DEBIANS_PYTHON = "bookworm", "3.11"
_PULL_SECONDS = 300
_LOOK = """
import json, os, platform, sys
print(json.dumps({"python": platform.python_version(), "glibc": os.confstr("CS_GNU_LIBC_VERSION").split()[-1],
    "machine": platform.machine()}))
"""
_DOCKERFILE = """\
ARG ROOT
FROM ${ROOT}
COPY uv /usr/local/bin/uv
RUN command -v python >/dev/null || ln -s "$(command -v python3)" /usr/local/bin/python; \\
    rm -f /usr/lib/python3*/EXTERNALLY-MANAGED; \\
    groupadd --gid 3000 engine && useradd --uid 1000 --gid 3000 --home-dir /tmp --no-create-home engine; \\
    packages="$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \\
    mkdir -p "$packages" && ln -s "$packages" /site-packages
ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0 PORT=8000
WORKDIR /engine
"""


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image with a Python, and what must be known of it to bring packages that fit."""

    name: str
    identity: str
    """Differs from that of any image with other content."""
    python: str
    glibc: str
    machine: str

    @property
    def uv_platform(self) -> str:
        """Return what uv calls its platform."""
        return f"{self.machine}-manylinux_{self.glibc.replace('.', '_')}"


async def base_image(docker: Docker, python: str | None, steps: Steps) -> BaseImage:
    """Return the image with this version of Python (by default the one that runs this), made if it is missing.

    Raise LocalError if it cannot be made.
    """
    wanted = ".".join((python or platform.python_version()).split(".")[:2])
    name = f"{PYTHON_IMAGE}:{wanted}"
    async with only_one(cache_folder() / "images" / f"python-{wanted}.lock"):  # Engines start at the same time.
        if not await docker.has_image(name):
            await _make(docker, wanted, name, steps)
    identity = (await docker("image", "inspect", "--format", "{{.Id}}", name)).strip()
    sealed = ["--network=none", "--read-only", "--cap-drop=ALL", f"--user={USER}", "--log-driver=none"]
    found = json.loads(await docker("run", "--rm", *sealed, name, "python", "-I", "-c", _LOOK))
    return BaseImage(name, identity, **found)


async def _make(docker: Docker, python: str, name: str, steps: Steps) -> None:
    key = f"base image {python}"
    steps.update(key, f"making the image {name}")
    try:
        origin = await _origin(docker, python, key, steps)
        context: dict[str, Path | bytes] = {"Dockerfile": _DOCKERFILE.encode(), "uv": find_uv().resolve()}
        await build_image(docker, Build(name, context, {"ROOT": origin}), lambda line: steps.update(key, line))
    except ToolFailed as error:
        steps.finish(key, f"the image {name} cannot be made", ok=False)
        raise LocalError(f"The image {name} cannot be made:\n{error}", "See docs/containers.md.") from None
    steps.finish(key, f"image {name} made")


async def _origin(docker: Docker, python: str, key: str, steps: Steps) -> str:
    """Return an image with this Python: a registry's, or one that is made from Debian's packages."""
    image = f"python:{python}-slim"
    steps.update(key, f"pulling {image}")
    try:
        async with asyncio.timeout(_PULL_SECONDS):
            await docker("pull", "--quiet", image)
        return image
    except (ToolFailed, TimeoutError) as error:
        pulled = f"{image} cannot be pulled: {str(error).strip() or 'it takes too long'}"
    if python != _DEBIANS_PYTHON:
        raise ToolFailed(f"{pulled}\nWithout a registry there is only Python {_DEBIANS_PYTHON}, Debian's own.")
    if shutil.which("debootstrap") is None or os.getuid() != 0:
        raise ToolFailed(
            f"{pulled}\nMaking it from Debian's packages needs root and debootstrap (apt-get install debootstrap)."
        )
    steps.update(key, "bringing Debian's packages (about a minute)")
    name = f"{PYTHON_IMAGE}-{_DEBIAN}"
    with tempfile.TemporaryDirectory(prefix="enginehouse-debian-") as folder:
        arguments = ["--variant=minbase", "--include=python3", _DEBIAN, folder]
        # Its packages bring files that everybody must be able to read, also where the umask says otherwise.
        command = ["sh", "-c", 'umask 022; exec debootstrap "$@"', "sh", *arguments]
        await run_tool(command, docker.guard, environment={"PATH": os.environ["PATH"]}, cwd=Path(folder))
        pipe = 'tar -C "$1" --exclude=./var/cache/apt --exclude=./var/lib/apt/lists -c . | docker import - "$2" >&2'
        await docker.show(["sh", "-c", pipe, "sh", folder, name], lambda _: None)
    return name
