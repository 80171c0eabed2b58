"""Render an engine for a cluster: the part in its tenant's namespace, and the gateway's part."""

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.names import namespace, tenant_of
from enginehouse.contracts.program import can_be_pulled
from enginehouse.registry.kubernetes.dapr import gateway_objects, shared_components, slot_components, subscriptions
from enginehouse.registry.kubernetes.engine_workload import engine_deployment, engine_service
from enginehouse.registry.kubernetes.job_pods import job_pods
from enginehouse.registry.kubernetes.labels import calls_port
from enginehouse.registry.kubernetes.network import slot_policies
from enginehouse.registry.kubernetes.parts import Object, Part
from enginehouse.registry.kubernetes.runner_workload import runner_deployment, runner_files
from enginehouse.registry.kubernetes.scaling import is_scaled, scaled_objects, sleeps
from enginehouse.registry.kubernetes.settings import ClusterSettings
from enginehouse.registry.kubernetes.source import EngineSource, SlotSource

ENGINE_PART, GATEWAY_PART = "engine", "gateway"


class NoImage(RequestError):
    """The engine has no image by its digest, and a cluster runs images only."""

    code = "NO_IMAGE"
    advice = (
        "Build and push its image, and name it in engine.yaml by the digest that the push prints: "
        "`image: registry.example/team/engine@sha256:…`."
    )


def check_image(spec: EngineSpec) -> None:
    """Raise NoImage unless the engine's image can be pulled and stays what it is."""
    if spec.image is None:
        raise NoImage(f"{spec.id} {spec.version} has no image, and in Kubernetes engines run from images only")
    if not can_be_pulled(spec.image):
        raise NoImage(f"{spec.id} {spec.version}: image {spec.image!r} may become another one: it has no digest")


def render_engine_parts(source: EngineSource, cluster: ClusterSettings) -> list[Part]:
    """Return an engine's two parts. Raise NoImage, or InvalidBundle if the bundle cannot be used."""
    files: dict[str, list[Object]] = {}
    for slot in source.slots:
        check_image(slot.spec)
        files |= {
            f"slot-{slot.slot}/{name}.yaml": found for name, found in _slot(source, slot, cluster).items() if found
        }
    if source.slots:
        files["components.yaml"] = shared_components(source)
        files["subscriptions.yaml"] = subscriptions(source)
    return [
        Part(ENGINE_PART, namespace(tenant_of(source.engine)), files),
        Part(GATEWAY_PART, cluster.core_namespace, {"components.yaml": gateway_objects(source)}),
    ]


def _slot(source: EngineSource, slot: SlotSource, cluster: ClusterSettings) -> dict[str, list[Object]]:
    spec, name, on_trial = slot.spec, slot.slot, slot.slot != source.active
    # On trial, one replica is enough, and it must not sleep: nothing counts the jobs of a trial.
    replicas = 1 if on_trial else None if is_scaled(spec) else spec.scale.min
    runner = runner_deployment(
        spec, name, slot.files, slot.content, sleeps=sleeps(spec) and not on_trial, cluster=cluster
    )
    pods = (
        job_pods(spec, name, on_trial=on_trial, cluster=cluster)
        if spec.one_job_each
        else engine_deployment(spec, name, replicas, cluster.placement)
    )
    return {
        "engine": [pods, engine_service(spec, name)],
        "runner": [runner, runner_files(source.engine, name, slot.files)],
        "components": slot_components(slot),
        "network": slot_policies(source.engine, name, calls_port(spec)),
        "scaling": [] if on_trial else scaled_objects(spec, name, cluster),
    }
