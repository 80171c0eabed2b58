"""Asks the gateway, with a key of an operator that the registry makes for itself."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from enginehouse.contracts.errors import Unavailable
from enginehouse.private_files import write_private
from enginehouse.registry.tenants import add_another_key, has_key

_CALL_SECONDS = 15.0


@dataclass(slots=True)
class Gateway:
    """The gateway's API."""

    url: str
    tenants: Path
    operator: str
    """The tenant that the registry's key belongs to."""
    key_file: Path
    _http: httpx2.AsyncClient = field(
        default_factory=lambda: httpx2.AsyncClient(timeout=_CALL_SECONDS, trust_env=False)
    )

    def make_key(self) -> bool:
        """Make the registry's own key, unless there is one that works. Return whether it is new."""
        if self.key_file.exists() and has_key(self.tenants, self.operator, self._key()):
            return False
        _, key = add_another_key(self.tenants, self.operator, admin=True)
        write_private(self.key_file, key)
        return True

    def _key(self) -> str:
        return self.key_file.read_text().strip() if self.key_file.exists() else ""

    async def ask(self, path: str, params: dict[str, Any] | None = None, *, wait_seconds: int = 0) -> Any:
        """Return what GET `path` answers; None for 404. Raise Unavailable for anything else."""
        more = {"prefer": f"wait={wait_seconds}"} if wait_seconds else {}
        return await self._call("GET", path, params, more, _CALL_SECONDS + wait_seconds)

    async def tell(self, path: str, params: dict[str, Any]) -> Any:
        """Return what POST `path` answers; None for 404. Raise Unavailable for anything else."""
        return await self._call("POST", path, params, {}, _CALL_SECONDS)

    async def _call(
        self, method: str, path: str, params: dict[str, Any] | None, more: dict[str, str], seconds: float
    ) -> Any:
        headers = {"authorization": f"Bearer {self._key()}", **more}
        try:
            answer = await self._http.request(
                method, f"{self.url}{path}", params=params, headers=headers, timeout=seconds
            )
        except httpx2.HTTPError as error:
            raise Unavailable(f"the gateway does not answer: {str(error) or type(error).__name__}") from None
        if answer.status_code == httpx2.codes.NOT_FOUND:
            return None
        if answer.is_error:
            raise Unavailable(f"the gateway answers {answer.status_code} to {method} {path}")
        return answer.json()

    async def runners_problem(self, address: str, port: int) -> str | None:
        """Return why the runner at an address finds its version not fit; None if it is, or does not say."""
        host = f"[{address}]" if ":" in address else address
        try:
            answer = await self._http.get(f"http://{host}:{port}/healthz/fit", timeout=5)
        except httpx2.HTTPError:
            return None
        return answer.text if answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE else None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
