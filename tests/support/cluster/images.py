"""Build the images that a cluster's test needs, and bring them to the cluster: the services, and small engines."""

import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.support.docker import docker

from enginehouse.local.containers.base_image import PYTHON_IMAGE

ROOT = Path(__file__).resolve().parents[3]
SERVICES = "enginehouse:0.1.0"
_ENGINE_BASE = "enginehouse/engine-base:0.1"
_CONTEXT = ["pyproject.toml", "uv.lock", "README.md", "LICENSE", "services/enginehouse"]
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_ENGINE = """\
FROM {base}
COPY . .
USER 65532:65532
CMD ["python", "-m", "enginehouse.engine", "engine"]
"""
_BUILD_SECONDS = 900


@cache
def services_image() -> str:
    """Return the image of the services, built from the checkout and brought to the cluster."""
    _build_from_checkout(SERVICES, "services/enginehouse/Dockerfile")
    return bring(SERVICES)


@cache
def engine_image(folder: Path, version: str = "v1", dockerfile: str | None = None) -> str:
    """Return the image of an engine in `folder` by its digest, built and brought to the cluster.

    Each version is another image. `dockerfile` stands in place of one that takes the folder as it is.
    """
    _build_from_checkout(_ENGINE_BASE, "services/enginehouse/engine/Dockerfile")
    name = f"enginehouse-tests/{re.sub('[^a-z0-9]+', '-', folder.name.lower())}:{version}"
    with tempfile.TemporaryDirectory() as context:
        shutil.copytree(folder, context, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        Path(context, ".version").write_text(version)
        text = dockerfile or _ENGINE
        Path(context, "Dockerfile").write_text(text.format(base=_ENGINE_BASE))
        _build(name, Path(context), "Dockerfile")
    return bring(name)


@cache
def _build_from_checkout(name: str, dockerfile: str) -> None:
    with tempfile.TemporaryDirectory() as context:
        listed = subprocess.run(
            ["git", "ls-files", "-z", *_CONTEXT], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for file in filter(None, listed.stdout.split("\0")):
            target = Path(context, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, target)
        if _CERTIFICATES.is_file():
            shutil.copy(_CERTIFICATES, Path(context, "ca.crt"))
        _build(name, Path(context), dockerfile)


def _build(name: str, context: Path, dockerfile: str) -> None:
    base = _base()
    command = ["docker", "build", "--network=host", "--quiet", "--tag", name, "--file", str(context / dockerfile)]
    command += ["--build-arg", f"BASE={base}"] if dockerfile.startswith("services/") else []
    done = subprocess.run([*command, str(context)], capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    assert done.returncode == 0, f"{name}: {done.stdout[-3_000:]}{done.stderr[-2_000:]}"


@cache
def _base() -> str:
    """Return an image with Python: the one that `make base-image` makes where none can be pulled, or Python's own."""
    made = f"{PYTHON_IMAGE}:3.11"
    return made if docker("images", "--quiet", made).strip() else "python:3.11-slim"


@cache
def bring(name: str) -> str:
    """Bring an image to the cluster and return its name there, by its digest.

    To the registry that CLUSTER_REGISTRY names, from which the cluster pulls; or into the containerd of the cluster that
    `tests/support/cluster/up.sh` has started.
    """
    if registry := os.environ.get("CLUSTER_REGISTRY"):
        pushed = f"{registry}/{name}"
        docker("tag", name, pushed)
        subprocess.run(["docker", "push", "--quiet", pushed], timeout=_BUILD_SECONDS, check=True, capture_output=True)
        return docker("inspect", "--format", "{{index .RepoDigests 0}}", pushed).strip()
    with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE) as packed:
        taking = [*_ctr(), "import", "-"]
        subprocess.run(taking, stdin=packed.stdout, check=True, capture_output=True, timeout=_BUILD_SECONDS)
    assert packed.returncode == 0
    whole = name if "/" in name else f"library/{name}"
    found = subprocess.run(
        [*_ctr(), "ls", f"name==docker.io/{whole}"], capture_output=True, text=True, check=True
    ).stdout
    (digest,) = re.findall(r"sha256:[0-9a-f]{64}", found)
    by_digest = f"docker.io/{whole.rpartition(':')[0]}@{digest}"
    subprocess.run([*_ctr(), "tag", "--force", f"docker.io/{whole}", by_digest], check=True, capture_output=True)
    return by_digest


def _ctr() -> list[str]:
    home = Path(
        os.environ.get("K8S_HOME") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "test-cluster")
    )
    return ["ctr", "-a", str(home / "run" / "containerd.sock"), "-n", "k8s.io", "images"]
