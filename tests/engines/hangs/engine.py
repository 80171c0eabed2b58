"""Never answers, and blocks a thread for it, as a model that is stuck does."""

import threading
from typing import Any

from enginehouse.engine import Engine


class Hangs(Engine):
    """Never answers."""

    def predict(self, data: Any) -> Any:
        threading.Event().wait()
