"""Sends webhooks: signed notices to addresses that tenants name, and that may aim at the platform's inside."""

import asyncio
import ipaddress
import socket
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx2
from standardwebhooks import Webhook

from enginehouse.contracts.errors import RequestError
from enginehouse.gateway.ledger.rows import NoticeRow
from enginehouse.gateway.notify.webhook_secrets import WebhookSecrets

_TIMEOUT_SECONDS = 10.0
_GONE = 410
_HOLDS_IPV4 = (ipaddress.IPv6Network("::/96"), ipaddress.IPv6Network("64:ff9b::/96"))
"""Networks whose IPv6 addresses end in the IPv4 address to which they lead: IPv4-compatible and NAT64 addresses."""


class WebhookRefused(RequestError):
    """The webhook cannot be used."""

    code = "WEBHOOK_REFUSED"
    advice = "Name an https address that is reachable from outside."


class GiveUp(Exception):
    """The webhook cannot be delivered, and trying again cannot help."""


def _destination(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address to which packets go: for an IPv6 address that maps or tunnels to IPv4, the IPv4 address."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if any(ip in network for network in _HOLDS_IPV4):
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


class Webhooks:
    """Checks an address when a job names it, signs notices and sends them."""

    def __init__(self, secrets: WebhookSecrets, *, allow_inside: bool) -> None:
        self._secrets = secrets
        self._allow_inside = allow_inside
        self._client = httpx2.AsyncClient(
            timeout=_TIMEOUT_SECONDS, follow_redirects=False, trust_env=False, headers={"User-Agent": "enginehouse"}
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

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
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return
        self._check_address(str(address))

    def _check_address(self, address: str) -> None:
        ip = _destination(address)
        if not self._allow_inside and (not ip.is_global or ip.is_multicast):
            raise WebhookRefused(
                f"webhook: {address} is an inside address, and the platform sends webhooks to outside addresses only"
            )

    async def _resolve(self, host: str, port: int) -> str:
        """Return a checked address of `host`. It must be used as it is: a second look-up could give another one."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            raise ConnectionError(f"{host} cannot be resolved") from None
        for *_, address in found:
            self._check_address(str(address[0]))
        return str(found[0][4][0])

    async def send(self, notice: NoticeRow) -> None:
        """Send a notice. Raise ConnectionError if trying again later may help, or GiveUp if it cannot."""
        secrets = self._secrets.of(notice.tenant)
        if not secrets:
            raise ConnectionError(f"{notice.tenant} has no signing secret")
        target = httpx2.URL(notice.target or "")
        port = target.port or (443 if target.scheme == "https" else 80)
        try:
            address = await self._resolve(target.host, port)
        except WebhookRefused as error:
            raise GiveUp(str(error)) from None
        request = self._request(notice, target, address, secrets)
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                response = await self._client.send(request, stream=True)
                await response.aclose()
        except (httpx2.HTTPError, OSError, TimeoutError) as error:
            raise ConnectionError(f"{type(error).__name__}") from None
        if response.status_code == _GONE:
            raise GiveUp("the receiver answered 410, which asks for no more webhooks")
        if not response.is_success:
            raise ConnectionError(f"the receiver answered {response.status_code}")

    def _request(self, notice: NoticeRow, target: httpx2.URL, address: str, secrets: list[str]) -> httpx2.Request:
        """Build the signed request to `address`, with the target's host name in its headers."""
        moment = datetime.now(UTC)
        signature = " ".join(Webhook(secret).sign(notice.id, moment, notice.body) for secret in secrets)
        return self._client.build_request(
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
