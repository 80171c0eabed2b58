"""Receives webhooks, and is away itself now and then."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError
from tests.support.dapr import PORTS


@dataclass
class Receiver:
    """What has arrived: how often for each job, by its id."""

    url: str = ""
    secret: str = ""
    """Of the tenant, to verify what arrives. None is verified before it is set."""
    arrived: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, set[str]] = field(default_factory=dict)
    forged: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, headers: dict[str, str], body: bytes) -> int:
        """One delivery, and what to answer. Every seventh is refused the first time, as if this were broken."""
        try:
            Webhook(self.secret).verify(body, headers)
        except WebhookVerificationError:
            self.forged += 1
            return 400
        data = json.loads(body)["data"]
        with self.lock:
            self.arrived[data["id"]] += 1
            self.statuses.setdefault(data["id"], set()).add(data["status"])
            refused = hash(data["id"]) % 7 == 0 and self.arrived[data["id"]] == 1
        return 500 if refused else 204


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver at a port of its own, until the end of the block."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:
                return  # The gateway was killed while it sent this.
            self.send_response(receiver.take({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    port = PORTS.take()
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{port}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="webhooks")
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        PORTS.release(port)
