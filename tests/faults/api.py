"""The API as a patient client of several gateways uses it: a failed call is repeated at the next gateway."""

import http.client
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

AWAY = (503, 429, 409)
"""What a gateway may answer while something is broken: come back later."""


class Away(Exception):
    """Nobody answered, or asked to come back later."""


@dataclass
class Api:
    """Calls of one tenant, in turn to each of `urls`."""

    urls: list[str]
    key: str
    unexpected: Counter[str] = field(default_factory=Counter)
    """Answers that no fault excuses."""
    _turn: Any = field(default_factory=itertools.count)

    def call(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, url: str | None = None
    ) -> tuple[int, Any]:
        """Status and JSON; Away if it should be tried again."""
        base = url or self.urls[next(self._turn) % len(self.urls)]
        data = json.dumps(body).encode() if body is not None else None
        sent = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **(headers or {})}
        try:
            with urlopen(Request(base + path, data, sent, method=method), timeout=15) as answer:
                return answer.status, json.loads(answer.read())
        except HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            if error.code in AWAY:
                raise Away(f"{error.code} {text[:200]}") from None
            if error.code >= 500:
                self.unexpected[f"{method} {path.partition('?')[0][:40]}: {error.code} {text[:300]}"] += 1
                raise Away(f"{error.code} {text[:200]}") from None
            return error.code, json.loads(text)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Away(f"{type(error).__name__}: {error}") from None
