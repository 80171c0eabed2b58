"""The core of Enginehouse in the tests' cluster, installed as docs/kubernetes.md says."""

import base64
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.cluster.forward import Forward
from tests.support.cluster.images import ROOT, SERVICES, services_image
from tests.support.cluster.kube import kubectl, roll_out, run, state_of

NAMESPACE = "enginehouse"
WORKLOADS = ("statefulset/redis", "statefulset/postgres", "statefulset/registry", "deployment/gateway")
_PAGE = ROOT / "docs" / "kubernetes.md"
_MAKER = "- system:serviceaccount:enginehouse:registry"
_KEY = ("-n", NAMESPACE, "get", "secret", "tests", "-o", "jsonpath={.data.operator-key}")
_VOLUMES = ROOT / "tests" / "support" / "cluster" / "up.sh"


@dataclass
class Core:
    """The installed core."""

    operator_key: str = field(repr=False)
    gateway: Forward
    registry: Forward

    def close(self) -> None:
        """Leave the cluster alone: nothing of it is deleted, so that a failed test can be looked at."""
        self.gateway.close()
        self.registry.close()


def install() -> Core:
    """Install the core anew in a cluster that has Dapr and KEDA: what an earlier run has left is deleted.

    With CLUSTER_KEEP set, what is there stays and is brought up to date, for who works on one test.
    """
    image = services_image()
    if os.environ.get("CLUSTER_KEEP") and (kept := run(*_KEY)).returncode == 0:
        _run_page(image, begin="kubectl apply -f k8s/policies/definition.yaml")
        return _ready(base64.b64decode(kept.stdout).decode())
    clear()
    said = _run_page(image)
    (key,) = re.findall(r"eh_operators_\S+", said)
    kubectl("-n", NAMESPACE, "create", "secret", "generic", "tests", f"--from-literal=operator-key={key}")
    return _ready(key)


def _ready(key: str) -> Core:
    for workload in WORKLOADS:
        roll_out(workload, NAMESPACE)
    return Core(key, Forward(NAMESPACE, "gateway", 8080), Forward(NAMESPACE, "registry", 8081))


def _run_page(image: str, begin: str = "export PATH") -> str:
    """Run the block of docs/kubernetes.md that installs the core, from the line that begins so; return what is said beside it.

    It runs in a copy of the manifests that names the tests' images, and lets the tests apply what the registry would.
    """
    text = _PAGE.read_text()
    block = text.partition("<!-- install")[2].partition("```text\n")[2].partition("```")[0]
    assert begin in block
    with tempfile.TemporaryDirectory() as folder:
        for name in ("k8s", "components", "dapr"):
            shutil.copytree(ROOT / name, Path(folder, name))
        (Path(folder) / ".venv").symlink_to(ROOT / ".venv")
        _edit(Path(folder), image)
        commands = block[block.index(begin) :]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, f"{done.stdout[-2_000:]}{done.stderr[-2_000:]}\n{state_of(NAMESPACE)}"
    return done.stderr


def _edit(folder: Path, image: str) -> None:
    """Do what an operator does to manifests before applying them."""
    name, _, digest = image.partition("@")
    who = kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    _replace(
        folder / "k8s/overlays/local/kustomization.yaml",
        "    newTag: 0.1.0",
        f"    newName: {name}\n    digest: {digest}",
    )
    _replace(folder / "k8s/base/registry.yaml", f"services_image: {SERVICES}", f"services_image: {image}")
    settings = folder / "k8s/policies/settings.yaml"
    _replace(settings, f"runner: {SERVICES}", f"runner: {image}")
    # Where the tests' images come from, whichever tenant's they are.
    place = os.environ.get("CLUSTER_REGISTRY", "docker.io")
    _replace(settings, "registry.example/{tenant}/", f"{place}/enginehouse-tests/")
    # Tests apply rendered folders themselves, as Argo CD or Flux do.
    _replace(settings, _MAKER, f"{_MAKER}\n    - {who}")


def _replace(file: Path, found: str, instead: str) -> None:
    text = file.read_text()
    assert found in text, f"{file} has no {found!r}"
    file.write_text(text.replace(found, instead))


def clear() -> None:
    """Delete the core and all tenants."""
    names = kubectl("get", "namespaces", "-o", "name").split()
    ours = [name for name in names if re.fullmatch(rf"namespace/({NAMESPACE}|tenant-.*|enginehouse-tests)", name)]
    if ours:
        if f"namespace/{NAMESPACE}" in ours and run(*_KEY).returncode:
            pytest.exit(
                f"This cluster has a namespace {NAMESPACE} that no test made: KUBECONFIG names another one than you mean."
            )
        kubectl("delete", *ours, "--wait", "--timeout=120s", seconds=150)
    if _local_cluster():
        subprocess.run([_VOLUMES, "volumes"], check=True, capture_output=True)


def _local_cluster() -> bool:
    """Say whether the cluster is the one of up.sh, whose volumes are folders that nothing else empties."""
    return run("get", "node", "ci").returncode == 0 and Path(_VOLUMES).exists()
