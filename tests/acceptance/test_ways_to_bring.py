"""An engine may be a model file or a module, as docs/engines.md shows; its files may be fetched when it is deployed."""

import asyncio
import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import Ran, run_command
from tests.support.documents import ROOT, Document
from tests.support.environments import make_environment
from tests.support.stack import StackHandle

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.program import LocalRun

pytestmark = pytest.mark.timeout(600)

_FLOWERS = [[5.1, 3.5, 1.4, 0.2], [6.0, 3.0, 5.0, 1.8]]
_SHOUTER = """
from enginehouse.engine import Engine

class Shouter(Engine):
    def predict(self, data: str) -> str:
        return data.upper()
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with iris.onnx and iris.skops, trained here."""
    maker = tmp_path_factory.mktemp("maker")
    (maker / "requirements.txt").write_text("onnx\nskops\n")
    spec = EngineSpec(tenant="demo", name="maker", run=LocalRun(command=["python"], requirements="requirements.txt"))
    python = asyncio.run(make_environment(spec, maker)) / "bin" / "python"
    folder = tmp_path_factory.mktemp("volume")
    subprocess.run([python, ROOT / "tests" / "support" / "tiny_models.py", "iris-alone", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def stack(shared_stack: StackHandle) -> StackHandle:
    return shared_stack


def _folder(into: Path, name: str, **changes: str) -> Path:
    """Make the folder of an engine as the page shows it, with other words in place of some."""
    page = Document.read(ROOT / "docs" / "engines.md")
    (text,) = (block.text for block in page.blocks if block.language == "yaml" and f"name: {name}\n" in block.text)
    for old, new in changes.items():
        text = text.replace(old, new)
    into.mkdir()
    (into / "engine.yaml").write_text(text)
    return into


def _deploy(stack: StackHandle, folder: Path, *options: str) -> Ran:
    return run_command(stack.home.path, "engines", "deploy", str(folder), "--json", *options)


def test_an_onnx_model_is_an_engine(stack: StackHandle, models: Path, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "engine", "iris-onnx")
    shutil.copy(models / "iris.onnx", folder)
    done = _deploy(stack, folder)
    assert done.returncode == 0, done.stderr
    job = stack.submit("demo--iris-onnx", {"flowers:0": _FLOWERS})
    assert job["status"] == "succeeded", job
    likely = [max(range(3), key=row.__getitem__) for row in job["output"]["probabilities"]]
    assert likely == [0, 2]
    refused = stack.call("POST", "/v1/engines/demo--iris-onnx/jobs", {"input": {"flowers:0": [[1.0, 2.0]]}})
    assert (refused.status, refused.body["code"]) == (422, "INVALID_INPUT")
    assert "flowers:0" in refused.body["detail"]


def test_a_file_that_is_no_model_says_so_at_once(stack: StackHandle, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "engine", "iris-onnx", **{"name: iris-onnx": "name: no-model"})
    (folder / "iris.onnx").write_bytes(b"not a model")
    refused = _deploy(stack, folder)
    assert refused.returncode == 1
    assert "iris.onnx: ONNX Runtime cannot run it: " in " ".join(refused.stderr.split())


def test_a_skops_model_is_fetched_from_where_an_operator_allows_it(
    stack: StackHandle, models: Path, tmp_path: Path
) -> None:
    digest = hashlib.sha256((models / "iris.skops").read_bytes()).hexdigest()
    folder = _folder(tmp_path / "engine", "iris-skops", **{"/mnt/models": str(models)})
    refused = _deploy(stack, folder)
    assert refused.returncode == 1
    assert "demo may not fetch from file://" in refused.stderr
    assert not (stack.home.engines / "demo--iris-skops").exists()
    run_command(stack.home.path, "tenant", "fetch-from", "demo", f"file://{models}/")
    wrong = _deploy(stack, folder)
    assert "its content has another SHA-256" in wrong.stderr
    assert not (stack.home.engines / "demo--iris-skops").exists()
    (folder / "engine.yaml").write_text((folder / "engine.yaml").read_text().replace("0" * 64, digest))
    done = _deploy(stack, folder)
    assert done.returncode == 0, done.stderr
    job = stack.submit("demo--iris-skops", {"rows": _FLOWERS})
    assert job["output"]["predictions"] == [0, 2], job
    again = json.loads(_deploy(stack, folder).stdout)
    assert again["changed"] is False, "a file that was fetched is not fetched again"


@pytest.mark.parametrize("suffix", ["whl", "zip"])
def test_a_module_is_an_engine(stack: StackHandle, tmp_path: Path, suffix: str) -> None:
    file = "shouter-1.0-py3-none-any.whl" if suffix == "whl" else "shouter.zip"
    changes = {"shouter-1.0-py3-none-any.whl": file, "name: shouter\n": f"name: shouter-{suffix}\n"}
    folder = _folder(tmp_path / "engine", "shouter", **changes)
    missing = _deploy(stack, folder)
    assert f"module.file: there is no file {file}" in missing.stderr
    info = {"METADATA": "Metadata-Version: 2.1\nName: shouter\nVersion: 1.0\n"}
    info |= {"WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n", "RECORD": ""}
    with zipfile.ZipFile(folder / file, "w") as archive:
        archive.writestr("shouter.py", _SHOUTER)
        for name, text in info.items() if suffix == "whl" else ():
            archive.writestr(f"shouter-1.0.dist-info/{name}", text)
    done = _deploy(stack, folder, "--memory", "1Gi", "--min", "2", "--max", "3")
    assert done.returncode == 0, done.stderr
    assert stack.submit(f"demo--shouter-{suffix}", "hello")["output"] == "HELLO"
    started: dict[str, Any] = stack.processes()
    assert f"demo--shouter-{suffix}--a.engine-1" in started, "--min 2 means two replicas"
    assert "memory: 1Gi" in (stack.home.engines / f"demo--shouter-{suffix}/slots/a/engine.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory", "512"], "resources.memory: '512' is less than 4Mi"),
        (["--cpu", "many"], "resources.cpu: 'many' is not a quantity"),
        (["--min", "200"], "scale.min"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(
    stack: StackHandle, tmp_path: Path, options: list[str], said: str
) -> None:
    folder = _folder(tmp_path / "engine", "shouter", **{"name: shouter\n": "name: refused\n"})
    (folder / "shouter-1.0-py3-none-any.whl").touch()
    refused = _deploy(stack, folder, *options)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert said in refused.stderr
    assert not (stack.home.engines / "demo--refused").exists()
