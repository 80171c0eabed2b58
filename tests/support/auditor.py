"""A subscriber to the audit log, beside a running stack, as docs/audit.md says."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.support.dapr import PORTS, start_daprd
from tests.support.documents import ROOT, Document
from tests.support.serving import serving
from tests.support.stack import StackHandle

from enginehouse.broker.redis_users import READING, Grant, RedisUser, set_user
from enginehouse.contracts.names import AUDIT_TOPIC
from enginehouse.local.tenant_systems import redis_of


@contextmanager
def running_auditor(stack: StackHandle, folder: Path) -> Iterator[Path]:
    """Run a subscriber as docs/audit.md says, with a user of its own. Yield the file to which it adds entries."""
    arrived, resources, port = folder / "events.jsonl", folder / "resources", PORTS.take()
    arrived.touch()
    resources.mkdir()
    set_user(redis_of(stack.home), RedisUser("auditor", [Grant(READING, [AUDIT_TOPIC])]), ["of-a-test"])
    blocks = [block.text for block in Document.read(ROOT / "docs" / "audit.md").blocks if "kind: " in block.text]
    assert [yaml.safe_load(block)["kind"] for block in blocks] == ["Component", "Subscription"]
    for number, block in enumerate(blocks):
        text = block.replace("HOST:6379", f"127.0.0.1:{stack.processes()['redis']['port']}")
        (resources / f"{number}.yaml").write_text(text.replace("PASSWORD", "of-a-test"))

    async def take(request: Request) -> Response:
        with arrived.open("ab") as file:
            file.write(base64.b64decode((await request.json())["data_base64"]) + b"\n")
        return Response()

    app = Starlette(routes=[Route("/healthz", lambda _: Response()), Route("/audit", take, methods=["POST"])])
    with serving(app, port):
        sidecar = start_daprd("auditor", [resources], folder / "daprd.log", app_port=port)
        try:
            yield arrived
        finally:
            sidecar.stop()
