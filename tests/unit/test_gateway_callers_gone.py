"""A caller that goes away in the middle of its request is not logged as a failure of the gateway."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from structlog.testing import capture_logs

from enginehouse.gateway.app import create_app
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.registry.tenants import add_key
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    settings = GatewaySettings(
        ledger_url=SecretStr(f"sqlite:///{tmp_path / 'ledger.sqlite'}"),
        tenants_dir=tmp_path / "tenants",
        dapr_api_token=SecretStr("a" * 32),
        app_api_token=SecretStr("b" * 32),
        proof_key=SecretStr("c" * 32),
    )
    return create_app(settings, FakeSidecar(FakeDapr()))


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/engines/standard/jobs", "/v1/engines/Standard/jobs", "/v1/uploads"])
async def test_a_caller_who_goes_away_is_not_logged_as_a_failure(app: FastAPI, tmp_path: Path, path: str) -> None:
    key = add_key(tmp_path / "tenants", "acme")
    app.state.gateway.tenants.load()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    with capture_logs() as logs:
        await app(scope | {"headers": headers, "root_path": "", "scheme": "http"}, receive, send)
    assert logs == []
    assert [message["status"] for message in sent if message["type"] == "http.response.start"] in ([], [499])
