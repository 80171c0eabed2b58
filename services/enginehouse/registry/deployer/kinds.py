"""The kinds of objects that the deployer applies, watches or deletes, in the order in which they are applied."""

from dataclasses import dataclass

from enginehouse.registry.kubernetes.parts import Object


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects, and where the API server has them."""

    api: str
    """Its group and version."""
    name: str
    plural: str
    is_namespaced: bool = True
    is_watched: bool = True
    """Whether the deployer sees what the cluster has of it. Secrets it only writes."""
    is_pruned: bool = True
    """Whether those of an engine or a tenant that are not rendered any longer are deleted."""
    is_whole: bool = False
    """Whether the deployer needs their status, and not only their metadata."""


NAMESPACE = Kind("v1", "Namespace", "namespaces", is_namespaced=False, is_pruned=False, is_whole=True)
SECRET = Kind("v1", "Secret", "secrets", is_watched=False, is_pruned=False)
POD = Kind("v1", "Pod", "pods", is_pruned=False, is_whole=True)
REPLICA_SET = Kind("apps/v1", "ReplicaSet", "replicasets", is_watched=False, is_pruned=False)
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
SERVICE = Kind("v1", "Service", "services")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments", is_whole=True)
SUBSCRIPTION = Kind("dapr.io/v2alpha1", "Subscription", "subscriptions")
SCALED_OBJECT = Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
SCALED_JOB = Kind("keda.sh/v1alpha1", "ScaledJob", "scaledjobs", is_whole=True)
"""Makes the pods of an engine with `mode: job`, in place of its Deployment."""

# What pods need comes before them; what bounds a namespace comes before everything in it.
APPLIED: tuple[Kind, ...] = (
    NAMESPACE,
    Kind("v1", "ResourceQuota", "resourcequotas"),
    Kind("v1", "LimitRange", "limitranges"),
    Kind("v1", "ServiceAccount", "serviceaccounts"),
    NETWORK_POLICY,
    SECRET,
    Kind("dapr.io/v1alpha1", "Configuration", "configurations"),
    Kind("dapr.io/v1alpha1", "Resiliency", "resiliencies"),
    Kind("dapr.io/v1alpha1", "Component", "components"),
    SUBSCRIPTION,
    CONFIG_MAP,
    SERVICE,
    DEPLOYMENT,
    SCALED_OBJECT,
    SCALED_JOB,
)
WATCHED: tuple[Kind, ...] = (*(kind for kind in APPLIED if kind.is_watched), POD)
_PLACES = {(kind.api, kind.name): place for place, kind in enumerate(APPLIED)}


@dataclass(frozen=True, slots=True)
class Ref:
    """Names one object of the cluster."""

    kind: Kind
    namespace: str
    """Empty for a namespace itself."""
    name: str

    def __str__(self) -> str:
        return f"{self.kind.name} {f'{self.namespace}/' if self.namespace else ''}{self.name}"


def kind_of(content: Object) -> Kind:
    """Return the kind of an object that is to be applied. Raise KeyError for one that the deployer does not apply."""
    return APPLIED[_PLACES[content["apiVersion"], content["kind"]]]


def ref_of(content: Object) -> Ref:
    """Return the name of an object that is to be applied."""
    return Ref(kind_of(content), content["metadata"].get("namespace", ""), content["metadata"]["name"])


def in_order(ref: Ref) -> int:
    """Return the place of an object among those that are applied."""
    return APPLIED.index(ref.kind)
