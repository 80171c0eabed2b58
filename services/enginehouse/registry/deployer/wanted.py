"""Says which objects the cluster is to have of an engine or a tenant, in the order in which they are applied."""

import copy
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from enginehouse.contracts.names import Slot, app_id, namespace, tenant_of
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.deployer.inventory import APPLIED
from enginehouse.registry.deployer.kinds import (
    DEPLOYMENT,
    NETWORK_POLICY,
    SCALED_JOB,
    SCALED_OBJECT,
    Ref,
    in_order,
    kind_of,
    ref_of,
)
from enginehouse.registry.kubernetes.engine import render_engine_parts
from enginehouse.registry.kubernetes.labels import CREDENTIALS, ENGINE, NAME, SLOT, engine_labels, thing
from enginehouse.registry.kubernetes.parts import Object
from enginehouse.registry.kubernetes.settings import ClusterSettings
from enginehouse.registry.kubernetes.source import EngineSource
from enginehouse.registry.kubernetes.tenant import GATEWAY_PART, render_tenant_parts

DEPLOYED = "enginehouse.dev/deployed"
"""Annotation of what makes pods with the hash of the files that the version was deployed with."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The objects of one owner, by name, in the order in which they are applied. Each says the hash of its content."""

    objects: Mapping[Ref, Object]

    @classmethod
    def of(cls, objects: Iterable[Object]) -> "Wanted":
        """Put objects in order, and note in each the hash of its content."""
        named = {ref_of(content): _hashed(content) for content in objects}
        return cls({ref: named[ref] for ref in sorted(named, key=in_order)})

    def hash_of(self, ref: Ref) -> str:
        """Return the hash of an object's content."""
        found: str = self.objects[ref]["metadata"]["annotations"][APPLIED]
        return found


def _hashed(content: Object) -> Object:
    made = copy.deepcopy(content)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    made["metadata"].setdefault("annotations", {})[APPLIED] = digest
    return made


def wanted_of_tenant(tenant: Tenant, cluster: ClusterSettings) -> Wanted:
    """Return the objects of a tenant. One that is being removed keeps its namespace, and the gateway reads no events of it."""
    parts = [
        part for part in render_tenant_parts(tenant, cluster) if not (tenant.removed and part.name == GATEWAY_PART)
    ]
    return Wanted.of(item for part in parts for item in part.objects())


@dataclass(frozen=True, slots=True)
class Hashes:
    """Hashes of Secrets, by who reads them."""

    runner: str
    engine: str


def wanted_of_engine(
    source: EngineSource,
    cluster: ClusterSettings,
    hashes: Hashes | None,
    held: Collection[Slot],
    without: Collection[str] = (),
) -> Wanted:
    """Return the objects of an engine. Slots that are `held` are quarantined: no pods, and no network.

    `without` names objects of the gateway's part that are not wanted any longer.
    """
    objects = [item for part in render_engine_parts(source, cluster) for item in part.objects()]
    kept = [item for item in objects if item["metadata"]["name"] not in without or "scopes" not in item]
    contents = {slot.slot: slot.content for slot in source.slots}
    named = [_with_hashes(_with_content(item, contents), hashes) for item in kept]
    return Wanted.of(_without_slots(source.engine, named, held))


def _with_content(content: Object, contents: Mapping[Slot, str]) -> Object:
    if kind_of(content) in (DEPLOYMENT, SCALED_JOB):
        slot = content["metadata"]["labels"][SLOT]
        content["metadata"].setdefault("annotations", {})[DEPLOYED] = contents[slot]
    return content


def _with_hashes(content: Object, hashes: Hashes | None) -> Object:
    if kind_of(content) not in (DEPLOYMENT, SCALED_JOB) or hashes is None:
        return content
    template = content["spec"].get("jobTargetRef", content["spec"])["template"]
    is_runner = content["metadata"]["labels"][NAME] == "runner"
    digest = hashes.runner if is_runner else hashes.engine if _reads_secrets(template) else ""
    if digest:
        template["metadata"].setdefault("annotations", {})[CREDENTIALS] = digest
    return content


def _reads_secrets(template: Object) -> bool:
    return any("secret" in volume for volume in template["spec"].get("volumes", []))


def _without_slots(engine: str, objects: list[Object], held: Collection[Slot]) -> list[Object]:
    made = []
    for content in objects:
        if content["metadata"].get("labels", {}).get(SLOT) not in held:
            made.append(content)
        elif kind_of(content) == DEPLOYMENT:
            made.append({**content, "spec": {**content["spec"], "replicas": 0}})
        elif kind_of(content) not in (SCALED_OBJECT, SCALED_JOB, NETWORK_POLICY):
            made.append(content)
    return [*made, *(_no_network(engine, slot) for slot in held)]


def _no_network(engine: str, slot: Slot) -> Object:
    """Return a policy that lets nothing pass. What a tenant's runners may do in general stays, and no runner is there."""
    pods = {"matchLabels": {ENGINE: engine, SLOT: slot}}
    policy = thing(
        NETWORK_POLICY.api,
        NETWORK_POLICY.name,
        f"{app_id(engine, slot)}-quarantine",
        {**engine_labels(engine), SLOT: slot},
        spec={"podSelector": pods, "policyTypes": ["Ingress", "Egress"]},
    )
    policy["metadata"]["namespace"] = namespace(tenant_of(engine))
    return policy
