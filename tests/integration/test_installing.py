"""The package as others install it: from the checkout with the extras they need, and never from an index."""

import asyncio
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.support.environments import make_environment

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.program import LocalRun
from enginehouse.local.checkout import root
from enginehouse.local.environments import EnvironmentFailed
from enginehouse.local.interpreters import find_uv

pytestmark = pytest.mark.timeout(300)  # The first run downloads packages.
_SPEC = EngineSpec(tenant="acme", name="one", run=LocalRun(command=["python"], requirements="requirements.txt"))


def wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """Write a wheel with an empty module."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        requires and f"Requires-Dist: {requires}\n"
    )
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", "")
        file.writestr(f"{info}/METADATA", metadata)
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of an engine, where a stranger has published newer versions of `enginehouse`."""
    index = tmp_path / "index"
    index.mkdir()
    for version in ("0.1.1", "99.0"):
        wheel(index, "enginehouse", version)
    wheel(index, "needs_any", "1.0", "enginehouse")
    wheel(index, "needs_newer", "1.0", "enginehouse>=99")
    monkeypatch.setenv("UV_FIND_LINKS", str(index))
    # uv's own cache stays, so that the other packages are not downloaded again.
    uv_cache = subprocess.run([find_uv(), "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("UV_CACHE_DIR", uv_cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "engine"
    folder.mkdir()
    return folder


def prepare(folder: Path, requirements: str, uv_toml: str = "") -> Path:
    """Make the environment of an engine with these requirements, and return it."""
    (folder / "requirements.txt").write_text(requirements)
    if uv_toml:
        (folder / "uv.toml").write_text(uv_toml)
    return asyncio.run(make_environment(_SPEC, folder))


def origin(environment: Path) -> str:
    """Return where the environment's only `enginehouse` comes from."""
    (info,) = environment.glob("lib/python*/site-packages/enginehouse-*.dist-info")
    return str(json.loads((info / "direct_url.json").read_text())["url"])


@pytest.mark.parametrize(
    ("requirements", "uv_toml"),
    [
        ("", ""),
        ("enginehouse\nEngineHouse[client]>=0.1\nneeds_any", ""),
        ("enginehouse", 'override-dependencies = ["enginehouse>=0.1"]'),
    ],
    ids=["not named", "named and needed by another package", "overridden"],
)
def test_an_engine_gets_enginehouse_from_the_checkout_whatever_an_index_has(
    engine: Path, requirements: str, uv_toml: str
) -> None:
    environment = prepare(engine, requirements, uv_toml)
    assert origin(environment) == root().as_uri()
    packages = {path.name for path in environment.glob("lib/python*/site-packages/*")}
    assert {"fastapi", "pydantic", "uvicorn"} <= packages
    assert ("httpx2" in packages) == ("client" in requirements)
    assert not {"sqlalchemy", "structlog", "typer"} & packages


@pytest.mark.parametrize(
    ("requirements", "uv_toml"),
    [
        ("enginehouse==0.1.1", ""),
        ("needs_newer", ""),
        ("enginehouse", 'override-dependencies = ["enginehouse==99"]'),
    ],
)
def test_a_version_that_only_an_index_has_is_refused(engine: Path, requirements: str, uv_toml: str) -> None:
    with pytest.raises(EnvironmentFailed, match="enginehouse"):
        prepare(engine, requirements, uv_toml)


def installed(folder: Path, extra: str) -> Path:
    """Install the checkout with an extra into a new environment, and return the folder of its programs."""
    uv = str(find_uv())
    environment = {"UV_SYSTEM_CERTS": "1", **os.environ}
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            str(folder),
            "--reinstall-package",
            "enginehouse",
            f"{root()}{extra}",
        ],
    ):
        subprocess.run(command, env=environment, check=True)
    return folder / "bin"


def test_without_an_extra_its_absence_is_one_line_that_says_how_to_install_it(tmp_path: Path) -> None:
    bare = installed(tmp_path / "bare", "")
    command = subprocess.run([str(bare / "enginehouse"), "status"], capture_output=True, text=True, check=False)
    assert (command.returncode, command.stdout) == (1, "")
    assert command.stderr == (
        "The 'enginehouse' command needs the extra 'platform' (typer is missing). "
        "Install it from the checkout of Enginehouse: pip install 'CHECKOUT[platform]'\n"
    )
    python = [str(bare / "python"), "-c", "import enginehouse.client"]
    imported = subprocess.run(python, capture_output=True, text=True, check=False)
    assert imported.stderr.splitlines()[-1].endswith(
        "enginehouse.client needs the extra 'client' (httpx2 is missing). "
        "Install it from the checkout of Enginehouse: pip install 'CHECKOUT[client]'"
    )
    assert "During handling" not in imported.stderr
    subprocess.run([str(bare / "python"), "-c", "import enginehouse.engine"], check=True)


def test_the_extra_client_is_enough_for_the_client(tmp_path: Path) -> None:
    programs = installed(tmp_path / "client", "[client]")
    subprocess.run([str(programs / "python"), "-c", "from enginehouse.client import Client, AsyncClient"], check=True)
