"""What a test of an engine finds: a line for each check, with the engine's own last words where they tell the cause."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from enginehouse.authoring.alone import EngineAlone
from enginehouse.contracts.engine import EngineSpec

Verdict = Literal["ok", "note", "failed"]

_MISSING_MODULE = re.compile(r"No module named '([\w.]+)'")
_PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE|AddrInUse", re.IGNORECASE)
_NOT_JSON = re.compile(r"not JSON serializable|unsupported type.*json", re.IGNORECASE)
_NOT_WRITTEN = re.compile(
    r"read-only file system|EROFS|readonly database|permission denied: '|EACCES: permission denied, (open|mkdir)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    verdict: Verdict
    said: str
    output: str = ""
    """The engine's own last lines, if they tell the cause."""


class Over(Exception):
    """The test cannot go on: a check failed on which the others depend."""


@dataclass(slots=True)
class Report:
    """Collects findings, and shows each as it is made."""

    show: Callable[[Finding], None]
    findings: list[Finding] = field(default_factory=list)

    def add(self, check: str, verdict: Verdict, said: str, output: str = "") -> None:
        """Add what a check found."""
        finding = Finding(check, verdict, said, output)
        self.findings.append(finding)
        self.show(finding)

    def ok(self, check: str, said: str) -> None:
        """Add that all is well."""
        self.add(check, "ok", said)

    def note(self, check: str, said: str) -> None:
        """Add what the author should know, and is no mistake."""
        self.add(check, "note", said)

    def failed(self, check: str, said: str, output: str = "") -> None:
        """Add what is wrong, and what would be right."""
        self.add(check, "failed", said, output)

    @property
    def failures(self) -> int:
        """Return how many checks failed."""
        return sum(finding.verdict == "failed" for finding in self.findings)


def advice(words: str, alone: EngineAlone) -> str:
    """Return a sentence on what to do about an engine's last words, if they are those of a common mistake."""
    if missing := _MISSING_MODULE.search(words):
        return ". " + _about_module(missing[1].partition(".")[0], alone.spec)
    if _PORT_TAKEN.search(words):
        return ". Its port is taken: an engine must listen on the port in its variable PORT, not on a fixed one"
    if _NOT_JSON.search(words):
        return ". Make plain values of what JSON does not know: float(x) of a NumPy number, x.tolist() of an array"
    if unseen := alone.unseen():
        return (
            f". It does not see {unseen}, and would not see it after a deployment: put what it reads into its folder, or let "
            "`fetch` in engine.yaml bring it"
        )
    if alone.is_confined and _NOT_WRITTEN.search(words):
        return (
            ". Its folder is read-only, as after a deployment: let it write below the folder in its variable HOME, or to "
            "temporary files. Both are empty when it starts"
        )
    return ""


def _about_module(module: str, spec: EngineSpec) -> str:
    program = spec.program
    if spec.run and module in {part.partition(":")[0] for part in spec.run.command}:
        return f"run.command in engine.yaml names the module {module}, and there is no {module}.py in the folder"
    if spec.module and module == spec.module.engine.partition(":")[0].partition(".")[0]:
        return f"module.engine in engine.yaml names the module {module}, which is not in {spec.module.file}"
    part = next((name for name in ("module", "model") if getattr(spec, name)), "run")
    listed = program.requirements if program else None
    place = listed or f"a file, and name that as {part}.requirements in engine.yaml"
    return f"Add the package that has the module {module!r} to {place}"
