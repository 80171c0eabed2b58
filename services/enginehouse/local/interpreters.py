"""Find the Python interpreter that an engine asks for, or have uv fetch it."""

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.local.confinement import with_libraries
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard
from enginehouse.local.steps import Steps
from enginehouse.local.tools import ToolFailed, run_tool

_IDENTITY = (
    "import platform, sys; print(sys._base_executable); print(sys.base_prefix);"
    "print(platform.python_version(), sys.version, sys.base_prefix)"
)
_FOR_UV = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|TEMP|TMP|SYSTEMROOT|UV_(?!PUBLISH_)\w+|XDG_\w+|NETRC|CC|CXX|CFLAGS|LDFLAGS|PYENV_ROOT"
    r"|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(?:https?|all|no)_proxy|(?:HTTPS?|ALL|NO)_PROXY"
)
"""Names of variables that finding, downloading and building packages need."""
_VERSION_MANAGERS = (".pyenv/versions", ".asdf/installs/python", ".local/share/mise/installs/python")
"""Folders below a user's home where version managers keep interpreters, each in a folder named after its version."""


class PythonMissing(LocalError):
    """An engine asks for a Python that is not on this machine and cannot be fetched."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python interpreter of this machine."""

    path: str
    identity: str
    """Its version, its build and where it is installed."""
    base: Path = Path()
    """The installation's own program, where `path` is that of a virtual environment. Not known of one in an image."""
    prefix: Path = Path()
    """Folder of the installation. Not known of one in an image."""

    @property
    def version(self) -> str:
        """Return its version, such as 3.12.1."""
        return self.identity.split()[0]

    def folders(self) -> list[Path]:
        """Return the folders of its programs and libraries, by every name that a virtual environment may use for them."""
        home = self.prefix.resolve()
        # uv makes links beside an installation, such as cpython-3.12, and environments name their Python by them.
        names = [self.prefix, *(path for path in home.parent.iterdir() if path.is_symlink() and path.resolve() == home)]
        programs = [self.base.parent, self.base.parent.resolve(), self.base.resolve().parent]
        programs += [name / "bin" for name in names]
        return [folder for programs in dict.fromkeys(programs) for folder in with_libraries(programs)]


def find_uv() -> Path:
    """Return the uv of this project's environment or of PATH. Raise LocalError if there is none."""
    beside = Path(sys.executable).with_name("uv")
    if beside.is_file():
        return beside
    on_path = shutil.which("uv")
    if on_path:
        return Path(on_path)
    raise LocalError("There is no uv.", "Install it into this environment with 'python -m pip install uv'.")


def uv_environment() -> dict[str, str]:
    """Return the environment of a uv that works for an engine and not for this project.

    Packages that are built run their authors' code with it, so it holds no secrets but those for package indexes.
    """
    kept = {name: value for name, value in os.environ.items() if _FOR_UV.fullmatch(name)}
    # Use the certificates that this machine trusts, as pip does: uv's own list does not know a company's proxy.
    return {"UV_SYSTEM_CERTS": "1", **kept}


def search_path(python: str) -> str:
    """Return a PATH on which uv finds Python `python` where a version manager has it.

    Such a manager puts shims on PATH that fail for all versions but the one chosen in a folder. uv gives up at the
    first that fails, so the real interpreters must come before them.
    """
    roots = [Path.home() / folder for folder in _VERSION_MANAGERS]
    if pyenv := os.environ.get("PYENV_ROOT"):
        roots.append(Path(pyenv, "versions"))
    real = [str(folder) for root in roots for folder in sorted(root.glob(f"{python}*/bin"), reverse=True)]
    return os.pathsep.join([*real, os.environ.get("PATH", os.defpath)])


async def find_interpreter(spec: EngineSpec, guard: Guard, steps: Steps) -> Interpreter:
    """Return the interpreter that the engine names, fetched by uv if need be; by default the one that runs this.

    Raise PythonMissing if it cannot be had.
    """
    if spec.python is None or _runs_this(spec.python):
        path = sys.executable
    else:
        path = await _find(spec, guard, steps)
    said = await run_tool([path, "-I", "-c", _IDENTITY], guard, environment=uv_environment(), cwd=Path.cwd())
    base, prefix, *identity = said.splitlines()
    return Interpreter(path, " ".join(" ".join(identity).split()), Path(base), Path(prefix))


def _runs_this(python: str) -> bool:
    wanted = python.split(".")
    return [str(part) for part in sys.version_info[: len(wanted)]] == wanted


async def _find(spec: EngineSpec, guard: Guard, steps: Steps) -> str:
    """Return the path of the engine's Python."""
    assert spec.python
    environment = {**uv_environment(), "PATH": search_path(spec.python)}

    async def uv(*arguments: str) -> str:
        command = [str(find_uv()), "python", *arguments, str(spec.python)]
        return await run_tool(command, guard, environment=environment, cwd=Path(sys.prefix))

    find = ("find", "--system", "--no-project")
    try:
        return (await uv(*find)).strip()
    except ToolFailed:
        pass  # It is not on this machine.
    key = f"{spec.id} python"
    steps.update(key, f"fetching Python {spec.python} for {spec.id}")
    try:
        await uv("install", "--no-bin")
        path = (await uv(*find)).strip()
    except ToolFailed as error:
        steps.finish(key, f"Python {spec.python} for {spec.id} cannot be had", ok=False)
        raise PythonMissing(
            f"{spec.id} needs Python {spec.python}, which is not on this machine, and uv cannot fetch it:\n{error}",
            f"Install Python {spec.python}, or change `python` in the engine's engine.yaml and deploy it again.",
        ) from None
    steps.finish(key, f"Python {spec.python} for {spec.id} fetched")
    return path
