"""Test an engine in this process, through the same app that serves it, without a port."""

import asyncio
import json
from types import TracebackType
from typing import Any, Self

import pydantic_core

from enginehouse.engine.app import EngineApp
from enginehouse.engine.base import Engine
from enginehouse.engine.host import EngineHost


class Refused(AssertionError):
    """The engine answered with an error instead of a result. `status` and `error` hold it."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"the engine answered {status}: {body}")
        self.status = status
        self.error: dict[str, Any] = body.get("error", {}) if isinstance(body, dict) else {}


class EngineTester:
    """A loaded engine for tests.

    >>> with EngineTester(Standard) as engine:
    ...     assert engine.predict({"text": "I love it"})["label"] == "positive"
    """

    def __init__(self, engine: type[Engine]) -> None:
        self._host = EngineHost(engine)
        self._app = EngineApp(self._host)
        self._runner = asyncio.Runner()
        self.told: list[dict[str, Any]] = []
        """Events before the engine's last answer, as lines: `{"progress": {"fraction": 0.5}}`."""

    def __enter__(self) -> Self:
        self._runner.run(self._host.load())
        if not self._host.ready:
            self._runner.close()
            raise AssertionError("the engine cannot be loaded; its log says why")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._host.close()
        self._runner.close()

    def predict(self, data: Any, parameters: dict[str, Any] | None = None) -> Any:
        """Return the result for one input as plain JSON values, as a caller gets it. Raise Refused if there is none."""
        request = {"data": data} if parameters is None else {"data": data, "parameters": parameters}
        return self._ask("/predict", request)["result"]

    def predict_batch(self, data: list[Any]) -> list[dict[str, Any]]:
        """Return a `{"result"}` or an `{"error"}` for each input. Raise Refused if the batch as a whole failed."""
        results: list[dict[str, Any]] = self._ask("/predict/batch", {"data": data})["results"]
        return results

    def update(self, data: Any = None) -> Any:
        """Return the answer of `update`."""
        return self._ask("/update", data)["result"]

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return status and body for any request to the engine's app."""
        return self._runner.run(self._send(method, path, body))

    def _ask(self, path: str, body: Any) -> Any:
        status, answer = self.request("POST", path, pydantic_core.to_json(body))
        *told, content = [json.loads(line) for line in answer.splitlines()]
        self.told = told
        if status != 200:
            raise Refused(status, content)
        return content

    async def _send(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(b"host", b"engine"), (b"content-type", b"application/json")],
            "server": ("engine", 80),
            "client": ("test", 1),
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
