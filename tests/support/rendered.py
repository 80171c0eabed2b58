"""Engines and tenants of every shape, rendered for Kubernetes, for tests that read what is rendered."""

import tempfile
from pathlib import Path
from typing import Any

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.tenant import Tenant
from enginehouse.registry.bundle import render_engine, render_retired, update_bundle, write_bundle
from enginehouse.registry.kubernetes.engine import render_engine_parts
from enginehouse.registry.kubernetes.parts import Part
from enginehouse.registry.kubernetes.settings import ClusterSettings
from enginehouse.registry.kubernetes.source import read_source
from enginehouse.registry.kubernetes.tenant import render_tenant_parts
from enginehouse.registry.versions import put_version

IMAGE = f"registry.example/acme/sentiment@sha256:{'a' * 64}"
CLUSTER = ClusterSettings(services_image=f"registry.example/enginehouse@sha256:{'b' * 64}")
ELSEWHERE = ClusterSettings.model_validate(
    {
        "services_image": CLUSTER.services_image,
        "broker": "redis.example:6380",
        "broker_cidrs": ["203.0.113.7/32"],
        "objects_cidrs": ["198.51.100.0/24"],
        "cpu_percent": 80,
        "placement": {
            "runtime_class": "gvisor",
            "node_selector": {"pool": "tenants", "zone": "1"},
            "tolerations": [{"key": "enginehouse.dev/tenants", "operator": "Exists"}],
            "image_pull_secrets": ["registry"],
            "quota": {"requests.nvidia.com/gpu": "2"},
        },
    }
)
"""A cluster where as much as can be is set."""

_FULL = {"name": "everything", "scale": {"min": 0, "max": 5}, "secrets": ["HF_TOKEN", "KEY"], "batch": {"max_size": 8}}
ENGINES: dict[str, dict[str, Any]] = {
    "minimal": {},
    "gpu": {"resources": {"cpu": "4", "memory": "16Gi", "gpu": 2}, "execution_timeout_seconds": 900},
    "with-secrets": {"secrets": ["HF_TOKEN"], "run": {"command": ["python", "engine.py"], "env": {"MODE": "fast"}}},
    "sleeps": {"scale": {"min": 0, "max": 5}},
    "grows": {"scale": {"min": 2, "max": 5}, "execution_timeout_seconds": 0.5},
    "shared": {"tenant": "shared", "concurrency": 16},
    "a-server": {"protocol": "openai", "openai": {"model": "m"}},
    "long-names": {"tenant": "a" * 24, "name": "b" * 24},
    "jobs": {"mode": "job", "scale": {"max": 5}, "execution_timeout_seconds": 3_600, "secrets": ["HF_TOKEN"]},
    "everything": _FULL,
}


def engine_parts(
    spec: EngineSpec, cluster: ClusterSettings = CLUSTER, *, trial: EngineSpec | None = None, retired: bool = False
) -> list[Part]:
    """Return the parts of an engine: its first version, and perhaps another one on trial."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / spec.id
        write_bundle(bundle, render_engine(spec, ".", "hash-of-its-files", '{"text": "I love it"}\n'))
        if trial:
            put_version(bundle, trial, ".", "hash-of-other-files", promote=False)
        if retired:
            update_bundle(bundle, render_retired(spec.id))
        return render_engine_parts(read_source(bundle), cluster)


def spec_of(**content: Any) -> EngineSpec:
    """Return an engine.yaml with these fields."""
    return EngineSpec.model_validate({"tenant": "acme", "name": "sentiment", "image": IMAGE, **content})


def every_shape() -> dict[str, list[Part]]:
    """Return what is rendered of every kind of engine and tenant, by a name for it."""
    found = {name: engine_parts(spec_of(**content)) for name, content in ENGINES.items()}
    found["everything-elsewhere"] = engine_parts(spec_of(**_FULL), ELSEWHERE)
    found["both-slots"] = engine_parts(
        spec_of(), trial=spec_of(version="v2", secrets=["KEY"], scale={"min": 0, "max": 3})
    )
    found["jobs-elsewhere"] = engine_parts(spec_of(mode="job"), ELSEWHERE)
    found["jobs-on-trial"] = engine_parts(spec_of(), trial=spec_of(version="v2", mode="job", scale={"max": 3}))
    found["retired"] = engine_parts(spec_of(), retired=True)
    found["tenant"] = render_tenant_parts(Tenant(name="acme"), CLUSTER)
    found["tenant-elsewhere"] = render_tenant_parts(Tenant(name="shared"), ELSEWHERE)
    return found
