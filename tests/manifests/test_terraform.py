"""What Terraform makes on Azure, and what the overlay for AKS reads of it, fit each other."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginehouse.registry.kubernetes.settings import ClusterSettings

_K8S = Path(__file__).resolve().parents[2] / "k8s"
_TERRAFORM, _AKS = _K8S / "terraform", _K8S / "overlays" / "aks"
_SOURCES = {path.name: path.read_text() for path in sorted(_TERRAFORM.glob("*.tf"))}
_ALL = "\n".join(_SOURCES.values())
_HAS_TERRAFORM = pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not here")
_HAS_KUBECTL = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl builds kustomizations, and is not here"
)


def _values(name: str) -> dict[str, str]:
    lines = (_AKS / "values" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def _replacements(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((folder / "kustomization.yaml").read_text())["replacements"]
    return found


@_HAS_TERRAFORM
def test_it_is_formatted() -> None:
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", "-diff", str(_TERRAFORM)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_it_writes_what_the_overlay_reads() -> None:
    block = re.search(r"\n  overlay = \{\n(.+?)\n  \}\n", _SOURCES["outputs.tf"], re.DOTALL)
    assert block is not None
    written = re.findall(r"^ +([A-Z_]+) += ", block[1], re.MULTILINE)
    assert written == list(_values("azure.env"))


def test_every_value_is_used() -> None:
    read = {
        one["source"]["fieldPath"].removeprefix("data.")
        for folder in (_AKS, _AKS / "policies")
        for one in _replacements(folder)
    }
    assert read == {*_values("azure.env"), *_values("image.env")}


@_HAS_KUBECTL
@pytest.mark.parametrize("folder", [_AKS, _AKS / "policies"], ids=["overlay", "policies"])
def test_values_reach_the_objects_and_are_no_object_themselves(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(_K8S.parent, tmp_path / "here", ignore=lambda at, names: _but(Path(at), names))
    values = tmp_path / "here" / "k8s" / "overlays" / "aks" / "values"
    for name in ("azure.env", "image.env"):
        (values / name).write_text("".join(f"{key}=set-{key.lower()}\n" for key in _values(name)))
    built = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path / "here" / folder.relative_to(_K8S.parent))],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    for one in _replacements(folder):
        assert f"set-{one['source']['fieldPath'].removeprefix('data.').lower()}" in built
    assert "azure" not in [one["metadata"]["name"] for one in yaml.safe_load_all(built)]
    # What stands for a value in the overlay is replaced wherever it stands.
    assert not re.search(rf"(?<![A-Za-z_-])({'|'.join(_values('azure.env'))})(?![A-Za-z_-])", _without_names(built))


def _but(at: Path, names: list[str]) -> set[str]:
    """Leave out whatever no kustomization reads."""
    return set(names) - {"k8s", "components", "dapr"} if at == _K8S.parent else set()


def _without_names(built: str) -> str:
    """Leave out names of variables, which end like some of the values."""
    return re.sub(r"^ *- name: .+$", "", built, flags=re.MULTILINE)


def test_the_gateways_identity_is_for_its_service_account() -> None:
    assert 'subject                   = "system:serviceaccount:enginehouse:gateway"' in _SOURCES["identity.tf"]


def test_variables_say_what_they_are_and_most_are_checked() -> None:
    blocks = re.findall(r'^variable "(\w+)" \{\n(.+?)^\}\n', _SOURCES["variables.tf"], re.MULTILINE | re.DOTALL)
    assert len(blocks) > 20
    assert [name for name, text in blocks if "description" not in text or "type " not in text] == []
    assert [name for name, _ in blocks if f"var.{name}" not in _ALL] == []


def test_a_placement_of_the_outputs_is_one() -> None:
    keys = re.findall(r"yamlencode\(\{ (\w+) = .+?, (\w+) = placement \}\)", _SOURCES["outputs.tf"])
    assert set(keys[0]) <= set(ClusterSettings.model_fields)
    placement = ["runtime_class", "node_selector", "tolerations"]
    block = _SOURCES["outputs.tf"].split("placements = {")[1].split("output ")[0]
    assert re.findall(r"^      (\w+) += ", block, re.MULTILINE) == placement
    assert set(placement) <= set(type(ClusterSettings().placement).model_fields)
