"""What is written for containers before a Docker Engine sees it: their limits, their Dockerfiles, their requirements."""

import asyncio
import io
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import psutil
import pytest
from tests.support.waiting import until_async

from enginehouse.contracts.engine import EngineSpec, Resources
from enginehouse.local.containers import base_image as base_images
from enginehouse.local.containers import relay
from enginehouse.local.containers import removal as removals
from enginehouse.local.containers.docker import Docker
from enginehouse.local.containers.dockerfile import images_of
from enginehouse.local.containers.hardening import SECCOMP, Sandbox, engine_limits
from enginehouse.local.containers.images import EngineImage, Images, harmless
from enginehouse.local.containers.kept_images import KeptImages
from enginehouse.local.containers.removal import ContainerRemoval
from enginehouse.local.containers.slot import SlotContainers
from enginehouse.local.engine_processes import SlotProcesses
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard
from enginehouse.local.home import Home
from enginehouse.local.steps import SilentSteps
from enginehouse.local.tools import ToolFailed
from enginehouse.registry.bundle import InvalidBundle

_IMAGE = "registry.example/python@sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("ARG BASE\nFROM ${BASE}\nCOPY . .\n", set()),
        (
            "ARG BASE=enginehouse/engine-base:0.1\r\nfrom $BASE as made\nFROM scratch\nCOPY --from=made /x /y\nCOPY --from=0 / /\n",
            set(),
        ),
        (f"FROM {_IMAGE}\nRUN add-user && echo ADDED\n", {_IMAGE}),
        (f"FROM ${{BASE}}\nCOPY --from={_IMAGE} /bin/tool /bin/\n", {_IMAGE}),
        ("FROM ${BASE}\nRUN make \\\n  # a comment\n  all\n", set()),
    ],
    ids=["the template's", "stages", "by digest", "copied from a digest", "continued"],
)
def test_a_dockerfile_takes_its_base_and_images_by_their_digest(text: str, images: set[str]) -> None:
    assert images_of(text) == images


@pytest.mark.parametrize(
    "text",
    [
        "FROM python:3.11-slim\n",
        "FROM 10.0.0.5:5000/python\n",
        "FROM evil AS evil\n",
        "FROM --platform=linux/amd64 ${BASE}\n",
        "FROM \\\n evil\n",
        "FROM ${BASE}${OTHER}\n",
        "FROM ${BASE}\nADD http://169.254.169.254/latest /x\n",
        "FROM ${BASE}\n  add --chown=1:1 files.tar /\n",
        "FROM ${BASE}\nRUN x\\\\\nADD http://inside/ /x\n",
        "FROM ${BASE}\nONBUILD ADD http://inside/ /x\n",
        "FROM ${BASE}\nCOPY --from=evil /x /y\n",
        "FROM ${BASE}\nCOPY --from=1 /x /y\n",
        "FROM ${BASE}\nCOPY --fr\\\nom=evil /x /y\n",
        "FROM ${BASE}\nCOPY --fr\\\n# between\n\nom=evil /x /y\n",
        "FROM ${BASE}\nCOPY --from /x /y\n",
        "# escape=`\nFROM ${BASE}\n",
        "# syntax=evil/frontend\nFROM ${BASE}\n",
        "\ufeffADD http://inside/ /x\n",
        "FROM ${BASE}\nCOPY --from=later /x /y\nFROM ${BASE} AS later\n",
    ],
)
def test_a_dockerfile_that_makes_the_docker_engine_fetch_is_refused(text: str) -> None:
    with pytest.raises(InvalidBundle, match="Dockerfile: "):
        images_of(text)


def test_an_engine_gets_what_its_engine_yaml_says_and_no_more() -> None:
    limits = engine_limits(Resources(cpu="250m", memory="64Mi"))
    bounds = {"--memory=67108864", "--memory-swap=67108864", "--cpus=0.25", "--user=1000:3000", "--read-only"}
    assert bounds <= set(limits)
    assert f"size={32 * 2**20}" in " ".join(limits)
    assert not [limit for limit in limits if limit.startswith(("--gpus", "--device", "--runtime"))]
    assert "--runtime=runsc" in engine_limits(Resources(), Sandbox.GVISOR)
    assert engine_limits(Resources(gpu=2))[-2:] == ["--gpus", "2"]


def test_a_container_makes_no_call_that_reaches_out_of_it() -> None:
    allowed = {name for rule in json.loads(SECCOMP.read_text())["syscalls"] for name in rule["names"]}
    reaching = r"ptrace|process_vm_.*|bpf|keyctl|add_key|userfaultfd|perf_.*|u?mount.*|setns|unshare|io_uring_(?!setup).*|kexec.*|.*_module|chroot|mknod.*|open_by_handle_at|pivot_root"
    assert not [name for name in allowed if re.fullmatch(reaching, name)]


def test_what_would_be_built_on_the_host_is_not_given_to_uv(tmp_path: Path) -> None:
    files = {
        name: tmp_path / name.replace("/", "_")
        for name in ("requirements.txt", "own/pyproject.toml", "own/setup.py", "own/x.py")
    }
    assert sorted(harmless(files)) == ["own/x.py", "requirements.txt"]
    (tmp_path / "uv.toml").write_text('exclude-dependencies = ["torch"]\n')
    assert harmless({"uv.toml": tmp_path / "uv.toml"})
    for text in ('[pip]\nonly-binary = [":none:"]\n', 'cache-dir = "/etc"\n'):
        (tmp_path / "uv.toml").write_text(text)
        with pytest.raises(InvalidBundle, match="cannot be set where engines run in containers"):
            harmless({"uv.toml": tmp_path / "uv.toml"})


@pytest.fixture
async def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Docker]]:
    """Return a Docker whose command says which parts and which runtimes there are."""
    command, guard = tmp_path / "docker", Guard()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def answering(parts: str = "Engine containerd runc ", runtimes: str = '{"runc": {}}') -> Docker:
        command.write_text(f"#!/bin/sh\n[ $1 = version ] && echo '{parts}' || echo '{runtimes}'\n")
        command.chmod(0o755)
        return Docker(guard, tmp_path)

    yield answering
    guard.close()


async def test_a_sandbox_that_the_docker_engine_does_not_know_is_refused(answers: Callable[..., Docker]) -> None:
    await answers().check()
    with pytest.raises(LocalError, match="knows only runc") as refused:
        await answers().check(Sandbox.GVISOR)
    assert "Install runsc" in str(refused.value)
    await answers(runtimes='{"runc": {}, "runsc": {}}').check(Sandbox.GVISOR)


async def test_a_docker_engine_that_lists_nothing_because_it_fails_has_not_removed_anything(
    answers: Callable[..., Docker], tmp_path: Path
) -> None:
    docker = answers(runtimes="")
    await docker.sweep()
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    with pytest.raises(ToolFailed, match="Cannot connect to the Docker daemon"):
        await docker.sweep("acme--one--a")


async def test_what_cannot_be_removed_is_tried_again_and_shown_until_it_is_gone(
    answers: Callable[..., Docker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals, "_AGAIN_SECONDS", 0.05)
    docker, app = answers(), "acme--one--a"
    shown: list[dict[str, str]] = []
    removal = ContainerRemoval(docker, lambda: shown.append(removal.left()))
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'Cannot connect' >&2\nexit 1\n")
    with pytest.raises(ToolFailed):
        await removal.remove(app)
    trying = asyncio.create_task(removal.run())
    (tmp_path / "docker").write_text(f"#!/bin/sh\necho $* >> {tmp_path}/asked\n")
    await until_async(lambda: not removal.left(), "it is removed")
    assert f"label=dev.enginehouse.app={app}" in (tmp_path / "asked").read_text()
    assert (shown[0], shown[-1]) == ({app: "its containers cannot be removed: Cannot connect"}, {})
    trying.cancel()
    await asyncio.wait([trying])


async def test_podman_is_refused(answers: Callable[..., Docker]) -> None:
    with pytest.raises(LocalError, match="Podman answers: engines in it could reach this host"):
        await answers("Podman Engine Conmon OCI Runtime (crun) ").check()


async def test_only_an_image_that_is_not_there_is_said_not_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f"Error response from daemon: no such image: {_IMAGE}: No such image: {_IMAGE}"

    async def docker(_: Docker, *_arguments: str) -> str:
        raise ToolFailed(said)

    monkeypatch.setattr(Docker, "__call__", docker)
    guard = Guard()
    try:
        assert not await Docker(guard, tmp_path).has_image(_IMAGE)
        said = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
        with pytest.raises(ToolFailed, match="Cannot connect"):
            await Docker(guard, tmp_path).has_image(_IMAGE)
    finally:
        guard.close()


async def test_what_runs_is_what_the_policy_was_asked_about_whatever_images_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_there, asked = False, list[str]()

    async def docker(_: Docker, *arguments: str) -> str:
        asked.append(arguments[0])
        if not is_there:
            raise ToolFailed("No such image: it")
        return '[{"Id": "sha256:1", "Config": {"Volumes": null}}]'

    monkeypatch.setattr(Docker, "__call__", docker)
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCMD evil\n")
    spec = EngineSpec(tenant="acme", name="cats", image=_IMAGE)
    base = base_images.BaseImage("enginehouse/python:3.11", "sha256:0", "3.11", "2.36", "x86_64")
    guard = Guard()
    images = Images(Docker(guard, tmp_path))
    try:
        # Allowed as an image, which is gone by now: the folder is not built in its place.
        with pytest.raises(LocalError, match="is not on this machine any longer"):
            await images.named_by(spec)
        assert "build" not in asked
        # Allowed as a folder, and the image has come: it may have no signature.
        is_there = True
        assert (await images.built_from(spec, tmp_path, base, SilentSteps())).is_ours
        assert (await images.named_by(spec)).name == _IMAGE
    finally:
        guard.close()


@pytest.mark.parametrize("is_there", [True, False])
async def test_the_decision_that_the_policy_was_asked_about_is_the_one_that_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    there = [is_there, not is_there]
    asked, prepared = list[bool](), list[bool]()

    class Contained:
        async def has_image(self, _: EngineSpec) -> bool:
            return there.pop(0)

        async def prepare(self, *_: object, from_image: bool) -> tuple[list[Any], list[Any]]:
            prepared.append(from_image)
            return [], []

    async def admit(*_: object, from_image: bool) -> None:
        asked.append(from_image)

    spec = EngineSpec(tenant="acme", name="cats", image=_IMAGE)
    monkeypatch.setattr(SlotProcesses, "_read", lambda _: (spec, None, tmp_path))
    admission = SimpleNamespace(admit=admit, still_allows=admit)
    context: Any = SimpleNamespace(
        fleet=None, home=Home.at(tmp_path), admission=admission, supervisor=SimpleNamespace(start=None)
    )
    processes = SlotProcesses(context, spec.id, "a", tmp_path)
    contained: Any = Contained()
    processes._contained, processes._runner_process = contained, contained
    await processes.start(SilentSteps())
    assert (asked, prepared) == ([is_there], [is_there])


async def test_images_of_former_versions_are_removed_with_packages_that_nothing_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    async def docker(_: Docker, *arguments: str) -> str:
        asked.append(arguments)
        return {"inspect": "enginehouse/packages:p\n", "ls": ""}.get(arguments[1], "")

    def removed() -> list[str]:
        names = [arguments[2] for arguments in asked if arguments[1] == "rm"]
        asked.clear()
        return names

    monkeypatch.setattr(Docker, "__call__", docker)
    guard = Guard()
    kept = KeptImages(Docker(guard, tmp_path), tmp_path / "images")
    try:
        await kept.keep("e--a", EngineImage("enginehouse/engine:e-1", "sha256:1"))
        await kept.keep("e--b", EngineImage("enginehouse/engine:e-1", "sha256:1"))
        await kept.keep("e--a", EngineImage("enginehouse/engine:e-2", "sha256:2"))
        assert removed() == []  # The other version is made from it.
        await kept.keep("e--b", EngineImage(_IMAGE, "sha256:3"))
        assert removed() == ["enginehouse/engine:e-1", "enginehouse/packages:p"]
        await kept.forget("e--b")
        assert removed() == []  # Not ours.
        await kept.forget("e--a")
        assert removed() == ["enginehouse/engine:e-2", "enginehouse/packages:p"]
    finally:
        guard.close()


async def test_engines_that_start_at_the_same_time_make_one_base_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(base_images, "cache_folder", lambda: tmp_path)

    async def make(_docker: Docker, _python: str, name: str, _steps: object) -> None:
        await asyncio.sleep(0)
        made.append(name)

    async def docker(_: Docker, *arguments: str) -> str:
        await asyncio.sleep(0)
        if arguments[0] == "run":
            return '{"python": "3.11.2", "glibc": "2.36", "machine": "x86_64"}'
        if not made:
            raise ToolFailed("No such image")
        return "sha256:1\n"

    monkeypatch.setattr(base_images, "_make", make)
    monkeypatch.setattr(Docker, "__call__", docker)
    guard = Guard()
    try:
        wanted = [base_images.base_image(Docker(guard, tmp_path), "3.11", SilentSteps()) for _ in range(5)]
        images = await asyncio.gather(*wanted)
    finally:
        guard.close()
    assert made == ["enginehouse/python:3.11"]
    assert {(image.name, image.uv_platform) for image in images} == {
        ("enginehouse/python:3.11", "x86_64-manylinux_2_36")
    }


async def test_a_relay_says_that_its_engine_is_not_there_and_breaks_off_with_it() -> None:
    async def dies(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    engine = await asyncio.start_server(dies, "127.0.0.1", 0)
    port = engine.sockets[0].getsockname()[1]
    server = await asyncio.start_server(partial(relay.relay, "127.0.0.1", port), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict"
    async with server, aiohttp.ClientSession() as session:
        async with engine:
            with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                await session.post(url, data=b"x")
        async with session.post(url, data=io.BytesIO(b"x" * 5_000_000)) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


async def test_no_engine_gets_a_network_on_which_this_host_has_an_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # All of 198.18 and nearly all of 198.19, as bridges would have them that a killed Docker Engine has left.
    taken = ["198.18.0.1/16", *(f"198.19.{third}.1/24" for third in range(255))]
    found = [_address(one) for one in taken]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"br-old": found})
    asked: list[tuple[str, ...]] = []

    async def docker(self: Docker, *words: str) -> str:
        asked.append(words)
        return ""

    monkeypatch.setattr(Docker, "__call__", docker)

    async def remove(self: ContainerRemoval, app: str) -> None:
        pass

    monkeypatch.setattr(ContainerRemoval, "remove", remove)
    engine = Docker(Guard(), tmp_path)
    slot = SlotContainers(engine, "acme--echo--a", ContainerRemoval(engine, lambda: None), "relays")
    assert await slot.make_network() == "198.19.255"
    assert "--subnet=198.19.255.0/24" in asked[-1]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"vpn": [*found, _address("198.19.255.9/32")]})
    with pytest.raises(LocalError, match="no free network"):
        await slot.make_network()


def _address(written: str) -> SimpleNamespace:
    one = IPv4Interface(written)
    return SimpleNamespace(family=socket.AF_INET, address=str(one.ip), netmask=str(one.netmask))
