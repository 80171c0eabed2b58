"""Everything that is shipped can be installed on every Python that the README promises, from wheels alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.pythons import ROOT, SUPPORTED

from enginehouse.local.interpreters import find_uv, uv_environment

pytestmark = pytest.mark.timeout(300)
each_python = pytest.mark.parametrize("python", SUPPORTED)
REQUIREMENTS = sorted([*ROOT.glob("services/engines/*/requirements.txt"), ROOT / "engine_template/requirements.txt"])


def _uv(*arguments: str, cwd: Path, stdin: str = "") -> str:
    done = subprocess.run(
        [find_uv(), *arguments], cwd=cwd, env=uv_environment(), input=stdin, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _resolve(python: str, *files: str, cwd: Path, stdin: str) -> list[str]:
    """Return the pins. A package without a wheel for this Python is an error: compilers are not promised."""
    # Run by the interpreter at hand, as uv would first try to fetch the other one.
    wheels = ["--python", sys.executable, "--python-version", python, "--only-binary", ":all:"]
    quiet = ["--quiet", "--no-header", "--no-annotate"]
    return _uv("pip", "compile", *wheels, *quiet, *files, "-", cwd=cwd, stdin=stdin).lower().split()


@each_python
@pytest.mark.parametrize("file", REQUIREMENTS, ids=lambda file: file.parent.name)
def test_the_requirements_of_each_shipped_engine_resolve(file: Path, python: str) -> None:
    config = ["--config-file", "uv.toml"] if (file.parent / "uv.toml").is_file() else []
    # Our own package is not on any index: engines get it from the checkout.
    found = _resolve(python, file.name, *config, cwd=file.parent, stdin=f"enginehouse @ {ROOT.as_uri()}\n")
    assert set(re.findall(r"^\S+==\S+$", file.read_text().lower(), re.MULTILINE)) <= set(found)


@each_python
def test_the_locked_packages_of_the_platform_have_wheels(python: str, tmp_path: Path) -> None:
    locked = _uv("export", "--quiet", "--frozen", "--all-extras", "--no-hashes", "--no-emit-project", cwd=ROOT)
    assert "sqlalchemy" in " ".join(_resolve(python, cwd=tmp_path, stdin=locked))
