"""Make the image of an engine: what its requirements name is brought on the host, and its folder is built without a network."""

import asyncio
import hashlib
import json
import re
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.program import Program, has_digest
from enginehouse.file_locks import only_one
from enginehouse.local.checkout import root
from enginehouse.local.containers.base_image import SITE, BaseImage, base_image
from enginehouse.local.containers.build import Build, build_image
from enginehouse.local.containers.docker import Docker
from enginehouse.local.containers.dockerfile import images_of
from enginehouse.local.containers.hardening import USER
from enginehouse.local.daprd import cache_folder
from enginehouse.local.environments import EnvironmentFailed, copy_files, environment_key, needs_our_package
from enginehouse.local.errors import LocalError
from enginehouse.local.interpreters import Interpreter, find_uv, uv_environment
from enginehouse.local.steps import Steps, tools_lines
from enginehouse.local.tools import ToolFailed, run_tool
from enginehouse.registry.bundle import InvalidBundle
from enginehouse.registry.content import deployed_files, files_hash
from enginehouse.registry.requirements import UV_CONFIG, environment_files

DOCKERFILE = "Dockerfile"
PACKAGES_NAME = "enginehouse/packages"
PACKAGES_LABEL = "dev.enginehouse.packages"
"""Names, on the image of an engine, the image with its packages."""
_ENGINE_NAME = "enginehouse/engine"
_GENERIC = ".enginehouse.Dockerfile"
"""Name of our own Dockerfile among an engine's files, of which none begins with a dot."""
_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
"""Without one of these a folder cannot be built as a package."""
_UV_SETTINGS = {
    "constraint-dependencies",
    "exclude-dependencies",
    "extra-index-url",
    "index",
    "index-strategy",
    "index-url",
    "override-dependencies",
    "prerelease",
    "resolution",
}
_SHEBANG = re.compile(rb"\A#!.*python[^\n]*")
_PACKAGES = f"""\
ARG BASE
FROM ${{BASE}}
COPY site {SITE}/
COPY bin /usr/local/bin/
RUN python -m compileall -q -j 0 {SITE}/ || true
# The build of an engine has no network: whatever is not here is missing, and said to be at once.
ENV UV_OFFLINE=1 PIP_NO_INDEX=1
"""


@dataclass(frozen=True, slots=True)
class EngineImage:
    """An image that the containers of an engine are made from."""

    name: str
    """By its digest, as engine.yaml says, or the name that we gave it."""
    identity: str
    """`sha256:…`, the Docker Engine's own, which nothing can lead elsewhere: what containers are made from."""

    @property
    def digest(self) -> str:
        """Return what tells it from every other image: as engine.yaml says it, or its identity."""
        return self.name if has_digest(self.name) else self.identity

    @property
    def is_ours(self) -> bool:
        """Say whether we built it."""
        return self.name.startswith(f"{_ENGINE_NAME}:") and not has_digest(self.name)


@dataclass(frozen=True, slots=True)
class Images:
    """Makes and finds the images of one Docker Engine."""

    docker: Docker

    async def named_by(self, spec: EngineSpec) -> EngineImage:
        """Return the image that an engine.yaml names by its digest. Raise LocalError if it cannot be used."""
        assert spec.image
        if not await self.docker.has_image(spec.image):
            raise LocalError(
                f"The image of {spec.id}, {spec.image}, is not on this machine any longer.",
                f"Type: docker pull {spec.image}",
            )
        return await self._without_volumes(spec, spec.image)

    async def built_from(self, spec: EngineSpec, source: Path, base: BaseImage, steps: Steps) -> EngineImage:
        """Return the image of the version of an engine whose files lie in `source`, built if it is missing.

        It begins with `base`, or with that of the Python that its engine.yaml names.
        Raise LocalError or InvalidBundle if there can be none.
        """
        files = await asyncio.to_thread(deployed_files, source)
        if spec.program is None and DOCKERFILE not in files:
            raise _no_image(spec)
        if spec.python:
            base = await base_image(self.docker, spec.python, steps)
        packages = await self._packages(spec, source, base, steps)
        return await self._without_volumes(spec, await self._build(spec, files, packages, steps))

    async def _without_volumes(self, spec: EngineSpec, name: str) -> EngineImage:
        """Return an image that containers may be made from. Each image of an engine passes here, whoever made it.

        Raise LocalError if it brings a place to write to, which would be without bounds.
        """
        found = json.loads(await self.docker("image", "inspect", name))[0]
        image = EngineImage(name, found["Id"])
        if volumes := found["Config"]["Volumes"]:
            raise LocalError(
                f"The image of {spec.id} has volumes: {', '.join(sorted(volumes))}.",
                "Remove VOLUME from its Dockerfile: an engine may write to /tmp only.",
            )
        return image

    async def _packages(self, spec: EngineSpec, source: Path, base: BaseImage, steps: Steps) -> str:
        """Return the image with the packages that an engine requires, made if it is missing."""
        program = spec.program or Program(["python"], requirements=_requirements(source))
        if not program.is_python:
            return base.name
        files = await asyncio.to_thread(environment_files, source, program.requirements, program.wheel)
        interpreter = Interpreter("", f"{base.python} {base.identity}")
        with_ours = needs_our_package(spec)
        make_key = partial(environment_key, interpreter, program, files, with_ours=with_ours)
        key = hashlib.sha256(f"{await asyncio.to_thread(make_key)} {_PACKAGES}".encode()).hexdigest()[:24]
        image = f"{PACKAGES_NAME}:{key}"
        async with only_one(cache_folder() / "images" / f"{key}.lock"):
            if not await self.docker.has_image(image):
                await self._build_packages(spec, program, files, base, image, steps)
        return image

    async def _build_packages(
        self, spec: EngineSpec, program: Program, files: dict[str, Path], base: BaseImage, image: str, steps: Steps
    ) -> None:
        key = f"{spec.id} packages"
        steps.update(key, f"bringing the packages of {spec.id}")
        show = tools_lines(steps, key, f"packages of {spec.id}")
        try:
            with tempfile.TemporaryDirectory(prefix="enginehouse-packages-") as folder:
                site = Path(folder) / "site"
                await asyncio.to_thread(copy_files, harmless(files), site.with_name("inputs"))
                await self._bring(program, base, site, with_ours=needs_our_package(spec), show=show)
                context = await asyncio.to_thread(_packages_context, site)
                await build_image(self.docker, Build(image, context, {"BASE": base.name}), show)
        except ToolFailed as error:
            steps.finish(key, f"packages of {spec.id} failed", ok=False)
            raise EnvironmentFailed(
                f"The requirements of {spec.id} cannot be brought for Python {base.python} in a container:\n{error}",
                "For containers, all of them must be wheels: what must be built would run its author's code on this machine.",
            ) from None
        steps.finish(key, f"packages of {spec.id} brought")

    async def _bring(
        self,
        program: Program,
        base: BaseImage,
        site: Path,
        *,
        with_ours: bool,
        show: Callable[[str], None],
    ) -> None:
        """Unpack the wheels that the image's Python needs into `site`. No code of theirs runs.

        The files that the requirements consist of lie in `inputs` beside it.
        """
        uv, wheels, inputs = str(find_uv()), site.with_name("wheels"), site.with_name("inputs")

        async def run_uv(*arguments: str, cwd: Path) -> None:
            await run_tool([uv, *arguments], self.docker.guard, environment=uv_environment(), cwd=cwd, on_line=show)

        await run_uv("build", "--wheel", "--quiet", "--out-dir", str(wheels), str(root()), cwd=wheels.parent)
        ours = next(wheels.glob("*.whl")).as_uri()
        constraint = wheels / "constraint.txt"
        constraint.write_text(f"enginehouse @ {ours}\n")
        arguments = ["pip", "install", "--target", str(site), "--no-build", "--link-mode", "copy"]
        arguments += ["--python-version", base.python, "--python-platform", base.uv_platform]
        arguments += ["--constraints", str(constraint)]
        if with_ours:
            arguments += [f"enginehouse[{program.extra}] @ {ours}" if program.extra else f"enginehouse @ {ours}"]
        if program.wheel:
            arguments += [f"./{program.wheel}"]
        if program.requirements:
            arguments += ["-r", program.requirements]
        if (inputs / UV_CONFIG).is_file():
            arguments += ["--config-file", UV_CONFIG]
        if with_ours or program.wheel or program.requirements:
            await run_uv(*arguments, cwd=inputs)

    async def _build(self, spec: EngineSpec, files: dict[str, Path], packages: str, steps: Steps) -> str:
        """Return the image made from an engine's files, built if it is missing."""
        is_own = DOCKERFILE in files
        text = files[DOCKERFILE].read_text() if is_own else generic_dockerfile(spec)
        made_from = f"{packages}\0{await asyncio.to_thread(files_hash, files)}\0{text}"
        image = f"{_ENGINE_NAME}:{spec.id}-{hashlib.sha256(made_from.encode()).hexdigest()[:24]}"
        if await self.docker.has_image(image):
            return image
        for other in images_of(text) if is_own else ():
            if not await self.docker.has_image(other):
                raise LocalError(
                    f"The Dockerfile of {spec.id} takes {other}, which is not on this machine.",
                    f"Type: docker pull {other}",
                )
        key = f"{spec.id} image"
        steps.update(key, f"building the image of {spec.id}")
        show = tools_lines(steps, key, f"image of {spec.id}")
        context: dict[str, Path | bytes] = {**files, **({} if is_own else {_GENERIC: text.encode()})}
        try:
            dockerfile = DOCKERFILE if is_own else _GENERIC
            build = Build(image, context, {"BASE": packages}, dockerfile, {PACKAGES_LABEL: packages})
            await build_image(self.docker, build, show)
        except ToolFailed as error:
            steps.finish(key, f"image of {spec.id} failed", ok=False)
            raise EnvironmentFailed(
                f"The image of {spec.id} cannot be built:\n{error}",
                "Correct its Dockerfile and deploy it again. A build has no network: packages come from its requirements.",
            ) from None
        steps.finish(key, f"image of {spec.id} built")
        return image


def generic_dockerfile(spec: EngineSpec) -> str:
    """Return the Dockerfile of an engine that brings none: its folder, and the command of its engine.yaml."""
    assert spec.program
    return f"ARG BASE\nFROM ${{BASE}}\nWORKDIR /engine\nCOPY . .\nUSER {USER}\nCMD {json.dumps(spec.program.command)}\n"


def harmless(files: dict[str, Path]) -> dict[str, Path]:
    """Return the files of requirements without any by which code of theirs would run on this machine.

    uv builds an editable package whatever it is told, and a uv.toml could have it build others. Raise InvalidBundle.
    """
    if UV_CONFIG in files:
        others = set(tomllib.loads(files[UV_CONFIG].read_text())) - _UV_SETTINGS
        if others:
            raise InvalidBundle(
                f"uv.toml: {', '.join(sorted(others))} cannot be set where engines run in containers; "
                f"{', '.join(sorted(_UV_SETTINGS))} can."
            )
    return {name: path for name, path in files.items() if Path(name).name not in _PROJECT_FILES}


def _no_image(spec: EngineSpec) -> LocalError:
    assert spec.image
    can_be_pulled = "@" in spec.image
    return LocalError(
        f"The image of {spec.id}, {spec.image}, is not on this machine, and its folder has no Dockerfile.",
        f"Type: docker pull {spec.image}. Only whoever runs the machine pulls images: it connects to wherever they are."
        if can_be_pulled
        else "Name one that `docker images --no-trunc` shows, or an image of a registry by its digest, and pull that.",
    )


def _requirements(source: Path) -> str | None:
    return "requirements.txt" if (source / "requirements.txt").is_file() else None


def _packages_context(site: Path) -> dict[str, Path | bytes]:
    """Return the files of the packages, their commands apart, which name the Python of this machine."""
    site.mkdir(exist_ok=True)
    found: dict[str, Path | bytes] = {"Dockerfile": _PACKAGES.encode(), "site/.keep": b"", "bin/.keep": b""}
    for path in sorted(path for path in site.rglob("*") if path.is_file()):
        name = path.relative_to(site).as_posix()
        is_command = name.startswith("bin/")
        if is_command:
            path.write_bytes(_SHEBANG.sub(b"#!/usr/bin/env python", path.read_bytes(), count=1))
        found[name if is_command else f"site/{name}"] = path
    return found
