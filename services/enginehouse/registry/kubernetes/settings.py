"""What of a cluster, and of a tenant's place in it, the rendered objects depend on."""

import ipaddress
import re
from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import Field, field_validator

from enginehouse.contracts.base import StrictModel

QUOTA = {
    "pods": "40",
    "requests.cpu": "16",
    "requests.memory": "32Gi",
    "limits.cpu": "64",
    "limits.memory": "64Gi",
    "requests.nvidia.com/gpu": "0",
}
"""What a tenant may use of a cluster unless its settings say otherwise: no GPU, as nobody pays for one by mistake. Of disk, what
two containers of each pod may have."""
DISK_MIB = {"limits": 1024, "requests": 64}
"""Of one container, as all that it may write to there is its log, which the kubelet cuts; and not a byte more for one made by hand."""
_ADDRESS = re.compile(r"[A-Za-z0-9.-]+:(\d{1,5})")
_URL = re.compile(r"http://[A-Za-z0-9.-]+(:\d{1,5})?")


class Toleration(StrictModel):
    """A taint of nodes that an engine bears. It names the taint: without a key, it would bear all."""

    key: Annotated[str, Field(min_length=1)]
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class Placement(StrictModel):
    """Where a tenant's engines run, and how much they may use."""

    runtime_class: str | None = Field(None, description="RuntimeClass of its engines, such as gvisor.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the nodes for its engines.")
    tolerations: list[Toleration] = Field(default_factory=list, description="Taints of nodes that its engines bear.")
    image_pull_secrets: list[str] = Field(
        default_factory=list, description="Secrets in the tenant's namespace with which images are pulled."
    )
    quota: dict[str, str] = Field(
        default_factory=dict, description="Amounts in its ResourceQuota that differ from, or add to, the usual ones."
    )


class ClusterSettings(StrictModel):
    """The cluster as an operator has set it up, and the place of the tenant in question."""

    services_image: Annotated[str, Field(min_length=1)] = Field(
        default_factory=lambda: f"enginehouse:{version('enginehouse')}",
        description="Image of the services, from which runners start.",
    )
    broker: str = Field("redis.enginehouse.svc.cluster.local:6379", description="`host:port` of the broker and store.")
    gateway_url: str = Field(
        "http://gateway-internal.enginehouse.svc.cluster.local:8082",
        description="URL at which KEDA asks the gateway for the number of an engine's unfinished jobs.",
    )
    core_namespace: str = Field("enginehouse", description="Namespace of the gateway, the registry and the broker.")
    dapr_namespace: str = Field("dapr-system", description="Namespace of Dapr's control plane.")
    broker_cidrs: list[str] = Field(
        default_factory=list,
        description="Addresses of a broker outside the cluster. None: its pods are those labelled as the broker's.",
    )
    objects_cidrs: list[str] = Field(
        default_factory=list,
        description="Addresses of an object store that serves its signed URLs itself. None: the gateway serves them.",
    )
    asleep_after_seconds: Annotated[int, Field(ge=1, le=3_600)] = Field(
        300, description="Time without jobs after which an engine of `scale.min: 0` goes to sleep, and others shrink."
    )
    cpu_percent: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None,
        description="Scale an engine also above this use of its CPU. Needs a metrics server: without one it never shrinks.",
    )
    placement: Placement = Placement()

    @field_validator("broker")
    @classmethod
    def _broker(cls, broker: str) -> str:
        found = _ADDRESS.fullmatch(broker)
        if not found or not 0 < int(found[1]) < 65_536:
            raise ValueError(f"{broker[:100]!r} is not of the form host:port")
        return broker

    @field_validator("gateway_url")
    @classmethod
    def _gateway_url(cls, url: str) -> str:
        if not _URL.fullmatch(url):
            raise ValueError(f"{url[:100]!r} is not of the form http://host:port")
        return url

    @field_validator("broker_cidrs", "objects_cidrs")
    @classmethod
    def _cidrs(cls, cidrs: list[str]) -> list[str]:
        for cidr in cidrs:
            ipaddress.ip_network(cidr)
        return cidrs

    @property
    def broker_port(self) -> int:
        """Return the port of the broker."""
        return int(self.broker.rpartition(":")[2])
