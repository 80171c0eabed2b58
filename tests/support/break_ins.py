"""The suite of break-ins: marks what a test attempts, and shows at the end what stopped it.

A test of `make isolation` says what it attempts and which layer must stop it:

    @attempt("reads another's job", layer="every id is looked up with its owner")
    def test_...(note): note("12 x 404")

It passes if the attempt fails. `note` adds the evidence of this run; without it the test's name is the evidence.
"""

import importlib
import inspect
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tests.support.abuse import weakened

from enginehouse.local import redis_server

Need = Literal["docker", "gvisor", "kubernetes", "root", "redis 7"]
"""What a machine must have for some attempts: a Docker Engine that answers, one that knows gVisor, rights of root with
which namespaces can be made, a Redis of version 7 or later, a cluster that KUBECONFIG names."""
Noted = Callable[[str], None]
ROOT = Path(__file__).resolve().parents[2]
REDIS = "Redis itself: "
"""Begins the name of each attempt that is one command to Redis."""
_DECORATOR = re.compile(r"^from tests\.support\.break_ins import .*\battempt\b", re.MULTILINE)
_ATTEMPT, _EVIDENCE = "attempt", "evidence"
_COLUMNS = 80


@dataclass(frozen=True)
class Attempt:
    """What is tried, and what must stop it."""

    name: str
    layer: str
    needs: tuple[Need, ...] = ()

    @classmethod
    def of(cls, arguments: Iterable[Any]) -> "Attempt":
        """Return the attempt that the arguments of a mark say, which between processes are lists."""
        name, layer, *needs = arguments
        return cls(name, layer, tuple(needs))


def attempt(name: str, *, layer: str, need: Need | Sequence[Need] = ()) -> pytest.MarkDecorator:
    """Mark a test, or a set of its parameters, as an attempt to break in. A test may be several attempts."""
    needs = [need] if isinstance(need, str) else need
    return pytest.mark.attempt(name, layer, *needs)


def attempts_of(marks: Iterable[pytest.Mark]) -> list[Attempt]:
    """Return the attempts among the marks, in the order in which they are written."""
    return [Attempt.of(mark.args) for mark in marks if mark.name == _ATTEMPT]


@dataclass(frozen=True)
class Listed:
    """An attempt, and the test that makes it."""

    attempt: Attempt
    path: Path
    test: str


def listed() -> list[Listed]:
    """Return every attempt of the suite. The modules are imported; nothing is run."""
    return [
        Listed(one, path, name)
        for path in sorted(ROOT.joinpath("tests").rglob("test_*.py"))
        if _DECORATOR.search(path.read_text())
        for name, marks in _marked(path)
        for one in dict.fromkeys(reversed(attempts_of(marks)))
    ]


def _marked(path: Path) -> Iterator[tuple[str, list[pytest.Mark]]]:
    """Return the tests of a module, each with its own marks and those of its parameters, the last one first."""
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    classes = [value for name, value in vars(module).items() if name.startswith("Test") and inspect.isclass(value)]
    for name, value in itertools.chain(*(vars(one).items() for one in (module, *classes))):
        marks = list(getattr(value, "pytestmark", []))
        if name.startswith("test_") and marks:
            sets = [one for mark in marks if mark.name == "parametrize" for one in mark.args[1]]
            of_sets = [getattr(mark, "mark", mark) for one in sets for mark in getattr(one, "marks", ())]
            yield name, [*of_sets[::-1], *marks]


@cache
def has(need: Need) -> bool:
    """Say whether this machine has what an attempt needs."""
    match need:
        case "docker":
            return (
                shutil.which("docker") is not None
                and not subprocess.run(["docker", "version"], capture_output=True, timeout=60, check=False).returncode
            )
        case "gvisor":
            return has("docker") and '"runsc"' in _said("docker", "info", "--format", "{{json .Runtimes}}")
        case "kubernetes":
            named = os.environ.get("KUBECONFIG", "") and shutil.which("kubectl")
            return bool(named) and "ok" in _said("kubectl", "get", "--raw=/readyz", "--request-timeout=10s")
        case "root":
            return sys.platform == "linux" and os.geteuid() == 0 and "made" in _said("unshare", "-m", "echo", "made")
        case "redis 7":
            return int(_said(str(redis_server.find_server()), "--version").partition("v=")[2].partition(".")[0]) >= 7


def _said(*command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout


@dataclass
class Suite:
    """What became of each attempt of a run."""

    outcomes: dict[Attempt, set[str]] = field(default_factory=lambda: defaultdict(set))
    evidence: dict[Attempt, str] = field(default_factory=dict)

    def add(self, report: pytest.TestReport) -> None:
        """Add what a phase of a test reports. Only a call that passed says that an attempt was stopped."""
        if report.when != "call" and report.passed:
            return
        tried = [Attempt.of(value) for name, value in report.user_properties if name == _ATTEMPT]  # type: ignore[arg-type]
        noted = [str(value) for name, value in report.user_properties if name == _EVIDENCE]
        words = report.nodeid.rpartition("::")[2].partition("[")[0].removeprefix("test_").replace("_", " ")
        for one in tried:
            self.outcomes[one].add("error" if report.failed and report.when != "call" else report.outcome)
            self.evidence[one] = "; ".join(noted) or words

    def verdict(self, tried: Attempt) -> str:
        """Return what stopped an attempt, NOT STOPPED, or why it was not tried."""
        outcomes = self.outcomes[tried]
        if "failed" in outcomes:
            return "NOT STOPPED"
        if outcomes == {"error"}:
            return "NOT TRIED"
        if "passed" in outcomes:
            return tried.layer
        lacking = [need for need in tried.needs if not has(need)]
        return f"not tried: no {' and no '.join(lacking)} here" if lacking else "NOT TRIED"

    def faults(self) -> list[Attempt]:
        """Return the attempts that succeeded, and those that were skipped though their layer exists here."""
        return [tried for tried in self.outcomes if self.verdict(tried) in ("NOT STOPPED", "NOT TRIED")]

    def table(self) -> Table:
        """Return the table of all attempts."""
        table = Table("attempt", "what stopped it", "evidence", box=box.SIMPLE, expand=True)
        faults = {*self.faults()}
        for tried in self.outcomes:
            verdict = Text(self.verdict(tried), "bold red" if tried in faults else "")
            table.add_row(Text(tried.name), verdict, Text(self.evidence[tried]))
        return table


_SUITE = pytest.StashKey[Suite]()


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Noted:
    """Note the evidence of this run: `note("12 x 404")`. It may be noted before what must hold is checked."""

    def noted(evidence: str) -> None:
        record_property(_EVIDENCE, evidence)

    return noted


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which the suite tests itself."""
    layers = [*weakened.LAYERS, *weakened.OF_CONTAINERS]
    parser.addoption("--weaken", action="append", choices=layers, default=[], help="weaken a layer: the run must fail")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known, and weaken what is to be weakened before a test module is imported."""
    if layers := config.getoption("weaken"):
        weakened.weaken(layers)
    config.addinivalue_line(
        "markers", "attempt(name, layer, *needs): the test tries to break in, and passes if that fails"
    )
    config.addinivalue_line("markers", "can_fail: the test proves that the suite of break-ins can fail")
    config.stash[_SUITE] = Suite()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let each report of a test say what it attempts, also from another process and if its setup fails."""
    marks = [*item.iter_markers(_ATTEMPT)]
    item.user_properties += [(_ATTEMPT, list(mark.args)) for mark in reversed(marks)]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where an attempt was skipped though its layer exists. Those that succeeded have failed it already."""
    if session.config.stash[_SUITE].faults() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, whatever the outcome."""
    suite = config.stash[_SUITE]
    if not suite.outcomes:
        return
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _COLUMNS)
    console.print(suite.table())
    faults = suite.faults()
    console.print(f"{len(suite.outcomes)} attempts, {len(faults)} of them not stopped or wrongly skipped")
    for tried in faults:
        console.print(f"  {suite.verdict(tried)}: {tried.name} ({tried.layer})", style="red", markup=False)


class _Collector:
    """Collects the reports of this process, or with pytest-xdist those of all its workers."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._suite.add(report)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin to collect reports."""
    session.config.pluginmanager.register(_Collector(session.config.stash[_SUITE]))
