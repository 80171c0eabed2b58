"""`engines render --kubernetes` and `tenant render` write folders for kustomize, and nothing else of anybody's."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from enginehouse.cli.app import app
from enginehouse.local import checkout
from enginehouse.registry.kubernetes.settings import ClusterSettings

_RUN = CliRunner()
_IMAGE = f"registry.example/acme/one@sha256:{'a' * 64}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "engine.yaml").write_text(f"tenant: acme\nname: one\nimage: {_IMAGE}\n")
    (folder / "example.json").write_text('{"text": "good"}')
    return folder


def _render(folder: Path, into: Path, *options: str) -> dict[str, object]:
    command = ["engines", "render", str(folder), "--kubernetes", "--into", str(into), "--json", *options]
    shown = _RUN.invoke(app, command)
    assert shown.exit_code == 0, shown.output
    found: dict[str, object] = json.loads(shown.stdout)
    return found


def test_an_engines_folder_becomes_two_folders_for_kustomize(folder: Path, tmp_path: Path) -> None:
    shown = _render(folder, tmp_path / "out", "--services-image", "ours:2")
    assert shown["next"] == [f"kubectl apply -k {tmp_path / 'out' / part}" for part in ("engine", "gateway")]
    for part, namespace in (("engine", "tenant-acme"), ("gateway", "enginehouse")):
        kustomization = yaml.safe_load((tmp_path / "out" / part / "kustomization.yaml").read_text())
        assert kustomization["namespace"] == namespace
        assert all((tmp_path / "out" / part / file).is_file() for file in kustomization["resources"])
    runner, files = yaml.safe_load_all((tmp_path / "out/engine/slot-a/runner.yaml").read_text())
    assert runner["spec"]["template"]["spec"]["containers"][0]["image"] == "ours:2"
    assert json.loads(files["data"]["example.json"]) == {"text": "good"}


def test_rendering_again_leaves_nothing_of_the_time_before(folder: Path, tmp_path: Path) -> None:
    engine = folder / "engine.yaml"
    plain = engine.read_text()
    engine.write_text(f"{plain}scale: {{min: 0, max: 3}}\n")
    first = _render(folder, tmp_path / "out")
    engine.write_text(plain)
    second = _render(folder, tmp_path / "out")
    gone = {"engine/slot-a/scaling.yaml"}
    assert isinstance(first["files"], list)
    assert set(first["files"]) - gone == set(second["files"])  # type: ignore[call-overload]
    assert not (tmp_path / "out/engine/slot-a/scaling.yaml").exists()


def test_a_folder_that_is_none_of_ours_stays(folder: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "out" / "engine"
    theirs.mkdir(parents=True)
    (theirs / "engine.py").write_text("mine")
    shown = _RUN.invoke(app, ["engines", "render", str(folder), "--kubernetes", "--into", str(tmp_path / "out")])
    assert shown.exit_code != 0
    assert "no folder for kustomize" in shown.output
    assert (theirs / "engine.py").read_text() == "mine"


def test_without_an_image_by_its_digest_it_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    (folder / "engine.yaml").write_text("tenant: acme\nname: one\nrun: {command: [python, engine.py]}\nimage: one:v1\n")
    command = ["engines", "render", str(folder), "--kubernetes", "--into", str(tmp_path / "out"), "--json"]
    shown = _RUN.invoke(app, command)
    assert shown.exit_code != 0
    assert "NO_IMAGE" in shown.output
    assert "by the digest that the push prints" in shown.output
    assert not (tmp_path / "out").exists()


def test_settings_of_the_cluster_come_from_a_file_and_options(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("broker: redis.example:6380\nplacement: {quota: {pods: 7}}\n")
    command = ["tenant", "render", "acme", "--into", str(tmp_path / "out"), "--cluster", str(cluster)]
    assert _RUN.invoke(app, command).exit_code == 0
    quota, _ = yaml.safe_load_all((tmp_path / "out/tenant/limits.yaml").read_text())
    assert quota["spec"]["hard"]["pods"] == "7"
    _, runner = yaml.safe_load_all((tmp_path / "out/tenant/network.yaml").read_text())
    assert {"protocol": "TCP", "port": 6380} in [port for rule in runner["spec"]["egress"] for port in rule["ports"]]


def test_the_settings_that_the_docs_show_can_be_used() -> None:
    text = (checkout.root() / "docs" / "kubernetes.md").read_text()
    (block,) = re.findall(r"```yaml\n(services_image:.*?)```", text, re.DOTALL)
    shown = ClusterSettings.model_validate(yaml.safe_load(block))
    # All of them: what is not shown has the names of the trial overlay's namespaces.
    assert {*ClusterSettings.model_fields} - shown.model_fields_set == {
        "gateway_url",
        "core_namespace",
        "dapr_namespace",
    }


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["tenant", "render", "acme", "--broker", "redis"], "not of the form host:port"),
        (["tenant", "render", "kube-system"], "reserved"),
        (["engines", "render", ".", "--broker", "redis:6379"], "belong to --kubernetes"),
    ],
)
def test_what_is_wrong_is_refused_in_a_sentence(tmp_path: Path, command: list[str], said: str) -> None:
    shown = _RUN.invoke(app, [*command, "--into", str(tmp_path / "out")])
    assert shown.exit_code != 0
    assert said in shown.output
    assert not (tmp_path / "out").exists()
