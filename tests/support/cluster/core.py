"""The core of Enginehouse in the tests' cluster, installed as docs/kubernetes.md says."""

import base64
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.cluster.forward import Forward
from tests.support.cluster.images import ROOT, SERVICES, services_image
from tests.support.cluster.kube import kubectl, roll_out, run

NAMESPACE = "enginehouse"
WORKLOADS = ("statefulset/redis", "statefulset/postgres", "statefulset/registry", "deployment/gateway")
_OVERLAY = ROOT / "k8s" / "overlays" / "local"
_POLICIES = ROOT / "k8s" / "policies"
_IMAGES, _MAKER = "registry.example/{tenant}/", "- system:serviceaccount:enginehouse:registry"
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
        apply_core(image)
        return _ready(base64.b64decode(kept.stdout).decode())
    clear()
    kubectl("apply", "-f", str(ROOT / "k8s" / "base" / "namespace.yaml"))
    made = subprocess.run(
        [sys.executable, "-m", "enginehouse.cli.main", "cluster", "secrets"], capture_output=True, text=True, check=True
    )
    kubectl("apply", "-f", "-", stdin=made.stdout)
    (key,) = re.findall(r"eh_operators_\S+", made.stderr)
    kubectl("-n", NAMESPACE, "create", "secret", "generic", "tests", f"--from-literal=operator-key={key}")
    apply_core(image)
    return _ready(key)


def _ready(key: str) -> Core:
    for workload in WORKLOADS:
        roll_out(workload, NAMESPACE)
    return Core(key, Forward(NAMESPACE, "gateway", 8080), Forward(NAMESPACE, "registry", 8081))


def apply_core(image: str) -> None:
    """Apply the policies and the overlay for one cluster, with this image of the services."""
    kubectl("apply", "-f", str(_POLICIES / "definition.yaml"))
    kubectl("wait", "--for=condition=Established", "crd/admissionsettings.enginehouse.dev", "--timeout=30s")
    who = kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    policies = {
        # Where the tests' images come from, whichever tenant's they are.
        _IMAGES: f"{os.environ.get('CLUSTER_REGISTRY', 'docker.io')}/enginehouse-tests/",
        # Tests apply rendered folders themselves, as Argo CD or Flux do.
        _MAKER: f"{_MAKER}\n  - {who}",
    }
    for folder, stands_for in ((_POLICIES, policies), (_OVERLAY, {})):
        rendered = kubectl("kustomize", str(folder))
        for found, instead in {SERVICES: image, **stands_for}.items():
            assert found in rendered, f"{folder} has no {found}"
            rendered = rendered.replace(found, instead)
        kubectl("apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-", stdin=rendered)


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
