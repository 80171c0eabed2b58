"""Build an image in containers without a network, with bounded memory, processors, time and disk."""

import asyncio
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enginehouse.local.containers.docker import Docker
from enginehouse.local.environments import within_bounds

_MEMORY = "4g"
_PERIOD = 100_000
IMAGE_LABEL = "dev.enginehouse.image"


@dataclass(frozen=True, slots=True)
class Build:
    """An image to build."""

    name: str
    context: Mapping[str, Path | bytes]
    """The files that it may copy, by path: files of this machine, or their content."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    dockerfile: str = "Dockerfile"
    """Which of the files says how it is built."""
    labels: Mapping[str, str] = field(default_factory=dict)


async def build_image(docker: Docker, build: Build, on_line: Callable[[str], None]) -> None:
    """Build an image. Pass on what the build prints. Raise ToolFailed with its last lines, or if it exceeds its bounds."""
    with tempfile.TemporaryDirectory(prefix="enginehouse-build-") as folder:
        packed = Path(folder) / "context.tar"
        await asyncio.to_thread(_pack, build.context, packed)
        cores = os.cpu_count() or 1
        command = ["docker", "build", "--network=none", "--force-rm", f"--memory={_MEMORY}", f"--memory-swap={_MEMORY}"]
        command += [f"--cpu-period={_PERIOD}", f"--cpu-quota={cores * _PERIOD}", "--ulimit=nofile=8192:8192"]
        command += ["--tag", build.name, "--file", build.dockerfile]
        labels = {IMAGE_LABEL: "1", **build.labels}
        command += [part for name, value in labels.items() for part in ("--label", f"{name}={value}")]
        command += [part for name, value in build.arguments.items() for part in ("--build-arg", f"{name}={value}")]
        given = ["sh", "-c", 'context=$1; shift; exec "$@" - <"$context"', "sh", str(packed), *command]
        await within_bounds(docker.show(given, on_line), Path(folder))


def _pack(context: Mapping[str, Path | bytes], into: Path) -> None:
    """Write the files as Docker takes them: readable for everybody, whatever they are here, and alike for each build."""
    with tarfile.open(into, "w") as archive:
        folders = {parent for name in context for parent in Path(name).parents} - {Path(".")}
        for folder in sorted(folders):
            entry = tarfile.TarInfo(folder.as_posix())
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, content in context.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))
                continue
            with content.open("rb") as file:
                found = os.fstat(file.fileno())
                entry.size, entry.mode = found.st_size, 0o755 if found.st_mode & 0o100 else 0o644
                archive.addfile(entry, file)
