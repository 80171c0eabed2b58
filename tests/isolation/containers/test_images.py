"""An engine that is an image, named by its digest or its ID, runs as a container that has no device, and leaves none behind."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.break_ins import Noted, attempt
from tests.support.docker import docker, left_by, skip_without_docker
from tests.support.image_registry import pulled
from tests.support.stack import StackHandle, start_stack, until

from enginehouse.local.containers.docker import docker_environment
from enginehouse.registry.deploy import busy_slot

_BASE = "enginehouse/python:3.11"
_ENGINE = "tests--an-image"
_SERVER = """
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.say({})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.say({"result": {"version": os.environ["VERSION"], "devices": os.listdir("/dev")}})

    def say(self, content):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""
_HARMLESS = {"core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm"}
_HARMLESS |= {"stderr", "stdin", "stdout", "tty", "urandom", "zero", "console"}
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    skip_without_docker()
    if not docker("images", "--quiet", _BASE):
        pytest.skip(f"the Docker Engine has no {_BASE}: make base-image")
    handle = start_stack(tmp_path_factory.mktemp("images"), tenants=["tests"], in_containers=True)
    try:
        yield handle
    finally:
        handle.stop()


def _image(version: str) -> str:
    """Build the engine's image, and return its ID."""
    text = f"FROM {_BASE}\nENV VERSION={version}\nCMD {json.dumps(['python', '-c', _SERVER])}\n"
    command = ["docker", "build", "--quiet", "-"]
    done = subprocess.run(command, input=text, env=docker_environment(), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _folder(into: Path, name: str, version: str, more: str) -> Path:
    into.mkdir()
    (into / "engine.yaml").write_text(f"tenant: tests\nname: {name}\nversion: {version}\n{more}\n")
    return into


def _built_by_us() -> list[str]:
    return docker("image", "ls", "--quiet", "--filter", f"reference=enginehouse/engine:{_ENGINE}-*").split()


def _until_runs(stack: StackHandle, version: str) -> dict[str, Any]:
    """Return a job that this version of the engine has answered."""

    def ran() -> dict[str, Any] | None:
        job: dict[str, Any] = stack.submit(_ENGINE, {}, tenant="tests")
        return job if (job["version"], job["status"]) == (version, "succeeded") else None

    return until(ran, f"{version} has the engine's jobs", 60)


@attempt("as an image of its own uses devices of this machine", layer="no device is handed over", need="docker")
def test_an_image_runs_by_its_digest_and_by_its_id_and_ours_are_removed(
    stack: StackHandle, tmp_path: Path, note: Noted
) -> None:
    others = left_by(stack.home.path)
    (tmp_path / "blobs").mkdir()
    folder = _folder(tmp_path / "v1", "an-image", "v1", "run: {command: [env, VERSION=v1, python3, server.py]}")
    (folder / "server.py").write_text(_SERVER)
    stack.deploy(folder)
    job = _until_runs(stack, "v1")
    (ours,) = _built_by_us()
    assert job["image"] == docker("image", "inspect", "--format", "{{.Id}}", ours).strip()
    note(", ".join(sorted(job["output"]["devices"])))
    assert set(job["output"]["devices"]) <= _HARMLESS
    third = _image("v3")
    with pulled(_image("v2"), tmp_path / "blobs") as second:
        for version, image in (("v2", second), ("v3", third)):
            until(lambda: not busy_slot(stack.home.engines / _ENGINE), "there is a slot for another version", 60)
            stack.deploy(_folder(tmp_path / version, "an-image", version, f"image: {image}"))
            job = _until_runs(stack, version)
            assert (job["output"]["version"], job["image"]) == (version, image)
        until(lambda: not _built_by_us(), "the image of the first version is removed")
        stack.remove(_ENGINE)
        until(lambda: left_by(stack.home.path) == others, "its containers and its networks are gone", 60)
    docker("image", "rm", third)


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [("not-there", "", "is not on this machine"), ("wants-gpu", "resources: {gpu: 1}", "remove resources.gpu")],
    ids=["image", "gpu"],
)
def test_what_the_docker_engine_does_not_have_is_said(
    stack: StackHandle, tmp_path: Path, name: str, more: str, said: str
) -> None:
    if name == "wants-gpu" and "nvidia" in docker("info", "--format", "{{json .Runtimes}}"):
        pytest.skip("this machine has GPUs")
    engine = stack.deploy(_folder(tmp_path / name, name, "v1", f"image: sha256:{'0' * 64}\n{more}"), wait=False)
    until(lambda: said in str(stack.state()["engines"].get(engine)), f"its state says: {said}", 60)
    stack.remove(engine)
