"""Applies an engine's folder with the image that Tilt has built, or deletes it: `engine.py apply FOLDER`, `engine.py delete FOLDER`.

It does what the registry does in a cluster, by the commands that an operator would use, and nothing of it is for production: the
engine gets the login of the broker's administrator.
"""

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from enginehouse.contracts.names import EngineId, namespace
from enginehouse.contracts.proofs import ProofKeys
from enginehouse.contracts.tenant import ApiKey, Tenant, hash_key, new_key

_CORE = "enginehouse"
_TENANTS = "tenants"


def main() -> None:
    """Do what the arguments say. What was applied goes to standard output, as Tilt wants it, and what is told to people beside it."""
    command, folder = sys.argv[1], Path(sys.argv[2])
    spec = yaml.safe_load((folder / "engine.yaml").read_text())
    engine = EngineId(spec["tenant"], spec["name"])
    if command == "delete":
        _delete(engine)
        return
    _add_tenant(engine.tenant)
    _add_secrets(engine)
    with tempfile.TemporaryDirectory() as scratch:
        rendered = _render(folder, spec, Path(scratch))
        for part in ("gateway", "engine"):
            _kubectl("apply", "--server-side", "--force-conflicts", "-k", str(rendered / part))
            sys.stdout.write(f"---\n{_kubectl('kustomize', str(rendered / part))}")


def _render(folder: Path, spec: dict[str, Any], scratch: Path) -> Path:
    """Render the folder with the image by its digest, and return where."""
    copied = scratch / "source"
    shutil.copytree(folder, copied)
    spec["image"] = _by_digest(os.environ["TILT_IMAGE_0"])
    (copied / "engine.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    services = ["--services-image", os.environ["TILT_IMAGE_1"]]
    _enginehouse("engines", "render", str(copied), "--kubernetes", "--into", str(scratch / "out"), *services)
    return scratch / "out"


def _by_digest(reference: str) -> str:
    """Return an image that Tilt has pushed as name@digest. Its name here may be another than in the cluster: the tag finds it."""
    name, tag = reference.rsplit(":", 1)
    listed = _said("docker", "image", "ls", "--digests", "--format", "{{.Tag}} {{.Digest}}")
    found = [line.split()[1] for line in listed.splitlines() if line.split()[:1] == [tag]]
    for digest in found:
        if digest.startswith("sha256:"):
            return f"{name}@{digest}"
    sys.exit(
        f"{reference} has no digest: it was pushed to no registry. Give the cluster a local one, which Tilt finds by itself: "
        "ctlptl create cluster kind --registry=ctlptl-registry, or k3d cluster create --registry-create registry."
    )


def _add_tenant(tenant: str) -> None:
    """Make the tenant's namespace and what bounds it; and its first API key, which is told once."""
    with tempfile.TemporaryDirectory() as into:
        _enginehouse("tenant", "render", tenant, "--into", into)
        for part in ("tenant", "gateway"):
            _kubectl("apply", "--server-side", "--force-conflicts", "-k", f"{into}/{part}")
    known = _read_secret(_TENANTS)
    if f"{tenant}.yaml" in known:
        return
    key = new_key(tenant)
    made = Tenant(name=tenant, keys=[ApiKey(id=key[:16], sha256=hash_key(key), created_at=datetime.now(UTC))])
    text = yaml.safe_dump(made.model_dump(mode="json"))
    _apply_secret(_TENANTS, _CORE, {**known, f"{tenant}.yaml": text})
    sys.stderr.write(f"The API key of {tenant}, which the gateway knows within a minute: {key}\n")


def _add_secrets(engine: EngineId) -> None:
    """Make what no rendered folder holds, unless it is there."""
    place, name = namespace(engine.tenant), str(engine)
    if _read_secret(f"{name}-app", place):
        return
    broker = _read_secret("registry")
    login = {"redis-username": broker["broker-username"], "redis-password": broker["broker-password"]}
    proof_key = ProofKeys(_read_secret("gateway")["proof-key"]).of(name)
    _apply_secret(name, place, {"proof-key": proof_key, **login})
    for kind in ("dapr-api", "app"):
        _apply_secret(f"{name}-{kind}", place, {"token": secrets.token_urlsafe(32)})


def _delete(engine: EngineId) -> None:
    """Delete the engine. Its tenant stays, with whatever else it has."""
    kinds = (
        "deployments,services,configmaps,networkpolicies,scaledobjects.keda.sh,components.dapr.io,subscriptions.dapr.io"
    )
    for place in (namespace(engine.tenant), _CORE):
        _kubectl("-n", place, "delete", kinds, "-l", f"enginehouse.dev/engine={engine}", "--ignore-not-found")


def _read_secret(name: str, place: str = _CORE) -> dict[str, str]:
    """Return what a Secret holds; nothing if there is none."""
    found = _kubectl("-n", place, "get", "secret", name, "--ignore-not-found", "-o", "json")
    held = json.loads(found).get("data", {}) if found.strip() else {}
    return {key: base64.b64decode(value).decode() for key, value in held.items()}


def _apply_secret(name: str, place: str, content: Mapping[str, str]) -> None:
    metadata = {"name": name, "namespace": place, "labels": {"app.kubernetes.io/part-of": "enginehouse"}}
    item = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(content)}
    _kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(item))


def _enginehouse(*arguments: str) -> None:
    _said(sys.executable, "-m", "enginehouse.cli.main", *arguments)


def _kubectl(*arguments: str, stdin: str | None = None) -> str:
    return _said("kubectl", *arguments, stdin=stdin)


def _said(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} failed:\n{done.stderr or done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
