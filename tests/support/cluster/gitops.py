"""Deploy an engine without the registry, as Argo CD or Flux do: rendered folders, and its Secrets from somewhere else."""

import base64
import json
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tests.support.cluster.core import NAMESPACE
from tests.support.cluster.images import engine_image, services_image
from tests.support.cluster.kube import apply, kubectl, roll_out
from tests.support.commands import run_command

from enginehouse.contracts.names import SLOTS, EngineId, app_id, namespace
from enginehouse.contracts.proofs import ProofKeys
from enginehouse.registry.kubernetes.labels import runner_name

_ENGINES = Path(__file__).resolve().parents[2] / "engines"


def secret(name: str, in_namespace: str, content: Mapping[str, str]) -> dict[str, Any]:
    """Return a Secret."""
    metadata = {"name": name, "namespace": in_namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(content)}


def read_secret(name: str, in_namespace: str = NAMESPACE) -> dict[str, str]:
    """Return the values of a Secret."""
    found = json.loads(kubectl("-n", in_namespace, "get", "secret", name, "-o", "json"))["data"]
    return {key: base64.b64decode(value).decode() for key, value in found.items()}


def add_engine_secrets(engine: str) -> None:
    """Make what the rendered folder does not hold: the engine's proof key, its broker user's login, the sidecar's tokens."""
    place = namespace(EngineId.parse(engine).tenant)
    broker = read_secret("registry")
    proof_key = ProofKeys(read_secret("gateway")["proof-key"]).of(engine)
    login = {"redis-username": broker["broker-username"], "redis-password": broker["broker-password"]}
    apply(
        [
            secret(engine, place, {"proof-key": proof_key, **login}),
            secret(f"{engine}-dapr-api", place, {"token": secrets.token_urlsafe(32)}),
            secret(f"{engine}-app", place, {"token": secrets.token_urlsafe(32)}),
        ]
    )


def engine_folder(into: Path, kind: str, engine: str, **settings: Any) -> Path:
    """Make the folder of an engine of the tests for a cluster: `kind` is its folder in tests/engines."""
    named, folder = EngineId.parse(engine), into / kind
    shutil.copytree(_ENGINES / kind, folder, dirs_exist_ok=True)
    small = {"cpu": "50m", "memory": "192Mi"}
    content = {"tenant": named.tenant, "name": named.engine, "resources": small, **settings}
    content.setdefault("image", engine_image(_ENGINES / kind))
    (folder / "engine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def deploy(folder: Path, cluster: Mapping[str, Any] | None = None) -> None:
    """Apply what an engine's folder is rendered to, and wait until it is up."""
    spec = yaml.safe_load((folder / "engine.yaml").read_text())
    engine = str(EngineId(spec["tenant"], spec["name"]))
    with tempfile.TemporaryDirectory() as into:
        settings = Path(into, "cluster.yaml")
        settings.write_text(yaml.safe_dump(dict(cluster or {})))
        out = f"{into}/out"
        more = ["--cluster", str(settings), "--services-image", services_image()]
        done = run_command(None, "engines", "render", str(folder), "--kubernetes", "--into", out, *more)
        assert done.returncode == 0, done.stderr
        for part in ("gateway", "engine"):
            kubectl("apply", "--validate=strict", "-k", f"{out}/{part}")
    if spec.get("scale", {}).get("min", 1):
        for name in (app_id(engine, SLOTS[0]), runner_name(engine, SLOTS[0])):
            roll_out(f"deployment/{name}", namespace(spec["tenant"]))
