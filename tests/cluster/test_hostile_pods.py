"""From inside an engine's pod nothing is reached but what its runner asks; each attempt is shown to work from elsewhere.

What hostile code would try is run in the engine's container, with its rights. The control runs the same from a pod of the
cluster that no policy binds, so a test that could not notice would fail.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.abuse.hostile_code import CONNECTS
from tests.support.cluster import caller, gitops
from tests.support.cluster.core import NAMESPACE
from tests.support.cluster.kube import eventually, kubectl, listed, pods, run
from tests.support.cluster.operator import Operator

_OPEN = "OPEN"
_ATTACKER, _VICTIM = "tenant-mallory", "tenant-victim"
_ENGINE = "mallory--echo--a"


@pytest.fixture(scope="module")
def engines(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with operator.tenants("mallory", "victim") as keys:
        for tenant in keys:
            gitops.add_engine_secrets(f"{tenant}--echo")
            gitops.deploy(gitops.engine_folder(tmp_path_factory.mktemp(tenant), "echo", f"{tenant}--echo"))
        yield


def role(namespace: str, name: str) -> dict[str, Any]:
    return pods(namespace, {"app.kubernetes.io/name": name})[0]


def address_of(namespace: str, name: str) -> str:
    return str(role(namespace, name)["status"]["podIP"])


def python_in(namespace: str, pod: str, container: str, program: str) -> Any:
    given = f"{program}\nimport json\nprint(json.dumps(result))"
    said = kubectl("-n", namespace, "exec", "-i", pod, "-c", container, "--", "python", "-", stdin=given)
    return json.loads(said.splitlines()[-1])


def from_the_engine(program: str) -> Any:
    return python_in(_ATTACKER, role(_ATTACKER, "engine")["metadata"]["name"], "engine", program)


def from_anywhere(program: str) -> Any:
    return python_in(caller.NAMESPACE, "caller", "caller", program)


def targets() -> dict[str, tuple[str, int]]:
    """Return what an engine would like to reach, by name. All of it is in the cluster."""
    core = {pod["metadata"]["labels"].get("app.kubernetes.io/name"): pod["status"]["podIP"] for pod in pods(NAMESPACE)}
    api = listed("endpointslices", "default", {"kubernetes.io/service-name": "kubernetes"})[0]
    dns = pods("kube-system", {"k8s-app": "kube-dns"})[0]["status"]["podIP"]
    node = role(_ATTACKER, "engine")["status"]["hostIP"]
    return {
        "the gateway's API": (core["gateway"], 8080),
        "the gateway's internal port": (core["gateway"], 8082),
        "the sidecar of the gateway": (core["gateway"], 50002),
        "the broker": (core["redis"], 6379),
        "the ledger": (core["postgres"], 5432),
        "the API server": (api["endpoints"][0]["addresses"][0], api["ports"][0]["port"]),
        "the API server's Service": ("10.96.0.1", 443),
        "the kubelet": (node, 10250),
        "the name server": (dns, 53),
        "the sidecar of its own runner": (address_of(_ATTACKER, "runner"), 50002),
        "the health of its own runner": (address_of(_ATTACKER, "runner"), 8082),
        "another tenant's engine": (address_of(_VICTIM, "engine"), 8000),
        "another tenant's runner": (address_of(_VICTIM, "runner"), 8082),
    }


_CONTROLLED = (
    "the gateway's API",
    "the API server",
    "the API server's Service",
    "the kubelet",
    "the name server",
)
"""What a pod that no policy binds reaches: with these the attempt itself is shown to notice."""


def test_an_engine_reaches_nothing(engines: None) -> None:
    wanted = targets()
    found = from_the_engine(CONNECTS.format(targets=list(wanted.values())))
    assert [name for name, said in zip(wanted, found, strict=True) if said == _OPEN] == []
    control = from_anywhere(CONNECTS.format(targets=[wanted[name] for name in _CONTROLLED]))
    assert control == [_OPEN] * len(_CONTROLLED)


def test_what_the_core_keeps_from_everybody_but_its_own_is_reached_by_its_own(engines: None) -> None:
    wanted = targets()
    kept = [
        "the broker",
        "the ledger",
        "the gateway's internal port",
        "another tenant's engine",
        "the sidecar of its own runner",
    ]
    assert _OPEN not in from_anywhere(CONNECTS.format(targets=[wanted[name] for name in kept]))
    runner = role(_VICTIM, "runner")["metadata"]["name"]
    own = CONNECTS.format(targets=[wanted["the broker"], wanted["another tenant's engine"]])
    assert python_in(_VICTIM, runner, "runner", own) == [_OPEN, _OPEN]
    gateway = pods(NAMESPACE, {"app.kubernetes.io/name": "gateway"})[0]["metadata"]["name"]
    reached = CONNECTS.format(targets=[wanted["the ledger"], wanted["the broker"]])
    assert python_in(NAMESPACE, gateway, "gateway", reached) == [_OPEN, _OPEN]


def test_a_runner_does_not_reach_another_tenants_engine_or_the_ledger(engines: None) -> None:
    wanted = targets()
    runner = role(_ATTACKER, "runner")["metadata"]["name"]
    reached = CONNECTS.format(
        targets=[wanted["another tenant's engine"], wanted["another tenant's runner"], wanted["the ledger"]]
    )
    assert _OPEN not in python_in(_ATTACKER, runner, "runner", reached)


_LOOKS = """
import os
from pathlib import Path
def written(path):
    try:
        Path(path).write_text("x")
    except OSError:
        return False
    return True
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
result = dict(
    uid=os.getuid(),
    tokens=[str(path) for path in Path("/var/run/secrets").rglob("token")],
    secrets=[name for name in os.environ if "TOKEN" in name or "PASSWORD" in name or name.startswith("DAPR")],
    services=[name for name in os.environ if name.endswith("_SERVICE_HOST") and not name.startswith("KUBERNETES")],
    written=[path for path in ("/engine/x", "/etc/x", "/usr/x", "/tmp/x") if written(path)],
    capabilities=int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    no_new_privileges=status["NoNewPrivs"].strip(),
    seccomp=status["Seccomp"].strip(),
)
"""


def test_an_engine_has_no_token_no_right_and_no_place_to_write(engines: None) -> None:
    assert from_the_engine(_LOOKS) == {
        "uid": 1000,
        "tokens": [],
        "secrets": [],
        "services": [],
        "written": ["/tmp/x"],
        "capabilities": 0,
        "no_new_privileges": "1",
        "seccomp": "2",
    }
    control = from_anywhere(_LOOKS)
    assert (control["uid"], len(control["written"]) > 1 or control["capabilities"]) != (1000, 0)
    assert control["services"] or control["capabilities"]


def test_a_tenants_quota_holds(engines: None) -> None:
    """An engine of more replicas than the quota has room for gets those that fit. Its pods are the controller's to make."""
    scaled = f"deployment/{_ENGINE}"
    try:
        kubectl(
            "-n",
            _ATTACKER,
            "patch",
            "resourcequota",
            "tenant",
            "--type=merge",
            "-p",
            '{"spec": {"hard": {"pods": "3"}}}',
        )
        kubectl("-n", _ATTACKER, "scale", scaled, "--replicas=9")
        said = eventually(
            lambda: [
                line for line in run("-n", _ATTACKER, "get", "events").stdout.splitlines() if "exceeded quota" in line
            ],
            "the quota refuses pods",
        )
        assert "pods" in said[0]
        assert len(pods(_ATTACKER)) == 3
    finally:
        kubectl("-n", _ATTACKER, "scale", scaled, "--replicas=1")
        kubectl(
            "-n",
            _ATTACKER,
            "patch",
            "resourcequota",
            "tenant",
            "--type=merge",
            "-p",
            '{"spec": {"hard": {"pods": "40"}}}',
        )


@pytest.mark.parametrize("account", ["engine", "runner"])
def test_the_accounts_of_a_tenants_pods_have_no_rights(engines: None, account: str) -> None:
    who = f"--as=system:serviceaccount:{_ATTACKER}:{account}"
    for verb, kind in (("get", "secrets"), ("list", "pods"), ("create", "pods"), ("get", "components.dapr.io")):
        said = run("-n", _ATTACKER, "auth", "can-i", verb, kind, who).stdout.strip()
        assert said == "no", (verb, kind, said)
