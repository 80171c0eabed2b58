"""Render the bundle of an engine or a tenant: a folder of YAML that people may edit."""

import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field

from enginehouse.contracts.engine import WINDOW_FACTOR, WINDOW_MIN, EngineSpec
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
    tenant_component,
    trial_topic,
)
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.objects import (
    REDELIVER_INTERVAL_MS,
    STREAM_TTL,
    component,
    results_store,
    subscription,
    tolerant,
    topic_scopes,
)
from enginehouse.yaml_files import InvalidFile, read_yaml

ENGINE_FILE = "engine.yaml"
WORKLOADS_FILE = "workloads.yaml"
TENANT_FILE = "tenant.yaml"
_PROCESSING_MARGIN_SECONDS = 30

M = TypeVar("M", bound=BaseModel)


class InvalidBundle(RequestError):
    """A file of a bundle cannot be used."""

    code = "INVALID_BUNDLE"
    advice = "Correct the file named, or deploy the engine again from its folder."


class Workloads(BaseModel):
    """The content of workloads.yaml: processes of an engine, beside its Dapr objects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="Folder with the engine's files as they were deployed, relative to the bundle.")
    content: str = Field("", description="Hash of those files. A new hash restarts the engine.")
    slots: dict[Slot, str] = Field(description="Version in each slot that is in use.")
    replicas: int = Field(1, ge=1, le=100, description="Number of engine processes behind one runner.")


def requests_route(tenant: str) -> str:
    """Return the gateway's route for a tenant's own events."""
    return f"/requests/{tenant}"


def local_replicas(spec: EngineSpec) -> int:
    """Return how many processes of an engine run on one machine. At least one, because nothing wakes a sleeping one."""
    return max(1, spec.scale.min)


def deliveries_at_once(tenant: str, places: int) -> int:
    """Return how many jobs a sidecar delivers at once to the runner of an engine that works on `places` jobs.

    As many as the engine works on, with almost nothing prefetched behind them. The runner of a shared engine gets the
    whole window, because only there tenants take turns: in the topic, a job waits behind all that came before it.
    """
    return max(WINDOW_MIN, WINDOW_FACTOR * places) if tenant == PLATFORM_TENANT else places


def render_engine(spec: EngineSpec, source: str, content: str = "", *, active: Slot = "a") -> dict[str, str]:
    """Return the files of an engine's bundle, by path. Its processes start in `source`, whose files have this hash."""
    engine = spec.id
    jobs, results = jobs_component(engine), results_component(engine)
    subscribes = [job_topic(engine), trial_topic(engine)]
    publishes = [COMPLETIONS_TOPIC, DEAD_LETTERS_TOPIC]
    replicas = local_replicas(spec)
    places = spec.jobs_at_once * replicas
    deliveries = deliveries_at_once(spec.tenant, places)
    settings = {
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
    workloads = Workloads(source=source, content=content, slots={active: spec.version}, replicas=replicas)
    objects: dict[str, Any] = {
        ENGINE_FILE: spec.model_dump(mode="json", exclude_none=True),
        "engine/jobs.yaml": component(jobs, "pubsub.redis", settings, app_ids(engine)),
        "engine/results.yaml": results_store(results, engine, app_ids(engine)),
        "engine/subscription.yaml": subscription(
            engine, jobs, subscribes[0], JOBS_ROUTE, [app_id(engine, active)], DEAD_LETTERS_TOPIC
        ),
        # No slot is on trial until a second version is deployed.
        "engine/subscription-trial.yaml": subscription(
            f"{engine}-trial", jobs, subscribes[1], JOBS_ROUTE, [], DEAD_LETTERS_TOPIC
        ),
        "gateway/results.yaml": results_store(results, engine, [GATEWAY_APP], **tolerant()),
        WORKLOADS_FILE: workloads.model_dump(mode="json"),
    }
    return {path: yaml.safe_dump(content, sort_keys=False, width=120) for path, content in objects.items()}


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
        TENANT_FILE: tenant.model_dump(mode="json"),
        "gateway/requests.yaml": component(component_name, "pubsub.redis", reading, [GATEWAY_APP], **tolerant()),
        # Raw, because strangers publish here: a malformed trace attribute would crash a sidecar that reads it as an
        # event.
        "gateway/subscription.yaml": subscription(
            component_name, component_name, requests, requests_route(name), [GATEWAY_APP], raw_payload=True
        ),
        "systems/pubsub.yaml": component(system, "pubsub.redis", own_systems, [system]),
    }
    return {path: yaml.safe_dump(content, sort_keys=False, width=120) for path, content in objects.items()}


def write_bundle(folder: Path, files: dict[str, str]) -> None:
    """Make `folder` hold exactly these files. Readers see the old bundle or the new one, and no mixture."""
    if _holds_exactly(folder, files):
        return  # Unchanged bundles are not replaced: a sidecar watches the very folder that it was started with.
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A name with a leading dot is no bundle's name, so watchers ignore it.
    fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    for path, text in files.items():
        (fresh / path).parent.mkdir(parents=True, exist_ok=True)
        (fresh / path).write_text(text)
    if folder.exists():
        stale = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
        os.rename(folder, stale / "bundle")
        os.rename(fresh, folder)
        shutil.rmtree(stale)
    else:
        os.rename(fresh, folder)


def _holds_exactly(folder: Path, files: dict[str, str]) -> bool:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return found.keys() == files.keys() and all(
        path.read_bytes() == files[name].encode() for name, path in found.items()
    )


def remove_bundle(folder: Path) -> bool:
    """Delete a bundle in one step. Return whether there was one."""
    stale = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent)) if folder.is_dir() else None
    if stale is None:
        return False
    os.rename(folder, stale / "bundle")
    shutil.rmtree(stale)
    return True


def read_spec(path: Path) -> EngineSpec:
    """Read an engine.yaml. Raise InvalidBundle with the place and the reason if it is wrong."""
    return _read(EngineSpec, path)


def read_workloads(path: Path) -> Workloads:
    """Read a workloads.yaml. Raise InvalidBundle with the place and the reason if it is wrong."""
    return _read(Workloads, path)


def _read(kind: type[M], path: Path) -> M:
    try:
        return read_yaml(kind, path)
    except InvalidFile as error:
        raise InvalidBundle(str(error)) from None
