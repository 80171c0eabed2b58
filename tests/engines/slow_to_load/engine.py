"""Takes a while to become healthy."""

import os
import time
from typing import Any

from enginehouse.engine import Engine


class SlowToLoad(Engine):
    """Loads for $SECONDS (3)."""

    def load(self) -> None:
        time.sleep(float(os.environ.get("SECONDS", "3")))

    def predict(self, data: Any) -> Any:
        return data
