"""What the keepers of engines and tenants share."""

from dataclasses import dataclass
from pathlib import Path

from enginehouse.audit.log import AuditLog
from enginehouse.background import Background
from enginehouse.broker.users import BrokerUsers
from enginehouse.registry.bundle import InvalidBundle
from enginehouse.registry.deployer.bring import Bringing
from enginehouse.registry.deployer.credentials import Credentials
from enginehouse.registry.deployer.gateway import Gateway
from enginehouse.registry.kubernetes.settings import ClusterSettings, Placement
from enginehouse.supply.decide import Supply
from enginehouse.yaml_files import InvalidFile, read_yaml

PLACEMENT_FILE = "placement.yaml"
"""In a tenant's bundle, if an operator has put it there: where its engines run, and how much they may use."""


@dataclass(frozen=True, slots=True)
class Context:
    """A registry's deployer."""

    engines: Path
    """Folder of engines' bundles."""
    tenants: Path
    """Folder of tenants' bundles."""
    webhook_secrets: Path
    settings: ClusterSettings
    bringing: Bringing
    users: BrokerUsers
    credentials: Credentials
    gateway: Gateway
    supply: Supply
    """What the operator allows to run."""
    audit: AuditLog
    background: Background

    def settings_of(self, tenant: str) -> ClusterSettings:
        """Return the cluster with a tenant's place in it. Raise InvalidBundle if the file that says so is wrong."""
        path = self.tenants / tenant / PLACEMENT_FILE
        if not path.is_file():
            return self.settings
        try:
            placement = read_yaml(Placement, path)
        except InvalidFile as error:
            raise InvalidBundle(str(error)) from None
        return self.settings.model_copy(update={"placement": placement})


def read_cluster_settings(path: Path | None) -> ClusterSettings:
    """Return the settings in a file; the usual ones without it. Raise InvalidBundle that says what is wrong with it."""
    try:
        return read_yaml(ClusterSettings, path) if path else ClusterSettings()
    except InvalidFile as error:
        raise InvalidBundle(str(error)) from None
