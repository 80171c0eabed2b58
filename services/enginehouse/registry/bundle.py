"""Render the bundle of an engine or a tenant: a folder of YAML that people may edit."""

import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enginehouse.contracts.base import explain
from enginehouse.contracts.engine import EXAMPLE_FILE, WINDOW_FACTOR, WINDOW_MIN, EngineSpec
from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.names import (
    COMPLETIONS_TOPIC,
    DEAD_LETTERS_TOPIC,
    GATEWAY_APP,
    JOBS_ROUTE,
    PLATFORM_TENANT,
    Slot,
    app_id,
    app_ids,
    finished_topic,
    job_topic,
    jobs_component,
    requests_component,
    requests_topic,
    results_component,
    retired_component,
    secrets_component,
    tenant_component,
    trial_topic,
)
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.objects import (
    REDELIVER_INTERVAL_MS,
    STREAM_TTL,
    component,
    marker,
    results_store,
    secret_store,
    subscription,
    tolerant,
    topic_scopes,
)
from enginehouse.yaml_files import InvalidFile, read_yaml

ENGINE_FILE = "engine.yaml"
ACTIVE_FILE = "engine/subscription.yaml"
TRIAL_FILE = "engine/subscription-trial.yaml"
WORKLOADS_FILE = "workloads.yaml"
RESULTS_FILE = "gateway/results.yaml"
RETIRED_FILE = "gateway/retired.yaml"
"""In the bundle of an engine that is being removed: tells the gateway, and whoever runs the engine."""
TENANT_FILE = "tenant.yaml"
SYSTEM_FILE = "systems/pubsub.yaml"
"""In a tenant's bundle: the component for the tenant's own systems."""
_PROCESSING_MARGIN_SECONDS = 30
# Drafts lie beside the bundles. A name with a leading dot is no bundle's name, so watchers ignore it.
_FRESH = ".new-"
_STALE = ".old-"

M = TypeVar("M", bound=BaseModel)


class InvalidBundle(RequestError):
    """A file of a bundle cannot be used."""

    code = "INVALID_BUNDLE"
    advice = "Correct the file named, or deploy the engine again from its folder."


class Workload(BaseModel):
    """The processes of one version of an engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    source: str = Field(description="Folder with the version's files as they were deployed, relative to the bundle.")
    content: str = Field("", description="Hash of those files. A new hash restarts the slot.")
    replicas: int = Field(1, ge=1, le=100, description="Number of engine processes behind one runner.")


class Workloads(BaseModel):
    """The content of workloads.yaml: the versions of an engine that are here. Which of them run, its Subscriptions say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slots: dict[Slot, Workload]
    promote: Slot | None = Field(
        None, description="The slot that becomes active once its version is healthy and has answered its own examples."
    )


def requests_route(tenant: str) -> str:
    """Return the gateway's route for a tenant's own events."""
    return f"/requests/{tenant}"


def local_replicas(spec: EngineSpec) -> int:
    """Return how many processes of an engine run on one machine. At least one, because nothing wakes a sleeping one."""
    return max(1, spec.scale.min)


def deliveries_at_once(tenant: str, places: int) -> int:
    """Return how many events a sidecar delivers at once to the runner of an engine that works on `places` jobs.

    As many as the engine works on, with almost nothing prefetched behind them. The runner of a shared engine gets the
    whole window, because only there tenants take turns: in the topic, a job waits behind all that came before it.
    """
    return max(WINDOW_MIN, WINDOW_FACTOR * places) if tenant == PLATFORM_TENANT else places


def slot_folder(slot: Slot) -> str:
    """Return the folder of a slot in an engine's bundle: its engine.yaml, and its Dapr components in `dapr`."""
    return f"slots/{slot}"


def render_engine(
    spec: EngineSpec, source: str, content: str = "", example: str = "", *, active: Slot = "a"
) -> dict[str, str]:
    """Return the files of the bundle of an engine with one version, by path.

    Its processes start in `source`, whose files have the hash `content`. `example` is that of the engine's author.
    """
    return {
        **render_slot(spec, active, example),
        **render_shared(spec.id, active=active),
        WORKLOADS_FILE: render_workloads({active: workload_of(spec, source, content)}),
    }


def secrets_of_slot(slot: Slot) -> str:
    """Return the file of the component from which a slot's sidecar takes the engine's secrets."""
    return f"{slot_folder(slot)}/dapr/secrets.yaml"


def example_of_slot(slot: Slot) -> str:
    """Return the file, beside the slot's engine.yaml, from which its runner takes the example of the card."""
    return f"{slot_folder(slot)}/{EXAMPLE_FILE}"


def workload_of(spec: EngineSpec, source: str, content: str) -> Workload:
    """Return what workloads.yaml says about a version of an engine."""
    return Workload(version=spec.version, source=source, content=content, replicas=local_replicas(spec))


def render_workloads(slots: Mapping[Slot, Workload], promote: Slot | None = None) -> str:
    """Return the text of workloads.yaml."""
    return _yaml(Workloads(slots=dict(slots), promote=promote).model_dump(mode="json", exclude_none=True))


def render_slot(spec: EngineSpec, slot: Slot, example: str = "") -> dict[str, str]:
    """Return the files of one version of an engine in `slot`, by path, with the example for its card if there is one.

    Each slot has components of its own, because a new version may have other limits, and a busy component must not be
    edited: its sidecar would deliver again what is in hand.
    """
    engine = spec.id
    jobs, results = jobs_component(engine), results_component(engine)
    settings = jobs_settings(spec, local_replicas(spec))
    folder, scopes = slot_folder(slot), [app_id(engine, slot)]
    store = secret_store(secrets_component(engine), scopes)
    return {
        **({secrets_of_slot(slot): _yaml(store)} if spec.secrets else {}),
        **({example_of_slot(slot): example} if example else {}),
        f"{folder}/{ENGINE_FILE}": _yaml(spec.model_dump(mode="json", exclude_none=True)),
        f"{folder}/dapr/jobs.yaml": _yaml(component(jobs, "pubsub.redis", settings, scopes)),
        f"{folder}/dapr/results.yaml": _yaml(results_store(results, engine, scopes)),
    }


def jobs_settings(spec: EngineSpec, replicas: int) -> dict[str, str]:
    """Return the settings of the pub/sub component of an engine with so many replicas behind one runner."""
    engine = spec.id
    subscribes = [job_topic(engine), trial_topic(engine)]
    publishes = [COMPLETIONS_TOPIC, DEAD_LETTERS_TOPIC]
    places = spec.jobs_at_once * replicas
    deliveries = deliveries_at_once(spec.tenant, places)
    return {
        "consumerID": engine,
        "concurrency": str(deliveries),
        "queueDepth": "1",
        # After this time Redis delivers again, even while the handler still runs or its job waits for a place. Until
        # then the ledger recovers lost jobs.
        "processingTimeout": f"{math.ceil((2 + deliveries / places) * spec.execution_timeout_seconds) + _PROCESSING_MARGIN_SECONDS}s",
        "redeliverInterval": REDELIVER_INTERVAL_MS,
        "streamTTL": STREAM_TTL,
        "allowedTopics": ",".join(subscribes + publishes),
        "publishingScopes": topic_scopes(dict.fromkeys(app_ids(engine), publishes)),
        "subscriptionScopes": topic_scopes(dict.fromkeys(app_ids(engine), subscribes)),
    }


def render_shared(engine: str, *, active: Slot | None, trial: Slot | None = None) -> dict[str, str]:
    """Return the files that all versions of an engine share, by path: its Subscriptions and the gateway's part."""
    jobs, results = jobs_component(engine), results_component(engine)

    def routed(name: str, topic: str, slot: Slot | None) -> str:
        scopes = [app_id(engine, slot)] if slot else []
        return _yaml(subscription(name, jobs, topic, JOBS_ROUTE, scopes, DEAD_LETTERS_TOPIC))

    return {
        ACTIVE_FILE: routed(engine, job_topic(engine), active),
        TRIAL_FILE: routed(f"{engine}-trial", trial_topic(engine), trial),
        RESULTS_FILE: _yaml(results_store(results, engine, [GATEWAY_APP], **tolerant())),
    }


def render_retired(engine: str) -> dict[str, str]:
    """Return what is added to the bundle of an engine that is being removed, by path. Nothing that is busy changes."""
    return {RETIRED_FILE: _yaml(marker(retired_component(engine), [GATEWAY_APP]))}


def is_retired(bundle: Path) -> bool:
    """Say whether an engine is being removed."""
    return (bundle / RETIRED_FILE).exists()


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=120)


def render_tenant(tenant: Tenant) -> dict[str, str]:
    """Return the files of a tenant's bundle, by path: settings, the gateway's objects, its own systems' component."""
    name = tenant.name
    requests, finished = requests_topic(name), finished_topic(name)
    reading = {
        "consumerID": GATEWAY_APP,
        # A small number, so that a flood of one tenant's events waits in its own topic.
        "concurrency": "2",
        "queueDepth": "10",
        "processingTimeout": "60s",
        "redeliverInterval": REDELIVER_INTERVAL_MS,
        "streamTTL": STREAM_TTL,
        "allowedTopics": f"{requests},{finished}",
        "publishingScopes": topic_scopes({GATEWAY_APP: [finished]}),
        "subscriptionScopes": topic_scopes({GATEWAY_APP: [requests]}),
    }
    system = tenant_component(name)
    own_systems = {
        "consumerID": system,
        "streamTTL": STREAM_TTL,
        "allowedTopics": f"{requests},{finished}",
        "publishingScopes": topic_scopes({system: [requests]}),
        "subscriptionScopes": topic_scopes({system: [finished]}),
    }
    component_name = requests_component(name)
    objects: dict[str, Any] = {
        "gateway/requests.yaml": component(component_name, "pubsub.redis", reading, [GATEWAY_APP], **tolerant()),
        # Raw, because strangers publish here: a malformed trace attribute would crash a sidecar that reads it as an
        # event.
        "gateway/subscription.yaml": subscription(
            component_name, component_name, requests, requests_route(name), [GATEWAY_APP], raw_payload=True
        ),
        SYSTEM_FILE: component(system, "pubsub.redis", own_systems, [system]),
    }
    return {TENANT_FILE: render_tenant_file(tenant), **{path: _yaml(content) for path, content in objects.items()}}


def render_tenant_file(tenant: Tenant) -> str:
    """Return the text of a tenant.yaml."""
    return _yaml(tenant.model_dump(mode="json"))


def write_bundle(folder: Path, files: dict[str, str]) -> None:
    """Make `folder` hold exactly these files. Readers see the old bundle or the new one, and no mixture."""
    if _holds_exactly(folder, files):
        return  # Unchanged bundles are not replaced: a sidecar watches the very folder that it was started with.
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=_FRESH, dir=folder.parent))
    for path, text in files.items():
        (fresh / path).parent.mkdir(parents=True, exist_ok=True)
        (fresh / path).write_text(text)
    if folder.exists():
        stale = Path(tempfile.mkdtemp(prefix=_STALE, dir=folder.parent))
        os.rename(folder, stale / "bundle")
        os.rename(fresh, folder)
        shutil.rmtree(stale)
    else:
        os.rename(fresh, folder)


def update_bundle(folder: Path, files: Mapping[str, str]) -> None:
    """Write these files of a bundle, one after the other in their order, and leave all others as they are.

    Each file is replaced in one step, because sidecars and the process that runs the engine read them at any moment.
    """
    for path, text in files.items():
        target = folder / path
        if target.is_file() and target.read_text() == text:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = folder.parent / f"{_FRESH}{secrets.token_hex(8)}"
        try:
            draft.write_text(text)
            draft.replace(target)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def reduce_bundle(folder: Path, files: Mapping[str, str]) -> None:
    """Write these files of a bundle, which lie at its top, and delete all others. No moment is without the bundle."""
    update_bundle(folder, files)
    for path in [path for path in folder.iterdir() if path.name not in files]:
        stale = Path(tempfile.mkdtemp(prefix=_STALE, dir=folder.parent))
        os.rename(path, stale / path.name)
        shutil.rmtree(stale)


def sweep_drafts(folder: Path) -> None:
    """Delete what writers of bundles in `folder` that were killed have left there. The caller is the only writer."""
    for path in [path for path in folder.iterdir() if path.name.startswith((_FRESH, _STALE))]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _holds_exactly(folder: Path, files: dict[str, str]) -> bool:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return found.keys() == files.keys() and all(
        path.read_bytes() == files[name].encode() for name, path in found.items()
    )


def remove_bundle(folder: Path) -> bool:
    """Delete a bundle in one step. Return whether there was one."""
    stale = Path(tempfile.mkdtemp(prefix=_STALE, dir=folder.parent)) if folder.is_dir() else None
    if stale is None:
        return False
    os.rename(folder, stale / "bundle")
    shutil.rmtree(stale)
    return True


def read_spec(path: Path) -> EngineSpec:
    """Read an engine.yaml. Raise InvalidBundle with the place and the reason if it is wrong."""
    return _read(EngineSpec, path)


def adjusted(spec: EngineSpec, settings: Mapping[str, Mapping[str, Any]]) -> EngineSpec:
    """Return an engine.yaml with other resources or another scale: `{"resources": {"memory": "1Gi"}}`.

    Raise InvalidBundle if the values do not fit.
    """
    content = spec.model_dump(exclude_unset=True)
    for part, values in settings.items():
        content[part] = {**content.get(part, {}), **values}
    try:
        return EngineSpec.model_validate(content)
    except ValidationError as error:
        raise InvalidBundle(f"engine.yaml, with the options given: {explain(error, EngineSpec)}") from None


def read_workloads(path: Path) -> Workloads:
    """Read a workloads.yaml. Raise InvalidBundle with the place and the reason if it is wrong."""
    return _read(Workloads, path)


def _read(kind: type[M], path: Path) -> M:
    try:
        return read_yaml(kind, path)
    except InvalidFile as error:
        raise InvalidBundle(str(error)) from None
