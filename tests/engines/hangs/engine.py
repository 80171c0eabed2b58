"""Never answers, and blocks a thread, as a stuck model does."""

import threading
from typing import Any

from enginehouse.engine import Engine


class Hangs(Engine):
    """Never answers."""

    def predict(self, data: Any) -> Any:
        threading.Event().wait()
