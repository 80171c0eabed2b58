"""Webhooks: signed by both active secrets, pinned to a checked address, inside addresses refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.support.dapr import PORTS
from tests.support.serving import serving

from enginehouse.gateway.notify.webhook_secrets import WebhookSecrets
from enginehouse.gateway.notify.webhooks import GiveUp, WebhookRefused, Webhooks
from enginehouse.registry.tenants import rotate_webhook_secret


def notice(target: str) -> SimpleNamespace:
    return SimpleNamespace(id="msg-1", tenant="acme", target=target, body='{"type":"x"}', job_id="j", attempts=0)


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    rotate_webhook_secret(tmp_path / "secrets", "acme")
    return tmp_path / "secrets"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://[::1]:8000/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://[2002:a9fe:a9fe::1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::10.0.0.1]/",
        "http://[::7f00:1]/",
        "http://0.0.0.0/",
        "https://user:password@example.com/",
        "ftp://example.com/",
        "http://",
        "http://[bad/",
    ],
)
def test_addresses_that_could_reach_inside_are_refused_at_submit(secrets_dir: Path, url: str) -> None:
    with pytest.raises(WebhookRefused):
        Webhooks(WebhookSecrets(secrets_dir), allow_inside=False).check("acme", url)


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "[64:ff9b::808:808]", "[2002:808:808::1]"])
def test_addresses_outside_are_fine_in_every_form(secrets_dir: Path, host: str) -> None:
    Webhooks(WebhookSecrets(secrets_dir), allow_inside=False).check("acme", f"http://{host}/hook")


async def test_a_name_that_resolves_inside_is_refused_when_sending(secrets_dir: Path) -> None:
    webhooks = Webhooks(WebhookSecrets(secrets_dir), allow_inside=False)
    webhooks.check("acme", "http://localhost:9/hook")
    with pytest.raises(GiveUp, match="inside address"):
        await webhooks.send(notice("http://localhost:9/hook"))  # type: ignore[arg-type]
    await webhooks.close()


def test_a_tenant_without_a_secret_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(WebhookRefused, match="webhook-secret acme"):
        Webhooks(WebhookSecrets(tmp_path), allow_inside=False).check("acme", "https://example.com/")


async def test_both_active_secrets_sign_and_redirects_are_not_followed(secrets_dir: Path) -> None:
    received: list[tuple[dict[str, str], bytes]] = []
    answers = iter([200, 302, 410, 500])

    async def hook(request: Request) -> Response:
        received.append((dict(request.headers), await request.body()))
        return Response(status_code=next(answers), headers={"Location": "http://127.0.0.1:9/"})

    first = (secrets_dir / "acme").read_text().split()[0]
    second = rotate_webhook_secret(secrets_dir, "acme")
    webhooks = Webhooks(WebhookSecrets(secrets_dir), allow_inside=True)
    port = PORTS.take()
    url = f"http://127.0.0.1:{port}"
    with serving(Starlette(routes=[Route("/hook", hook, methods=["POST"])]), port):
        await webhooks.send(notice(f"{url}/hook"))  # type: ignore[arg-type]
        with pytest.raises(ConnectionError, match="302"):
            await webhooks.send(notice(f"{url}/hook"))  # type: ignore[arg-type]
        with pytest.raises(GiveUp, match="410"):
            await webhooks.send(notice(f"{url}/hook"))  # type: ignore[arg-type]
        with pytest.raises(ConnectionError, match="500"):
            await webhooks.send(notice(f"{url}/hook"))  # type: ignore[arg-type]
    await webhooks.close()
    headers, body = received[0]
    for secret in (first, second):
        assert Webhook(secret).verify(body, headers) == {"type": "x"}
    assert headers["webhook-id"] == "msg-1"
    assert len(received) == 4


def test_a_third_secret_ends_the_first(secrets_dir: Path) -> None:
    first = WebhookSecrets(secrets_dir).of("acme")
    for _ in range(2):
        rotate_webhook_secret(secrets_dir, "acme")
    assert len(WebhookSecrets(secrets_dir).of("acme")) == 2
    assert not set(first) & set(WebhookSecrets(secrets_dir).of("acme"))
    assert (secrets_dir / "acme").stat().st_mode & 0o077 == 0
