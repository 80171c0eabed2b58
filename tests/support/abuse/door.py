"""One stack with a hostile tenant and its victim: each has a key and engines of its own, and both use a shared engine."""

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from tests.support.dapr import PORTS
from tests.support.stack import Answer, StackHandle, running_stack, until

from enginehouse.local.home import LOCAL_TENANT, Home
from enginehouse.registry.deploy import deploy_engine
from enginehouse.registry.tenants import rotate_webhook_secret

ENGINES = Path(__file__).resolve().parents[2] / "engines"
HOSTILE, VICTIM, SHARED_ENGINE, PRIVATE_ENGINE = "hostile", "victim", "obeys", "victim--private"
LEVELS = 26
"""Levels of a schema that doubles at each: checking one value takes 2^26 steps, about a second."""
PATTERN = "(a{0,200}){0,200}b"


@dataclass
class Listener:
    """A port of this machine, inside the deployment, that nobody from outside may have called."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    """The first line of each request that came."""


@dataclass
class Door:
    """The front door of a stack, as its tenants see it."""

    stack: StackHandle
    listener: Listener
    strangers: list[socket.socket] = field(default_factory=list)
    """Connections on which a request was begun and never ended."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the API."""
        parts = urlsplit(self.stack.base_url)
        return str(parts.hostname), int(parts.port or 0)

    def call(self, method: str, path: str, body: Any = None, tenant: str = HOSTILE, **headers: str) -> Answer:
        """Call the API as a tenant; `_` in the name of a header stands for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.stack.call(method, path, body, tenant=tenant, headers=sent)

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection, for many calls or for an answer that is not read whole."""
        return http.client.HTTPConnection(*self.address, timeout=30)

    def send(self, request: bytes) -> bytes:
        """Send bytes as they are, and return what came until the connection was closed or silent for two seconds."""
        with socket.create_connection(self.address, timeout=2) as connection:
            connection.sendall(request)
            received = b""
            try:
                while part := connection.recv(65_536):
                    received += part
            except (TimeoutError, ConnectionResetError):
                pass
        return received

    def key(self, tenant: str = HOSTILE) -> str:
        """Return a tenant's API key."""
        return self.stack.keys[tenant]

    def have_jobs(self, number: int) -> None:
        """Let the hostile tenant have so many jobs, which is a page of the largest listing."""
        batch = {"jobs": [{"engine": SHARED_ENGINE, "input": {}}] * number}
        last = self.call("POST", "/v1/jobs/batch", batch).body["jobs"][-1]["id"]
        until(lambda: self.call("GET", f"/v1/jobs/{last}").body["status"] == "succeeded", "the jobs have ended")

    def purge(self, engine: str = "shared--obeys") -> None:
        """Cancel all that waits for an engine, as its operator."""
        self.stack.call("POST", f"/v1/engines/{engine}/purge", tenant=LOCAL_TENANT)


def doubling_schema() -> dict[str, Any]:
    """Return a small schema that doubles at each of its levels."""
    definitions: dict[str, Any] = {"l0": {"type": "string"}}
    for level in range(1, LEVELS + 1):
        definitions[f"l{level}"] = {"allOf": [{"$ref": f"#/$defs/l{level - 1}"}] * 2}
    return {"$defs": definitions, "$ref": f"#/$defs/l{LEVELS}"}


def hostile_schemas(listener: str) -> dict[str, dict[str, Any]]:
    """Return the input schemas of the hostile tenant's engines, by the engine's name."""
    return {
        "doubling": doubling_schema(),
        "pattern": {"type": "string", "pattern": PATTERN},
        "fetching": {"$schema": f"{listener}/schema", "type": "object"},
        "refers": {"allOf": [{"$ref": f"{listener}/reference"}, {"$dynamicRef": f"{listener}/dynamic"}]},
    }


def engine_folder(folder: Path, source: str, tenant: str, name: str, env: dict[str, str] | None = None) -> Path:
    """Copy an engine for tests, for another tenant and under another name."""
    copy = folder / f"{tenant}-{name}"
    shutil.copytree(ENGINES / source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    spec = yaml.safe_load((copy / "engine.yaml").read_text())
    spec |= {"tenant": tenant, "name": name}
    if env:
        spec["run"]["env"] = env
    (copy / "engine.yaml").write_text(yaml.safe_dump(spec))
    return copy


@contextmanager
def listening() -> Iterator[Listener]:
    """Note every request that reaches a port of this machine."""
    port = PORTS.take()
    listener = Listener(f"http://127.0.0.1:{port}")
    server = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    listener.requests.append(connection.recv(4_096).decode(errors="replace").partition("\r\n")[0])
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
                except OSError:
                    listener.requests.append("a connection")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@contextmanager
def front_door(folder: Path) -> Iterator[Door]:
    """Run the stack with all its engines."""
    sources = folder / "sources"
    home = Home.at(folder / "home")
    with listening() as listener:
        for name, schema in hostile_schemas(listener.url).items():
            deploy_engine(
                home.engines, engine_folder(sources, "hostile", HOSTILE, name, {"SCHEMA": json.dumps(schema)})
            )
        usable = [
            engine_folder(sources, "obeys", "shared", SHARED_ENGINE),
            engine_folder(sources, "echo", VICTIM, "private"),
        ]
        with running_stack(home.path, usable, tenants=[HOSTILE, VICTIM]) as stack:
            rotate_webhook_secret(home.webhook_secrets, HOSTILE)
            door = Door(stack, listener)
            try:
                door.have_jobs(1_000)
                yield door
            finally:
                for connection in door.strangers:
                    connection.close()
