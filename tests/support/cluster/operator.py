"""The operator of the cluster's Enginehouse: uses the commands, and the gateway's API where there is none."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.support.cluster.core import NAMESPACE, Core
from tests.support.cluster.kube import eventually, get, kubectl, pods, run
from tests.support.commands import Ran, run_command

from enginehouse.contracts.names import namespace
from enginehouse.contracts.tenant import hash_key

PLACE = "cluster"


@dataclass(frozen=True)
class Operator:
    """Holds the operator's key, and knows the cluster's registry under a name of its own."""

    core: Core
    settings: Path
    """Folder of the operator's own settings."""

    def command(self, *arguments: str) -> Ran:
        """Run a command, whatever becomes of it. The registry's address is named anew, as a forwarded port may change."""
        variables = {"XDG_CONFIG_HOME": str(self.settings), "ENGINEHOUSE_OPERATOR_KEY": self.core.operator_key}
        added = run_command(None, "environments", "add", PLACE, self.core.registry.url, variables=variables)
        assert added.returncode == 0, added.stderr
        return run_command(None, *arguments, variables=variables)

    def does(self, *arguments: str) -> Any:
        """Run a command that must succeed, and return the document that it prints."""
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def add_tenant(self, name: str) -> str:
        """Make a tenant, and return its API key when all gateways know it and its namespace is complete."""
        exists = name in [tenant["name"] for tenant in self.registry("GET", "/v1/tenants")["tenants"]]
        path, body = (f"/v1/tenants/{name}/keys", {}) if exists else ("/v1/tenants", {"name": name})
        key = str(self.registry("POST", path, body)["api_key"])
        known = hash_key(key)
        for pod in pods(NAMESPACE, {"app.kubernetes.io/name": "gateway"}):
            seen = ["-n", NAMESPACE, "exec", pod["metadata"]["name"], "-c", "gateway", "--"]
            read = [*seen, "cat", f"/etc/enginehouse/tenants/{name}.yaml"]
            eventually(lambda read=read: known in run(*read).stdout, f"{name}'s key is known", 90)  # type: ignore[misc]
        eventually(
            lambda: get("configuration.dapr.io", "runner", namespace(name)), f"{name}'s namespace is complete", 60
        )
        time.sleep(1)  # A gateway reads its tenants within a second.
        return key

    @contextmanager
    def tenants(self, *names: str) -> Iterator[dict[str, str]]:
        """Make tenants, and give their API keys by name. At the end they are removed: a test's node has few processors."""
        yield {name: self.add_tenant(name) for name in names}
        for name in names:
            self.registry("DELETE", f"/v1/tenants/{name}")
            # The gateway's part of engines that came past the registry: it leaves alone what it has not made.
            owned = ("-l", f"enginehouse.dev/tenant={name}", "--ignore-not-found")
            kubectl("-n", NAMESPACE, "delete", "components.dapr.io,subscriptions.dapr.io", *owned)
        for name in names:
            eventually(lambda name=name: get("namespace", namespace(name), "default") is None, f"{name} is gone", 180)  # type: ignore[misc]

    def registry(self, method: str, path: str, body: Any = None) -> Any:
        """Call the registry's API."""
        return self._call(self.core.registry.url, method, path, body)

    def gateway(self, method: str, path: str, body: Any = None) -> Any:
        """Call the gateway's API."""
        return self._call(self.core.gateway.url, method, path, body)

    def _call(self, url: str, method: str, path: str, body: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.core.operator_key}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(url + path, content, headers, method=method), timeout=60) as answer:
                said = answer.read()
        except HTTPError as refused:
            with refused:
                raise AssertionError(f"{method} {path}: {refused.code} {refused.read().decode()}") from None
        return json.loads(said) if said else None
