"""Sends webhooks: signed notices to addresses that tenants name, and that may aim at the platform's inside."""

import asyncio
import functools
import ipaddress
import socket
import ssl
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx2
import structlog
from standardwebhooks import Webhook

from enginehouse.contracts.errors import RequestError
from enginehouse.gateway.ledger.rows import NoticeRow
from enginehouse.gateway.notify.addresses import is_outside
from enginehouse.gateway.notify.webhook_secrets import WebhookSecrets

log = structlog.get_logger()

_TIMEOUT_SECONDS = 10.0
_GONE = 410


class WebhookRefused(RequestError):
    """The webhook cannot be used."""

    code = "WEBHOOK_REFUSED"
    advice = "Name an https address that is reachable from outside."


class GiveUp(Exception):
    """The webhook cannot be delivered, and trying again cannot help."""


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Return the certificates to trust, which all calls share, because reading them takes long."""
    return httpx2.create_ssl_context(trust_env=False)


class Webhooks:
    """Checks an address when a job names it, signs notices and sends them."""

    def __init__(self, secrets: WebhookSecrets, *, allow_inside: bool) -> None:
        self._secrets = secrets
        self._allow_inside = allow_inside

    def check(self, tenant: str, url: str) -> None:
        """Raise WebhookRefused if a job may not name this address.

        A host name is resolved, and its address checked, only when the webhook is sent.
        """
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
            httpx2.URL(url)
            (host or "").encode("idna")
        except (ValueError, httpx2.InvalidURL):
            host = None
        if not host or parts.scheme not in ("http", "https") or parts.username or parts.password:
            raise WebhookRefused("webhook: it must be http(s)://HOST/… and contain no user and no password")
        if not self._secrets.of(tenant):
            raise WebhookRefused(
                f"webhook: {tenant} has no signing secret yet; 'enginehouse tenant webhook-secret {tenant}' makes one"
            )
        if _is_address(host) and not self._may_reach(host):
            raise WebhookRefused(
                f"webhook: {host} is an inside address, and the platform sends webhooks to outside addresses only"
            )

    def _may_reach(self, address: str) -> bool:
        return self._allow_inside or is_outside(address)

    async def _resolve(self, notice: NoticeRow, host: str, port: int) -> str:
        """Return a checked address of `host`. It must be used as it is: a second look-up could give another one.

        A name that leads inside is told in the same words as one that leads nowhere, and tried again in the same way:
        otherwise tenants could ask which names the platform's inside has, and where they lead.
        """
        nowhere = ConnectionError(f"{host} has no address outside of the platform")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            raise nowhere from None
        addresses = [str(address[0]) for *_, address in found]
        inside = [address for address in addresses if not self._may_reach(address)]
        if inside or not addresses:
            log.warning(
                f"A webhook of {notice.tenant} is not sent: {host} leads inside, to {', '.join(inside)}",
                action="webhook_leads_inside",
                job_id=notice.job_id,
                tenant=notice.tenant,
            )
            raise nowhere
        return addresses[0]

    async def send(self, notice: NoticeRow) -> None:
        """Send a notice. Raise ConnectionError if trying again later may help, or GiveUp if it cannot."""
        secrets = self._secrets.of(notice.tenant)
        if not secrets:
            raise ConnectionError(f"{notice.tenant} has no signing secret")
        target = httpx2.URL(notice.target or "")
        port = target.port or (443 if target.scheme == "https" else 80)
        address = await self._resolve(notice, target.host, port)
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS), self._client() as client:
                response = await client.send(_request(client, notice, target, address, secrets), stream=True)
                await response.aclose()
        except (httpx2.HTTPError, OSError, TimeoutError) as error:
            raise ConnectionError(f"{type(error).__name__}") from None
        if response.status_code == _GONE:
            raise GiveUp("the receiver answered 410, which asks for no more webhooks")
        if not response.is_success:
            raise ConnectionError(f"the receiver answered {response.status_code}")

    @staticmethod
    def _client() -> httpx2.AsyncClient:
        """Return a client for one call. No connection, cookie or session of one tenant's call may reach another one."""
        return httpx2.AsyncClient(
            verify=_trusted(),
            timeout=_TIMEOUT_SECONDS,
            follow_redirects=False,
            trust_env=False,
            headers={"User-Agent": "enginehouse"},
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _request(
    client: httpx2.AsyncClient, notice: NoticeRow, target: httpx2.URL, address: str, secrets: list[str]
) -> httpx2.Request:
    """Build the signed request to `address`, with the target's host name in its headers."""
    moment = datetime.now(UTC)
    signature = " ".join(Webhook(secret).sign(notice.id, moment, notice.body) for secret in secrets)
    return client.build_request(
        "POST",
        target.copy_with(host=address),
        content=notice.body,
        headers={
            "Host": target.netloc.decode("ascii"),
            "Content-Type": "application/json",
            "webhook-id": notice.id,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": signature,
        },
        extensions={"sni_hostname": target.host} if target.scheme == "https" else {},
    )
