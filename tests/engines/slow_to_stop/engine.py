"""Does not stop when told to: for $SECONDS (30) after SIGTERM its process stays, though it answers nothing."""

import atexit
import os
import signal
import time
from typing import Any

from enginehouse.engine import Engine, serve


class SlowToStop(Engine):
    """Answers its input."""

    def predict(self, data: Any) -> Any:
        return data


if __name__ == "__main__":
    # uvicorn ends the process by raising the signal again once it has stopped; ignored, it comes to the atexit.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    atexit.register(time.sleep, float(os.environ.get("SECONDS", "30")))
    serve(SlowToStop)
