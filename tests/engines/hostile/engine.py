"""Shows whatever schema its environment names, and answers its input. A plain HTTP server, without our package."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SCHEMA = json.loads(os.environ["SCHEMA"])
BODY = {"application/json": {"schema": {"type": "object", "properties": {"data": SCHEMA}}}}
COMPONENTS = json.loads(os.environ.get("COMPONENTS", "{}"))
OPENAPI = {
    "openapi": "3.1.0",
    "info": {"title": "hostile", "version": "1"},
    "paths": {"/predict": {"post": {"requestBody": {"content": BODY}}}},
    "components": {"schemas": COMPONENTS},
}


class Hostile(BaseHTTPRequestHandler):
    """Serves /healthz, /openapi.json and /predict."""

    def do_GET(self) -> None:
        self._answer(OPENAPI if self.path == "/openapi.json" else {"status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer({"result": body.get("data")})

    def _answer(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


ThreadingHTTPServer((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), Hostile).serve_forever()
