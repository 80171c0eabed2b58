"""The Secrets that a cluster is prepared with: what belongs together is alike, and each run makes new ones."""

import json
from typing import Any

import pytest
import yaml
from tests.support.commands import run_command

from enginehouse.contracts.names import GATEWAY_USER
from enginehouse.contracts.tenant import hash_key, tenant_of_key
from enginehouse.local.cluster_secrets import Broker, CoreSecrets, core_secrets


def contents(made: CoreSecrets) -> dict[str, dict[str, str]]:
    assert {one["metadata"]["namespace"] for one in made.objects} == {"enginehouse"}
    return {one["metadata"]["name"]: one["stringData"] for one in made.objects}


def test_the_trials_servers_know_the_passwords_that_the_core_uses() -> None:
    made = contents(core_secrets("operators"))
    assert made["gateway"]["ledger-url"].startswith(
        f"postgresql://enginehouse:{made['postgres']['password']}@postgres."
    )
    users = dict(line.split(" ", 2)[1:] for line in made["redis"]["users.acl"].splitlines())
    assert users["default"].startswith("reset off ")
    assert f"#{hash_key(made['registry']['broker-password'])}" in users["registry"]
    assert f"#{hash_key(made['gateway-broker']['password'])}" in users[GATEWAY_USER]
    assert "+@all" not in users[GATEWAY_USER]


def test_servers_elsewhere_get_no_secrets_of_their_own() -> None:
    broker = Broker("broker.example:6380", "admin", "p")
    made = contents(core_secrets("operators", broker, "postgresql://u:p@db.example/ledger"))
    assert {"redis", "postgres"}.isdisjoint(made)
    assert made["registry"] | made["gateway-broker"] | made["gateway"] == {
        **made["registry"],
        **made["gateway-broker"],
        "broker-host": "broker.example:6380",
        "broker-username": "admin",
        "broker-password": "p",
        "ledger-url": "postgresql://u:p@db.example/ledger",
        "proof-key": made["gateway"]["proof-key"],
    }


def test_one_of_the_two_servers_may_be_elsewhere() -> None:
    made = contents(core_secrets("operators", ledger_url="postgresql://u:p@db.example/ledger"))
    assert made["gateway"]["ledger-url"] == "postgresql://u:p@db.example/ledger"
    assert made["registry"]["broker-host"].startswith("redis.enginehouse.")
    assert "redis" in made
    assert "postgres" not in made


def test_only_the_hash_of_the_operators_key_goes_to_the_cluster() -> None:
    made = core_secrets("platform-team")
    assert tenant_of_key(made.operator_key) == "platform-team"
    assert contents(made)["registry"]["operator-key-sha256"] == hash_key(made.operator_key)
    assert made.operator_key not in json.dumps(made.objects)
    assert made.operator_key not in repr(made)


def test_each_run_makes_other_secrets() -> None:
    one, other = (contents(core_secrets("operators")) for _ in range(2))
    for name in ("gateway", "gateway-dapr-api", "gateway-app", "postgres"):
        assert set(one[name].values()).isdisjoint(other[name].values())


def test_the_command_prints_yaml_for_kubectl_and_the_key_beside_it() -> None:
    done = run_command(None, "cluster", "secrets")
    objects: list[dict[str, Any]] = list(yaml.safe_load_all(done.stdout))
    assert {one["kind"] for one in objects} == {"Secret"}
    assert "eh_operators_" in done.stderr
    assert "eh_operators_" not in done.stdout


@pytest.mark.parametrize("given", [("--broker-host", "h:1"), ("--operator", "Not A Name")], ids=["half", "name"])
def test_the_command_refuses_what_is_half_or_wrong(given: tuple[str, ...]) -> None:
    done = run_command(None, "cluster", "secrets", *given)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not done.stdout
