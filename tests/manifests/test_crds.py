"""Every Dapr object that is rendered or shipped fits Dapr's own definition of it, without an unknown field."""

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from tests.manifests.test_dead_letters import OBJECTS

_CRDS = Path(__file__).with_name("crds")


def _strict(schema: Any) -> Any:
    """Refuse what the definition does not name: Kubernetes would drop it without a word."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def _definitions() -> dict[tuple[str, str], jsonschema_rs.Validator]:
    found: dict[tuple[str, str], jsonschema_rs.Validator] = {}
    for path in _CRDS.glob("*.yaml"):
        for definition in filter(None, yaml.safe_load_all(path.read_text())):
            spec = definition["spec"]
            for version in spec["versions"]:
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = validator_of(version)
    return found


def validator_of(version: dict[str, Any]) -> jsonschema_rs.Validator:
    """Return what judges objects of one version of a definition."""
    schema = _strict(version["schema"]["openAPIV3Schema"])
    known = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    schema["properties"] = {**known, **schema["properties"], "metadata": {"type": "object", "required": ["name"]}}
    return jsonschema_rs.Draft202012Validator(schema)


DEFINITIONS = _definitions()


@pytest.mark.parametrize(
    "item",
    [item for item in OBJECTS if item["apiVersion"].startswith("dapr.io/")],
    ids=lambda item: f"{item['kind']}-{item['metadata']['name']}",
)
def test_an_object_fits_its_definition(item: dict[str, Any]) -> None:
    validator = DEFINITIONS[item["apiVersion"], item["kind"]]
    assert [error.message for error in validator.iter_errors(item)] == []


@pytest.mark.parametrize("spoil", [{"spec": {"pubsubname": 5}}, {"scopes": "gateway"}, {"scope": ["gateway"]}])
def test_a_wrong_object_does_not(spoil: dict[str, Any]) -> None:
    item = next(item for item in OBJECTS if item["kind"] == "Subscription")
    validator = DEFINITIONS[item["apiVersion"], item["kind"]]
    assert not validator.is_valid({**item, **spoil})
