"""An engine's environment is another one whenever anything that it was made from is another."""

import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.support.waiting import until_async

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.program import LocalRun, Program
from enginehouse.contracts.protocols import JsonCall
from enginehouse.local import environments
from enginehouse.local.checkout import root
from enginehouse.local.confinement import is_below
from enginehouse.local.environments import environment_key, install_arguments
from enginehouse.local.guard import Guard, signal_group
from enginehouse.local.interpreters import Interpreter, PythonMissing, find_interpreter, search_path, uv_environment
from enginehouse.local.steps import SilentSteps
from enginehouse.local.tools import ToolFailed, run_tool
from enginehouse.registry.bundle import InvalidBundle
from enginehouse.registry.deploy import deploy_engine
from enginehouse.registry.requirements import environment_files

_PROGRAM = Program(["python"], requirements="requirements.txt")
_PYTHON = Interpreter("/usr/bin/python3", "3.11.7 (main) /usr")
_FILES = {
    "requirements.txt": "-r base.txt\n./wheels/own-1-py3-none-any.whl\n-e ./package[extra]\n",
    "base.txt": "-c limits/constraints.txt  # shared\n",
    "limits/constraints.txt": "numpy<3\n--find-links ../links\n",
    "wheels/own-1-py3-none-any.whl": "wheel",
    "package/pyproject.toml": "",
    "package/own/code.py": "",
    "links/one-1-py3-none-any.whl": "wheel",
    "uv.toml": 'find-links = ["more"]\nindex-url = "https://example.org/simple"\n',
    "more/two-1-py3-none-any.whl": "wheel",
}


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _key(folder: Path, interpreter: Interpreter = _PYTHON) -> str:
    return environment_key(interpreter, _PROGRAM, environment_files(folder, "requirements.txt"))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return _write(tmp_path / "engine", {**_FILES, "engine.yaml": "", "engine.py": "", "notes.txt": ""})


def test_every_file_that_requirements_name_is_found_and_no_other(engine: Path) -> None:
    assert set(environment_files(engine, "requirements.txt")) == set(_FILES)


@pytest.mark.parametrize("name", _FILES)
def test_a_change_of_any_file_that_requirements_name_makes_another_environment(engine: Path, name: str) -> None:
    before = _key(engine)
    with (engine / name).open("a") as file:
        file.write("\n")
    assert _key(engine) != before


def test_two_engines_share_an_environment_only_if_all_their_files_are_equal(engine: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(engine, other)
    (other / "engine.py").write_text("another model")
    assert _key(other) == _key(engine)
    (other / "base.txt").write_text("numpy==1\n")
    assert (other / "requirements.txt").read_bytes() == (engine / "requirements.txt").read_bytes()
    assert _key(other) != _key(engine)


def test_another_interpreter_makes_another_environment(engine: Path) -> None:
    assert _key(engine, Interpreter("/usr/bin/python3", "3.11.8 (main) /usr")) != _key(engine)


def test_requirements_in_utf_16_are_read(engine: Path) -> None:
    (engine / "requirements.txt").write_bytes("-r base.txt\n".encode("utf-16"))
    assert "limits/constraints.txt" in environment_files(engine, "requirements.txt")


@pytest.mark.parametrize(
    "line",
    [
        "numpy>=1; python_version > '3.0'",
        "numpy[extra]==1.0 --hash=sha256:0a/b",
        "own @ https://example.org/own-1-py3-none-any.whl",
        "git+https://example.org/own.git@main",
        "--index-url https://${TOKEN}@example.org/simple",
        "--no-index",
        "# -r ../base.txt",
    ],
)
def test_what_comes_from_an_index_or_a_server_names_no_file(tmp_path: Path, line: str) -> None:
    folder = _write(tmp_path, {"requirements.txt": f"{line}\n"})
    assert set(environment_files(folder, "requirements.txt")) == {"requirements.txt"}


@pytest.mark.parametrize(
    "line",
    [
        "-r ../base.txt",
        "--constraint=../base.txt",
        "-r sub/../../base.txt",
        "-e ../package",
        "..",
        "/srv/own-1-py3-none-any.whl",
        "own @ file:///srv/own-1-py3-none-any.whl",
        "git+file:///srv/own",
        "--find-links /srv/wheels",
        "-r ${HOME}/base.txt",
    ],
)
def test_requirements_that_leave_the_folder_are_refused_when_it_is_deployed(tmp_path: Path, line: str) -> None:
    (tmp_path / "base.txt").write_text("")
    yaml = "tenant: acme\nname: one\nrun: {command: [python], requirements: requirements.txt}\n"
    folder = _write(tmp_path / "engine", {"engine.yaml": yaml, "requirements.txt": f"numpy\n{line}\n"})
    with pytest.raises(InvalidBundle) as refused:
        deploy_engine(tmp_path / "home" / "engines", folder)
    assert f"requirements.txt: '{line}': this is not in the engine's folder" in str(refused.value)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-r missing.txt", "there is no file missing.txt"),
        ("-r .hidden.txt", "names with a leading dot"),
        ("-r https://example.org/base.txt", "may change unnoticed"),
    ],
)
def test_a_file_that_would_be_missing_from_a_deployment_is_named(tmp_path: Path, line: str, said: str) -> None:
    folder = _write(tmp_path, {"requirements.txt": f"{line}\n", ".hidden.txt": ""})
    with pytest.raises(InvalidBundle, match=said):
        environment_files(folder, "requirements.txt")


def test_uv_is_told_of_the_engines_own_settings(tmp_path: Path) -> None:
    arguments = install_arguments(tmp_path, _PROGRAM, ["requirements.txt", "uv.toml"])
    assert arguments[-4:] == ["-r", "requirements.txt", "--config-file", "uv.toml"]
    assert "--config-file" not in install_arguments(tmp_path, _PROGRAM, ["requirements.txt"])


def test_a_ready_made_server_gets_its_own_requirements_only(tmp_path: Path) -> None:
    arguments = install_arguments(tmp_path, _PROGRAM, ["requirements.txt"], with_ours=False)
    assert arguments[-2:] == ["-r", "requirements.txt"]
    assert str(root()) not in arguments
    assert str(root()) in install_arguments(tmp_path, _PROGRAM, ["requirements.txt"])
    folder = _write(tmp_path, {"requirements.txt": "mlserver\n"})
    files = environment_files(folder, "requirements.txt")
    keys = {environment_key(_PYTHON, _PROGRAM, files, with_ours=ours) for ours in (True, False)}
    assert len(keys) == 2


def test_an_engine_names_its_python_quoted_or_not() -> None:
    def python(value: object) -> str | None:
        return EngineSpec.model_validate({"tenant": "acme", "name": "one", "python": value}).python

    assert [python(value) for value in ("3.12", 3.12, "3.13.1", None)] == ["3.12", "3.12", "3.13.1", None]
    for wrong in ("3.10", 3.1, 3, "2.7", "python3", ">=3.12", True):
        with pytest.raises(ValidationError, match="is not a version of Python"):
            python(wrong)


@pytest.fixture
def guard() -> Iterator[Guard]:
    guard = Guard()
    yield guard
    guard.close()


async def test_a_wheel_that_replaces_the_environments_settings_runs_nothing_and_opens_nothing(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another `home` in its pyvenv.cfg, an environment's Python begins with another standard library's code."""
    monkeypatch.setattr(environments, "cache_folder", lambda: tmp_path / "cache")
    home, ran = tmp_path / "home", tmp_path / "ran"
    library = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    (home / "bin").mkdir(parents=True, mode=0o700)
    source = _write(tmp_path / "engine", {"requirements.txt": "./evil-1.0-py3-none-any.whl\n"})
    with zipfile.ZipFile(source / "evil-1.0-py3-none-any.whl", "w") as wheel:
        files = {
            "evil.py": "",
            "evil-1.0.data/data/pyvenv.cfg": f"home = {home}/bin\n",
            "evil-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n",
            "evil-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr("evil-1.0.dist-info/RECORD", "".join(f"{name},,\n" for name in files))
    code = f"import posix; posix.mkdir({str(ran)!r})\n"
    _write(home, {f"{library}/os.py": "", f"{library}/encodings/__init__.py": code})
    run = LocalRun(command=["python"], requirements="requirements.txt")
    spec = EngineSpec(tenant="acme", name="evil", protocol="json", json=JsonCall(path="/"), run=run)
    made = await environments.prepare(spec, source, guard, SilentSteps())
    assert made is not None
    assert str(home) in (made.folder / "pyvenv.cfg").read_text(), "uv lets the wheel replace it"
    with pytest.raises(ToolFailed):
        await run_tool([str(made.folder / "bin" / "python"), "-c", ""], guard, environment={}, cwd=tmp_path)
    assert ran.exists(), "its Python runs the other library"
    ran.rmdir()

    await environments.share(made, [home], guard)
    assert not ran.exists()
    assert stat.S_IMODE((home / "bin").stat().st_mode) == 0o700
    assert not any(is_below(folder, [home]) for folder in made.interpreter.folders())
    assert list(made.folder.glob("lib/*/site-packages/__pycache__/evil.*.pyc")), "it is compiled all the same"


def _spec(python: str | None) -> EngineSpec:
    return EngineSpec(tenant="acme", name="one", python=python, run=LocalRun(command=["python"]))


async def test_by_default_and_for_its_own_version_the_python_that_runs_enginehouse_is_taken(guard: Guard) -> None:
    for python in (None, f"{sys.version_info.major}.{sys.version_info.minor}"):
        found = await find_interpreter(_spec(python), guard, SilentSteps())
        assert found.path == sys.executable
        assert found.version == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.timeout(120)
async def test_a_python_that_cannot_be_had_is_refused_with_what_to_do(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    with pytest.raises(PythonMissing) as refused:
        await find_interpreter(_spec("3.99"), guard, SilentSteps())
    assert "acme--one needs Python 3.99, which is not on this machine" in str(refused.value)
    assert "Install Python 3.99, or change `python`" in str(refused.value)


def test_shims_that_fail_do_not_hide_the_python_that_a_version_manager_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim, real = tmp_path / "shims" / "python3.98", tmp_path / ".pyenv" / "versions" / "3.98.1" / "bin" / "python3.98"
    for path in (shim, real):
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\nexit 127\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(shim.parent))
    assert shutil.which("python3.98", path=search_path("3.98")) == str(real)


def test_packages_that_are_built_see_no_secret_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEHOUSE_API_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("UV_PUBLISH_TOKEN", "secret")
    monkeypatch.setenv("UV_INDEX_URL", "file:///packages")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    found = uv_environment()
    assert "secret" not in found.values()
    assert {"PATH", "UV_INDEX_URL", "https_proxy"} <= found.keys()


def test_requirements_that_are_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    with pytest.raises(InvalidBundle, match="is a folder, and must be a file"):
        environment_files(tmp_path, ".")


@pytest.mark.parametrize(
    ("bound", "value", "said"),
    [
        ("_MOST_SECONDS", 0.2, "minutes that are allowed"),
        ("_MOST_BYTES", 1_000_000, "MiB that are allowed"),
        ("LEAST_FREE_BYTES", 2**60, "are left on the disk"),
    ],
)
async def test_a_build_that_takes_too_much_ends_with_all_its_processes(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: float, said: str
) -> None:
    monkeypatch.setattr(environments, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(environments, bound, value)
    script = (
        "import os, time; open('pid', 'w').write(str(os.getpid())); os.fork()\n"
        "open(str(os.getpid()), 'wb').write(b'x' * 5_000_000)\nwhile True: time.sleep(1)"
    )

    async def build() -> None:
        await run_tool([sys.executable, "-c", script], guard, environment={}, cwd=tmp_path)

    if bound == "LEAST_FREE_BYTES":
        monkeypatch.setattr(environments, "_LOOK_SECONDS", 1)
    with pytest.raises(ToolFailed, match=said):
        await environments.within_bounds(build(), tmp_path)
    leader = int((tmp_path / "pid").read_text())
    await until_async(lambda: not signal_group(leader, 0))


async def test_a_build_that_fails_or_ends_does_so_with_its_own_words(guard: Guard, tmp_path: Path) -> None:
    async def build(script: str) -> None:
        await run_tool([sys.executable, "-c", script], guard, environment={}, cwd=tmp_path)

    await environments.within_bounds(build("pass"), tmp_path)
    with pytest.raises(ToolFailed, match="no compiler"):
        await environments.within_bounds(build("import sys; sys.exit('no compiler')"), tmp_path)


async def test_a_line_that_is_longer_than_anybody_reads_breaks_nothing(guard: Guard, tmp_path: Path) -> None:
    script = "import sys; sys.stderr.write('x' * 3_000_000 + chr(10) + 'the end'); sys.exit(1)"
    with pytest.raises(ToolFailed, match="the end"):
        await run_tool([sys.executable, "-c", script], guard, environment={}, cwd=tmp_path)
