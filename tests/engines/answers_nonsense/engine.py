"""Answers as no engine may. Uses only the standard library, because the engine package would prevent these answers."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWERS: dict[str, tuple[int, bytes]] = {
    "not json": (200, b"<html>It works!</html>"),
    "empty": (200, b""),
    "no result": (200, b'{"answer": 1}'),
    "not an object": (200, b"[1, 2, 3]"),
    "nan": (200, b'{"result": NaN}'),
    "not utf-8": (200, b'{"result": "\xff\xfe"}'),
    "redirect": (302, b""),
    "no content": (204, b""),
    "teapot in html": (418, b"<h1>No</h1>"),
    "error in html": (500, b"<h1>Traceback</h1>"),
}


class Handler(BaseHTTPRequestHandler):
    """Answers with the entry of ANSWERS that the input's `as` names; `hang up` means no answer.

    All else gets a result.
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, b"{}" if self.path == "/healthz" else b"not an OpenAPI document")

    def do_POST(self) -> None:
        data = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))["data"]
        kind = data.get("as") if isinstance(data, dict) else None
        if kind == "hang up":
            self.close_connection = True
            return
        self.answer(*ANSWERS.get(str(kind), (200, b'{"result": "sense"}')))

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status == 302:
            self.send_header("location", "/healthz")
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class calls it that)
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
