"""Answers its secret backwards, which shows that it has the value."""

import os
from typing import Any

from enginehouse.engine import Engine


class Secretive(Engine):
    """Shows that it has its secret."""

    def load(self) -> None:
        self.token = self.secret("MODEL_TOKEN")

    async def predict(self, data: Any) -> dict[str, Any]:
        folder = os.environ["ENGINEHOUSE_SECRETS_DIR"]
        mode = os.stat(os.path.join(folder, "MODEL_TOKEN")).st_mode & 0o777
        return {"backwards": self.token[::-1], "files": os.listdir(folder), "mode": oct(mode)}
