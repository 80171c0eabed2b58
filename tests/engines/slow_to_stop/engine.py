"""Keeps its process for $SECONDS (30) after SIGTERM, but answers nothing during that time."""

import atexit
import os
import signal
import time
from typing import Any

from enginehouse.engine import Engine, serve


class SlowToStop(Engine):
    """Answers with its input."""

    def predict(self, data: Any) -> Any:
        return data


if __name__ == "__main__":
    # After it has stopped, uvicorn raises the signal again to end the process. Ignored here, so that the atexit call
    # runs.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    atexit.register(time.sleep, float(os.environ.get("SECONDS", "30")))
    serve(SlowToStop)
