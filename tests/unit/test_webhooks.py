"""Webhooks: signed by both active secrets, pinned to a checked address, inside addresses refused."""

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs
from tests.support.break_ins import attempt
from tests.support.dapr import PORTS
from tests.support.serving import serving

from enginehouse.gateway.notify.addresses import is_outside
from enginehouse.gateway.notify.webhook_secrets import WebhookSecrets
from enginehouse.gateway.notify.webhooks import GiveUp, WebhookRefused, Webhooks
from enginehouse.registry.tenants import rotate_webhook_secret


def notice(target: str) -> SimpleNamespace:
    return SimpleNamespace(id="msg-1", tenant="acme", target=target, body='{"type":"x"}', job_id="j", attempts=0)


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    rotate_webhook_secret(tmp_path / "secrets", "acme")
    return tmp_path / "secrets"


@attempt("submits a webhook that names an inside address", layer="addresses are checked at submit")
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


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "[64:ff9b::808:808]"])
def test_addresses_outside_are_fine_in_every_form(secrets_dir: Path, host: str) -> None:
    Webhooks(WebhookSecrets(secrets_dir), allow_inside=False).check("acme", f"http://{host}/hook")


INSIDE = """
0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255
192.0.0.1 192.0.0.170 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1 192.168.1.1 192.175.48.1 198.18.0.1 198.19.255.255
198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 ::7f00:1 ::8.8.8.8 ::ffff:10.0.0.1 ::ffff:127.0.0.1 ::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8 64:ff9b::10.0.0.1
64:ff9b::7f00:1 64:ff9b::192.0.2.1 64:ff9b:1::1 64:ff9b:1::808:808 100::1 100:0:0:1::1 2001::1 2001:0:808:808::f7f7:f7f7
2001:1::1 2001:2::1 2001:3::1 2001:4:112::1 2001:10::1 2001:20::1 2001:30::1 2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe::1
2002:808:808::1 2620:4f:8000::1 3ffe::1 3fff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0
2606:4700::1%eth0 fec0::1 feff::1 ff02::1 ff0e::1 localhost 127.1 0x7f000001
""".split()
OUTSIDE = """
1.1.1.1 8.8.8.8 100.128.0.1 172.32.0.1 192.0.1.1 192.88.98.1 198.20.0.1 223.255.255.254 168.63.129.17
::ffff:8.8.8.8 64:ff9b::808:808 2001:200::1 2001:4860:4860::8888 2003::1 2606:4700::1111 2a00:1450::1
""".split()


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_that_leads_inside(address: str) -> None:
    assert not is_outside(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_an_address_that_leads_outside(address: str) -> None:
    assert is_outside(address)


@attempt("learns by webhooks what names mean inside", layer="one answer for every refusal")
@pytest.mark.parametrize("resolved", [["10.1.2.3"], ["8.8.8.8", "fec0::17"], None])
async def test_a_tenant_does_not_learn_where_a_name_leads(
    secrets_dir: Path, monkeypatch: pytest.MonkeyPatch, resolved: list[str] | None
) -> None:
    async def look_up(host: str, port: int, **_: Any) -> list[Any]:
        if resolved is None:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in resolved]

    webhooks = Webhooks(WebhookSecrets(secrets_dir), allow_inside=False)
    webhooks.check("acme", "http://db.internal.example/hook")
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    with pytest.raises(ConnectionError) as caught, capture_logs() as logs:
        await webhooks.send(notice("http://db.internal.example/hook"))  # type: ignore[arg-type]
    assert str(caught.value) == "db.internal.example has no address outside of the platform"
    assert [log["action"] for log in logs] == (["webhook_leads_inside"] if resolved else [])
    assert all(resolved[-1] in log["event"] for log in logs if resolved)


@attempt(
    "lets a name lead outside when it is checked, and inside when it is called", layer="the checked address is called"
)
async def test_a_name_is_looked_up_once(secrets_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received, looked_up = [], []

    async def hook(request: Request) -> Response:
        received.append(request.headers["host"])
        return Response()

    async def rebinding(host: str, port: int, **_: Any) -> list[Any]:
        looked_up.append(host)
        address = "127.0.0.1" if len(looked_up) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr("enginehouse.gateway.notify.webhooks.is_outside", lambda address: address == "127.0.0.1")
    port = PORTS.take()
    with serving(Starlette(routes=[Route("/hook", hook, methods=["POST"])]), port):
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", rebinding)
        target = notice(f"http://rebinds.example:{port}/hook")
        await Webhooks(WebhookSecrets(secrets_dir), allow_inside=False).send(target)  # type: ignore[arg-type]
    assert received == [f"rebinds.example:{port}"]
    assert looked_up == ["rebinds.example"]


@attempt("leaves a cookie for others' webhooks", layer="a client for each call")
async def test_calls_share_no_cookie_and_no_connection(secrets_dir: Path) -> None:
    received: list[tuple[dict[str, str], Any]] = []

    async def hook(request: Request) -> Response:
        received.append((dict(request.headers), request.client))
        return Response(headers={"Set-Cookie": "session=of-acme; Path=/"})

    rotate_webhook_secret(secrets_dir, "umbra")
    webhooks = Webhooks(WebhookSecrets(secrets_dir), allow_inside=True)
    port = PORTS.take()
    with serving(Starlette(routes=[Route("/hook", hook, methods=["POST"])]), port):
        for tenant in ("acme", "umbra", "acme"):
            about = notice(f"http://127.0.0.1:{port}/hook")
            about.tenant = tenant
            await webhooks.send(about)  # type: ignore[arg-type]
    assert not any("cookie" in headers for headers, _ in received)
    assert len({peer for _, peer in received}) == 3


def test_a_tenant_without_a_secret_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(WebhookRefused, match="webhook-secret acme"):
        Webhooks(WebhookSecrets(tmp_path), allow_inside=False).check("acme", "https://example.com/")


@attempt("redirects a webhook inside", layer="no redirect is followed")
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
