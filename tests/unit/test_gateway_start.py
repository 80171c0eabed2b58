"""A gateway takes deliveries only once its ledger is open, so that its start logs no failure."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.dapr import PORTS
from tests.support.gateway import TOKEN
from tests.support.proofs import PROOF_KEY, key_of
from tests.support.waiting import until

from enginehouse.contracts.events import JOB_COMPLETED, completion_event
from enginehouse.contracts.job import Status
from enginehouse.contracts.names import new_job_id


@pytest.fixture
def port() -> Iterator[int]:
    taken = PORTS.take()
    yield taken
    PORTS.release(taken)


def deliver(port: int, path: str, body: bytes) -> int | None:
    """Deliver an event as daprd does; return the status, or None while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("POST", path, body, {"dapr-api-token": TOKEN})
        return connection.getresponse().status
    return None


@contextlib.contextmanager
def starting(folder: Path, delivery_port: int, api_port: int) -> Iterator[Path]:
    """Start a gateway without waiting for it. Give the block its log; stop the gateway at the end."""
    log = folder / "gateway.log"
    environment = {
        "PATH": os.environ["PATH"],
        "DAPR_HTTP_PORT": "1",
        "DAPR_API_TOKEN": TOKEN,
        "APP_API_TOKEN": TOKEN,
        "ENGINEHOUSE_GATEWAY_PROOF_KEY": PROOF_KEY,
        "ENGINEHOUSE_GATEWAY_PORT": str(api_port),
        "ENGINEHOUSE_GATEWAY_DELIVERY_PORT": str(delivery_port),
        "ENGINEHOUSE_GATEWAY_GRPC_PORT": "0",
        "ENGINEHOUSE_GATEWAY_LEDGER_URL": f"sqlite:///{folder / 'ledger'}",
        "ENGINEHOUSE_GATEWAY_TENANTS_DIR": str(folder),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "enginehouse.gateway"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(20)


def test_deliveries_during_the_start_log_no_error(tmp_path: Path, port: int) -> None:
    event = completion_event(key_of("acme--echo"), "acme--echo", JOB_COMPLETED, new_job_id(), Status.SUCCEEDED)
    api_port = PORTS.take()
    with starting(tmp_path, port, api_port) as log:
        assert until(lambda: deliver(port, "/completions", event), "the gateway takes deliveries") == 200
        assert deliver(port, "/dead-letters", b"no event") == 200
    PORTS.release(api_port)
    lines = log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []
    assert {line["level"] for line in map(json.loads, lines)} <= {"info", "warning"}
    assert (tmp_path / "ledger").exists()
    assert [path.name for path in tmp_path.iterdir() if path != log and path.stat().st_mode & 0o077] == []
