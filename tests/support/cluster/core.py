"""The core of Enginehouse in the tests' cluster, installed as docs/kubernetes.md says."""

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.cluster.forward import Forward
from tests.support.cluster.images import ROOT, SERVICES, services_image
from tests.support.cluster.kube import kubectl, roll_out, run

NAMESPACE = "enginehouse"
WORKLOADS = ("statefulset/redis", "statefulset/postgres", "deployment/gateway")
_OVERLAY = ROOT / "k8s" / "overlays" / "local"
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
    """Install the core anew in a cluster that has Dapr and KEDA: what an earlier run has left is deleted."""
    image = services_image()
    clear()
    kubectl("apply", "-f", str(ROOT / "k8s" / "base" / "namespace.yaml"))
    made = subprocess.run(
        [sys.executable, "-m", "enginehouse.cli.main", "cluster", "secrets"], capture_output=True, text=True, check=True
    )
    kubectl("apply", "-f", "-", stdin=made.stdout)
    kubectl("-n", NAMESPACE, "create", "secret", "generic", "tenants")
    (key,) = re.findall(r"eh_operators_\S+", made.stderr)
    apply_core(image)
    for workload in WORKLOADS:
        roll_out(workload, NAMESPACE)
    return Core(key, Forward(NAMESPACE, "gateway", 8080), Forward(NAMESPACE, "registry", 8081))


def apply_core(image: str) -> None:
    """Apply the overlay for one cluster, with this image of the services."""
    rendered = kubectl("kustomize", str(_OVERLAY))
    assert SERVICES in rendered
    kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=rendered.replace(SERVICES, image))


def clear() -> None:
    """Delete the core and all tenants."""
    names = kubectl("get", "namespaces", "-o", "name").split()
    ours = [name for name in names if re.fullmatch(rf"namespace/({NAMESPACE}|tenant-.*|enginehouse-tests)", name)]
    if ours:
        kubectl("delete", *ours, "--wait", "--timeout=120s", seconds=150)
    if _local_cluster():
        subprocess.run([_VOLUMES, "volumes"], check=True, capture_output=True)


def _local_cluster() -> bool:
    """Say whether the cluster is the one of up.sh, whose volumes are folders that nothing else empties."""
    return run("get", "node", "ci").returncode == 0 and Path(_VOLUMES).exists()
