"""Reads the secrets with which tenants' webhooks are signed."""

from pathlib import Path

from enginehouse.contracts.names import check_name
from enginehouse.contracts.tenant import ACTIVE_WEBHOOK_SECRETS


class WebhookSecrets:
    """Reads one file for each tenant: one secret on each line, the newest first. At most two secrets are active."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def of(self, tenant: str) -> list[str]:
        """Return the active secrets. The file is read each time, so a rotation takes effect at once."""
        if self._folder is None:
            return []
        try:
            lines = (self._folder / check_name("tenant", tenant)).read_text().split()
        except OSError:
            return []
        return lines[:ACTIVE_WEBHOOK_SECRETS]
