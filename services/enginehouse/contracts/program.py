"""What runs as an engine on one machine: a command in its folder, a code module, or a model file."""

import posixpath
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator

from enginehouse.contracts.base import StrictModel

ModelKind = Literal["onnx", "skops"]
MODEL_KINDS: dict[str, ModelKind] = {".onnx": "onnx", ".skops": "skops"}
"""The kinds of model files that the engine package serves by itself, by suffix. Each is also the extra that it needs."""
MODULE_SUFFIXES = (".whl", ".zip")
ENVIRONMENT_MARK = "pyvenv.cfg"
"""File by which a folder is known as a Python environment. A deployment leaves the folder out."""

SECRETS_DIR_VARIABLE = "ENGINEHOUSE_SECRETS_DIR"
"""Variable of an engine's process: the folder with a file for each of its secrets."""
CONCURRENCY_VARIABLE = "ENGINE_CONCURRENCY"
"""Variable of an engine's process: the `concurrency` of its engine.yaml."""
_SET_FOR_IT = ("PORT", "HOME", "PATH", SECRETS_DIR_VARIABLE)
"""Variables that every engine gets, and cannot choose."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_left_out(name: str) -> bool:
    """Return whether a deployment leaves out files and folders of this name: what tools leave behind, and all hidden."""
    return name.startswith(".") or name == "__pycache__" or name.endswith(".pyc")


def _inside(path: str) -> str:
    normal = posixpath.normpath(path)
    if path != normal or path.startswith(("/", "..", "-")) or path == "." or "\\" in path or not path.isprintable():
        raise ValueError(f"{path[:100]!r} must be the path of a file in the engine's folder, such as models/iris.onnx")
    parts = path.split("/")
    if left_out := [part for part in parts if is_left_out(part) or part == ENVIRONMENT_MARK]:
        raise ValueError(
            f"{path[:100]!r} cannot be deployed, because a deployment leaves out {left_out[0][:100]!r}: hidden names, "
            f"__pycache__, *.pyc and {ENVIRONMENT_MARK}. Choose another name"
        )
    return path


FileInFolder = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_inside)]


def _without_zero(text: str) -> str:
    if "\0" in text:
        raise ValueError("has a zero byte, at which the text that a process gets ends: remove it")
    return text


ProcessText = Annotated[str, AfterValidator(_without_zero)]


@dataclass(frozen=True, slots=True)
class Program:
    """The process of one replica, and what its Python environment is made from."""

    command: list[str]
    """`python` means the engine's own environment."""
    env: dict[str, str] = field(default_factory=dict)
    requirements: str | None = None
    """File of Python requirements in the engine's folder."""
    wheel: str | None = None
    """Wheel in the engine's folder that is installed as well."""
    extra: str | None = None
    """Extra of the engine package that is installed with it."""

    @property
    def is_python(self) -> bool:
        """Return whether it needs a Python environment. Other programs bring what they need."""
        return self.command[0] in ("python", "python3") or self.requirements is not None


class LocalRun(StrictModel):
    """How to start the engine as a process on this machine. The engine listens on 127.0.0.1 at $PORT."""

    command: list[ProcessText] = Field(min_length=1, description="`python` means the engine's own environment.")
    requirements: str | None = Field(None, description="File of Python requirements, installed into that environment.")
    env: dict[str, ProcessText] = Field(default_factory=dict, description="Variables of its own.")

    @field_validator("command")
    @classmethod
    def _names_a_program(cls, command: list[str]) -> list[str]:
        if not command[0].strip():
            raise ValueError("must begin with a program, such as python")
        return command

    @field_validator("env")
    @classmethod
    def _own_variables(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if name in _SET_FOR_IT:
                raise ValueError(f"{name} is set for every engine, so its own value would be ignored: remove it")
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name[:60]!r} is not a variable's name: letters, digits and '_', not a digit first")
        return env

    @property
    def program(self) -> Program:
        """Return the program that the command starts."""
        return Program(self.command, self.env, self.requirements)


class CodeModule(StrictModel):
    """A wheel or zip file with a Python engine. The engine package serves the class that it holds."""

    file: FileInFolder = Field(
        description="The wheel, installed with what it requires; or a zip file, from which its modules are imported."
    )
    engine: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?$", max_length=200)] = Field(
        description="Module with the engine, or `module:Class`."
    )
    requirements: FileInFolder | None = Field(None, description="File of more Python requirements.")

    @field_validator("file")
    @classmethod
    def _suffix(cls, file: str) -> str:
        if not file.endswith(MODULE_SUFFIXES):
            raise ValueError(f"{file[-100:]!r} must be a wheel or a zip file: its name ends in .whl or .zip")
        return file

    @property
    def program(self) -> Program:
        """Return the engine package, serving the module."""
        command = ["python", "-m", "enginehouse.engine", self.engine]
        if self.file.endswith(".whl"):
            return Program(command, requirements=self.requirements, wheel=self.file)
        return Program(command, {"PYTHONPATH": self.file}, self.requirements)


class ModelFile(StrictModel):
    """A model that the engine package serves by itself: ONNX, or scikit-learn saved by skops."""

    file: FileInFolder = Field(description="The model; its suffix says of which kind it is: .onnx or .skops.")
    requirements: FileInFolder | None = Field(
        None, description="File of Python requirements, such as the scikit-learn that the model was trained with."
    )

    @field_validator("file")
    @classmethod
    def _suffix(cls, file: str) -> str:
        if posixpath.splitext(file)[1] not in MODEL_KINDS:
            raise ValueError(f"{file[-100:]!r} must be a model of ONNX or skops: its name ends in .onnx or .skops")
        return file

    @property
    def kind(self) -> ModelKind:
        """Return the kind of the model."""
        return MODEL_KINDS[posixpath.splitext(self.file)[1]]

    @property
    def program(self) -> Program:
        """Return the engine package, serving the model."""
        command = ["python", "-m", "enginehouse.engine.model_file", self.file]
        return Program(command, requirements=self.requirements, extra=self.kind)


class Artifact(StrictModel):
    """A file that deploying brings into the engine's folder, so that models need not lie beside the code."""

    # `from` is a word of Python's own.
    model_config = ConfigDict(serialize_by_alias=True)

    file: FileInFolder = Field(description="Where the engine finds it.")
    source: Annotated[str, Field(max_length=2_000, pattern=r"^[a-z][a-z0-9+.-]*://[^\s?#]+$")] = Field(
        alias="from", description="URL in an object store or on a volume: s3://, gs://, az://, https:// or file://."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="The file is used only if its content has this hash."
    )


_DIGEST = re.compile(r"(.+@)?sha256:[0-9a-f]{64}")
_PULLED_BY_DIGEST = re.compile(r"[^@]+@sha256:[0-9a-f]{64}")


def has_digest(image: str) -> bool:
    """Return whether a container image is named by its digest, or its ID, so that it cannot change under its name."""
    return _DIGEST.fullmatch(image) is not None


def can_be_pulled(image: str) -> bool:
    """Return whether an image is named by its place and its digest: an ID alone names one that is here already."""
    return _PULLED_BY_DIGEST.fullmatch(image) is not None
