"""Each engine that comes with the system passes its own tests in its own environment, without a network."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import jsonschema_rs
import pytest
from tests.support.environments import make_environment

from enginehouse.contracts.engine import EngineSpec
from enginehouse.yaml_files import read_yaml

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "engine_template"
FOLDERS = [TEMPLATE, *sorted(file.parent for file in (ROOT / "services/engines").glob("*/engine.yaml"))]
SCHEMA_OF_INPUT = """
import json, sys
from enginehouse.engine.__main__ import find_engine
from enginehouse.engine.testing import EngineTester
sys.path.insert(0, ".")
tester = EngineTester(find_engine("engine"))
document = json.loads(tester.request("GET", "/openapi.json")[1])
body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
print(json.dumps({**body["properties"]["data"], "components": document["components"]}))
"""

each_engine = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def read_spec(folder: Path) -> EngineSpec:
    return read_yaml(EngineSpec, folder / "engine.yaml")


def without_network() -> list[str]:
    """Return a command prefix that removes the network; empty if this machine does not allow it."""
    command = ["unshare", "--user", "--map-root-user", "--net"]
    if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
        return command
    return []


async def environment_with_pytest(folder: Path, copy: Path) -> Path:
    """Return the environment of a copy of the engine that also asks for pytest."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
    # As below the checkout, where a new engine is usually made: pytest must not take the settings of the checkout.
    shutil.copy(ROOT / "pyproject.toml", copy.parent)
    with (copy / "requirements.txt").open("a") as requirements:
        requirements.write("\npytest\n")
    return await make_environment(read_spec(copy), copy)


def run(environment: Path, copy: Path, *arguments: str) -> str:
    command = [*without_network(), str(environment / "bin" / "python"), "-B", *arguments]
    done = subprocess.run(
        command, cwd=copy, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@each_engine
@pytest.mark.timeout(900)  # The first run downloads the engine's requirements.
async def test_own_tests_pass_and_the_example_fits(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "engine"
    environment = await environment_with_pytest(folder, copy)
    said = run(environment, copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", ".")
    assert " passed" in said
    assert "skipped" not in said
    schema = json.loads(run(environment, copy, "-c", SCHEMA_OF_INPUT))
    example = json.loads((folder / "example.json").read_text())
    assert jsonschema_rs.validator_for(schema).is_valid(example)
    assert not jsonschema_rs.validator_for(schema).is_valid({"nothing": "that any engine takes"})


@each_engine
def test_made_from_the_template(folder: Path) -> None:
    roles = {file.name for file in TEMPLATE.iterdir() if file.is_file()}
    assert roles - {file.name for file in folder.iterdir()} == set()
    assert (folder / "Dockerfile").read_text() == (TEMPLATE / "Dockerfile").read_text()
    spec, template = read_spec(folder), read_spec(TEMPLATE)
    assert spec.run == template.run
    assert folder == TEMPLATE or (spec.name == folder.name and spec.tenant != template.tenant)


def test_engines_may_need_what_clashes() -> None:
    def pins(name: str) -> dict[str, str]:
        lines = (ROOT / "services/engines" / name / "requirements.txt").read_text().split()
        return dict(line.split("==") for line in lines if "==" in line)

    ocr, embedding = pins("ocr"), pins("embedding")
    assert ocr["numpy"] != embedding["numpy"]
    assert ocr["onnxruntime"] != embedding["onnxruntime"]


@pytest.mark.timeout(900)
async def test_the_example_of_a_tenants_own_system_passes_its_tests_in_its_own_environment(tmp_path: Path) -> None:
    copy = tmp_path / "upstream"
    shutil.copytree(ROOT / "services" / "upstream", copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "requirements.txt").open("a") as requirements:
        requirements.write("\npytest\nhttpx2\n")
    run_as = {"command": ["python"], "requirements": "requirements.txt"}
    spec = EngineSpec.model_validate({"tenant": "acme", "name": "upstream", "version": "v1", "run": run_as})
    environment = await make_environment(spec, copy)
    said = run(environment, copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", ".")
    assert " passed" in said
    # The older package of this name puts its files into the same folder as the SDK's own extension.
    assert "dapr/ext/fastapi/__init__.py" in run(
        environment, copy, "-c", "import importlib.metadata as m; print(*m.files('dapr'), sep='\\n')"
    )
