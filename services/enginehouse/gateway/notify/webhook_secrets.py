"""The tenants' secrets for signing webhooks."""

from pathlib import Path

from enginehouse.contracts.names import check_name
from enginehouse.contracts.tenant import ACTIVE_WEBHOOK_SECRETS


class WebhookSecrets:
    """Reads a file per tenant, a secret a line, the newest first. At most two secrets are active."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def of(self, tenant: str) -> list[str]:
        """Return the active secrets. The file is read each time, so a rotation holds at once."""
        if self._folder is None:
            return []
        try:
            lines = (self._folder / check_name("tenant", tenant)).read_text().split()
        except OSError:
            return []
        return lines[:ACTIVE_WEBHOOK_SECRETS]
