"""What holds for every test: it ends on Ctrl-C, what it prints can be reported, and no property fails by a slow machine.

A shell's background job ignores Ctrl-C, and so would each process that a test starts.
"""

import functools
import signal
from collections.abc import Generator

import pytest
import structlog
import typer.main
import typer.testing
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.break_ins"]

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

signal.signal(signal.SIGINT, signal.default_int_handler)

# Typer makes all commands anew for each one that a test runs in this process, which takes longer than most of them.
typer.testing._get_command = functools.cache(typer.main.get_command)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def logs_as_before() -> Generator[None]:
    """Take back how a command that ran in this process has set up its logs."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Replace lone surrogates in what a test printed: pytest-xdist cannot send them, and its run would end."""
    report = yield
    report.sections = [(title, text.encode(errors="replace").decode()) for title, text in report.sections]
    return report
