"""Sets up the logs of a process."""

import logging
import sys
from typing import Literal

import structlog


def configure_logs(level: str, *, as_json: bool, to: Literal["stdout", "stderr"] = "stdout") -> None:
    """Write one line per event: a sentence, its action and its ids, as JSON or as text for people.

    The processors are set explicitly, because structlog's default prints all local variables in tracebacks. That would
    show keys and block the event loop for seconds.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer()
            if as_json
            else structlog.dev.ConsoleRenderer(colors=getattr(sys, to).isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: structlog.PrintLogger(getattr(sys, to)),
        # Look for stderr anew each time: whoever runs a command in its own process may replace it for a while.
        cache_logger_on_first_use=to == "stdout",
    )
